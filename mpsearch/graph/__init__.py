"""ONNX to ModelGraph: layers with GEMM sizes, edges, groups, coverage."""
