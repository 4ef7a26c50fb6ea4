"""Configurations for torchao's ``quantize_``."""
