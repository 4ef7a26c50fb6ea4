"""Plans as onnxruntime takes them: int8 on integer kernels, other formats emulated."""
