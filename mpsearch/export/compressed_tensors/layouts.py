"""What compressed-tensors calls a scheme: how a layer is stored, and the arguments that say so.

Source: compressed-tensors 0.20.1, ``quantization/quant_args.py`` and ``compressors/``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpsearch.schemes import Scheme, Spec

TAKES = (
    "fp8, fp8_tensor, fp8_dynamic, fp8_block, int8, int8_dynamic, w4a16, w8a16, nvfp4, nvfp4a16 and the like, dense or "
    "with the zeros of a sparse one, and plain fp32, bf16, fp16"
)
_E4M3 = "torch.float8_e4m3fn"


@dataclass(frozen=True, slots=True)
class Stored:
    """A scheme in compressed-tensors' words.

    Attributes:
        format: Name of the packing: ``nvfp4-pack-quantized``, ``float-quantized``, …
        weights: Arguments of the weights.
        inputs: Arguments of the activations; None: they are not quantised.
    """

    format: str
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None


def find_stored(scheme: Scheme) -> Stored | None:
    """Return how compressed-tensors stores ``scheme``; None where it cannot."""
    weight, activation = scheme.weight, scheme.activation
    if not weight.symmetric or not activation.symmetric or not activation.subnormals:
        return None
    found = _weights(weight)
    if found is None:
        return None
    packing, arguments = found
    if activation.is_cast:
        if packing == "int-quantized":
            packing = "pack-quantized"
        return Stored(packing, arguments, None)
    inputs = _inputs(activation) if packing != "pack-quantized" else None
    if inputs is None or activation.format != weight.format:
        return None
    return Stored(packing, arguments, inputs)


def _weights(spec: Spec) -> tuple[str, dict[str, Any]] | None:
    if _is_nvfp4(spec):
        return "nvfp4-pack-quantized", _arguments(
            4, "float", "tensor_group", group_size=16, scale_dtype=_E4M3, zp_dtype=_E4M3
        )
    if spec.format == "e4m3" and spec.scale_format == "fp32":
        if spec.granularity in ("tensor", "channel"):
            return "float-quantized", _arguments(8, "float", spec.granularity)
        if spec.granularity == "block" and spec.block_shape is not None:
            shape = list(spec.block_shape)
            return "float-quantized", _arguments(8, "float", "block", block_structure=shape)
    if spec.format == "int8" and spec.granularity in ("tensor", "channel"):
        return ("int-quantized", _arguments(8, "int", spec.granularity)) if _plain(spec) else None
    if spec.format in ("int4", "int8") and _plain(spec):
        bits = spec.element.bits
        if spec.granularity == "channel":
            return "pack-quantized", _arguments(bits, "int", "channel")
        if (
            spec.granularity == "group"
            and spec.block_shape is not None
            and spec.block_shape[0] == 1
        ):
            return "pack-quantized", _arguments(
                bits, "int", "group", group_size=spec.block_shape[1]
            )
    return None


def _inputs(spec: Spec) -> dict[str, Any] | None:
    if _is_nvfp4(spec):
        if spec.range != "static" or spec.block_scale != "amax":
            return None
        return _arguments(
            4, "float", "tensor_group", "local", group_size=16, scale_dtype=_E4M3, zp_dtype=_E4M3
        )
    if spec.format not in ("e4m3", "int8") or spec.scale_format != "fp32":
        return None
    kind = "float" if spec.format == "e4m3" else "int"
    if spec.granularity == "tensor" and spec.range == "static":
        return _arguments(8, kind, "tensor")
    if spec.estimator != "amax":
        return None
    if spec.granularity == "token" and spec.range == "dynamic":
        return _arguments(8, kind, "token", True)
    shape = spec.block_shape
    if spec.granularity == "block" and shape is not None and shape[0] == 1:
        if spec.format != "e4m3" or spec.range != "dynamic":
            return None
        return _arguments(8, kind, "group", True, group_size=shape[1])
    return None


def _is_nvfp4(spec: Spec) -> bool:
    return spec.format == "e2m1" and spec.tensor_scale and spec.block_shape == (1, 16)


def _plain(spec: Spec) -> bool:
    """Whether scales are floats that a checkpoint can hold."""
    return spec.scale_format in ("fp32", "fp16", "bf16")


def _arguments(
    bits: int, kind: str, strategy: str, dynamic: bool | str = False, **more: Any
) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": kind,
        "symmetric": True,
        "strategy": strategy,
        "group_size": more.pop("group_size", None),
        "dynamic": dynamic,
        **more,
    }
