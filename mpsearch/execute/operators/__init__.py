"""One torch kernel for each ONNX operator, split by kind; ``table`` finds them."""
