"""Checkpoints in compressed-tensors' format, which vLLM and transformers load."""
