"""What exporters of Hugging Face checkpoints share: module names, fused layers, tensors, files."""
