"""Rounding, block scales, ranges, sparsity and packing: torch tensors in and out."""
