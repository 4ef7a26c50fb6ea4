"""The ONNX graph as a differentiable fp32 torch program."""
