"""The canonical ONNX export: quantised weights and activations in standard operators."""
