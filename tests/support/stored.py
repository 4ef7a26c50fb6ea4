"""Bytes that tensors of an ONNX file take, read from the file alone."""

from math import ceil, prod

import onnx

BITS = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.FLOAT8E4M3FN: 8,
    onnx.TensorProto.FLOAT8E5M2: 8,
    onnx.TensorProto.FLOAT8E8M0: 8,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.INT32: 32,
}


def stored_size(tensor: onnx.TensorProto) -> int:
    """Return the bytes of one tensor."""
    return ceil(BITS[tensor.data_type] * prod(tensor.dims) / 8)
