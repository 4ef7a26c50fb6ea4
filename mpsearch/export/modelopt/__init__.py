"""Checkpoints in ModelOpt's format, which TensorRT-LLM and vLLM load."""
