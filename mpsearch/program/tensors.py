"""numpy arrays and torch tensors, each way, for every element type of ONNX.

torch computes in fewer types than ONNX has. A type without arithmetic in torch is carried by a wider
one that holds its values exactly: uint16 by int32, uint32 and uint64 by int64, 4-bit and 2-bit
integers by 8-bit ones, 4-bit, 6-bit and e8m0 floats by fp32.
"""

import warnings

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.errors import ModelError

_CARRIERS: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
    "uint64": torch.int64,
    "int4": torch.int8,
    "int2": torch.int8,
    "uint4": torch.uint8,
    "uint2": torch.uint8,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "float8_e8m0fnu": torch.float32,
    "float4_e2m1fn": torch.float32,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}
_BIT_VIEWS = {
    torch.bfloat16: (torch.int16, np.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, np.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e4m3fnuz: (torch.uint8, np.uint8, ml_dtypes.float8_e4m3fnuz),
    torch.float8_e5m2: (torch.uint8, np.uint8, ml_dtypes.float8_e5m2),
    torch.float8_e5m2fnuz: (torch.uint8, np.uint8, ml_dtypes.float8_e5m2fnuz),
}
# TensorProto.DataType of the ONNX standard, by number.
ELEMENT_TYPES: dict[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
}


def carrier(dtype: str) -> torch.dtype:
    """Return the torch type that carries values of numpy's ``dtype``.

    Raises:
        ModelError: The type is no number that torch can hold (strings).
    """
    try:
        return _CARRIERS[dtype]
    except KeyError:
        raise ModelError(
            f"element type must be a number, one of {', '.join(_CARRIERS)}; got {dtype}"
        ) from None


def to_tensor(array: NDArray[np.generic], device: torch.device | str = "cpu") -> Tensor:
    """Return ``array`` as a tensor that shares its memory where the types allow it.

    Nothing writes to the result: memory-mapped and read-only arrays stay as they are.
    """
    array = np.asarray(array)
    dtype = carrier(array.dtype.name)
    if dtype in _BIT_VIEWS:
        _integer, bits, _ = _BIT_VIEWS[dtype]
        return _share(array.view(bits)).view(dtype).to(device)
    wide = torch.empty(0, dtype=dtype).numpy().dtype
    return _share(array.astype(wide, copy=False)).to(device)


def _share(array: NDArray[np.generic]) -> Tensor:
    if any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)


def to_array(tensor: Tensor, dtype: str | None = None) -> NDArray[np.generic]:
    """Return ``tensor`` as an array of numpy's ``dtype`` (None: the carrier's own)."""
    tensor = tensor.detach().cpu()
    if tensor.dtype in _BIT_VIEWS:
        integer, _, name = _BIT_VIEWS[tensor.dtype]
        array = tensor.contiguous().view(integer).numpy().view(name)
    else:
        array = tensor.numpy()
    return array if dtype is None else array.astype(np.dtype(dtype), copy=False)
