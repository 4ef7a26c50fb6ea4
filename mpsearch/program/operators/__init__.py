"""ONNX operators as torch functions."""
