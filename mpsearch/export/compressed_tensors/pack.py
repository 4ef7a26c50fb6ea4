"""Weights and activation scales as compressed-tensors packs them, named as parameters of their module."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mpsearch.export.compressed_tensors.layouts import Stored
from mpsearch.formats import find_format
from mpsearch.numerics.packing import encode, pack_bits, pack_int32
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range

_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def pack_weight(weight: QuantizedTensor, stored: Stored) -> dict[str, Tensor]:
    """Return the parameters that hold ``weight`` [out, in]; elements that sparsity dropped are zeros among them."""
    codes, spec = weight.codes.flatten(1), weight.spec
    assert weight.scales is not None  # casts are not packed
    scales = weight.scales[:, 0, :]
    if stored.format == "nvfp4-pack-quantized":
        return {
            "weight_packed": pack_bits(encode(codes, spec.element), 4),
            "weight_scale": scales.to(torch.float8_e4m3fn).contiguous(),
            "weight_global_scale": reciprocal(weight.tensor_scale),
        }
    typed = scales.to(_TYPES[str(spec.scale_format)]).contiguous()
    if spec.granularity == "tensor":
        typed = typed.reshape(1)
    if stored.format == "float-quantized":
        return {"weight": codes.to(torch.float8_e4m3fn).contiguous(), "weight_scale": typed}
    if stored.format == "int-quantized":
        return {"weight": codes.to(torch.int8).contiguous(), "weight_scale": typed}
    return {
        "weight_packed": pack_int32(encode(codes, find_format(spec.format)), spec.element.bits),
        "weight_scale": typed,
        "weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
    }


def pack_input(stored: Stored, found: Range | None) -> Mapping[str, Tensor]:
    """Return the parameters that hold the calibrated scale of a layer's activations; {} where there is none."""
    if stored.inputs is None or found is None:
        return {}
    if stored.inputs["dynamic"] == "local":
        return {"input_global_scale": reciprocal(found.scale)}
    if stored.inputs["dynamic"]:
        return {}
    return {"input_scale": torch.tensor([found.scale or 1.0], dtype=torch.float32)}


def reciprocal(scale: float) -> Tensor:
    """Return compressed-tensors' global scale, fp32 [1]: what divides where nvfp4's tensor scale multiplies."""
    return 1 / torch.tensor([scale or 1.0], dtype=torch.float32)
