"""Plans as TensorRT builds them: strongly typed ONNX and the command that makes an engine of it."""
