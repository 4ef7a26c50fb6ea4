"""The ONNX graph as a differentiable torch program, and the simulator of schemes in it."""
