"""A quantised weight as arrays of a plan's file, and back, every code and every scale of it."""

from collections.abc import Mapping
from math import ceil, prod

import numpy as np
import torch
from torch import Tensor

from mpsearch.errors import PlanError
from mpsearch.formats import Format, find_format
from mpsearch.numerics.layout import Layout
from mpsearch.numerics.packing import decode, encode
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.weights import Array, Expected
from mpsearch.program.tensors import to_tensor
from mpsearch.schemes import Spec, parse_sparsity

_WIDE = {"fp16": "float16", "bf16": "uint16"}
"""numpy's type of elements of 16 bits; bf16 as the upper half of fp32."""


def part_types(spec: Spec, sparsity: str | None, layout: Layout) -> dict[str, Expected]:
    """Return part to shape and type of a weight that is stored in ``spec``."""
    R, P, C = layout.rows, layout.positions, layout.channels
    parts = {"codes": Expected((R, P, C), _type_of(spec.element))}
    if not spec.is_cast:
        tiles = _tiles(spec, layout)
        parts["scales"] = Expected(tiles, _type_of(find_format(str(spec.scale_format))))
        if not spec.symmetric:
            parts["zeros"] = Expected(tiles, _type_of(spec.element))
    if spec.tensor_scale:
        parts["tensor_scale"] = Expected((), "float32")
    if sparsity is not None:
        parts["mask"] = Expected((ceil(R * P * C / 8),), "uint8")
    return parts


def to_parts(weight: QuantizedTensor) -> dict[str, Array]:
    """Return part to array of ``weight``: see :func:`part_types`.

    Raises:
        SchemeError: A code or scale is none of its format's.
    """
    spec = weight.spec
    parts = {"codes": _store(weight.codes, spec.element)}
    if weight.scales is not None:
        parts["scales"] = _store(weight.scales, find_format(str(spec.scale_format)))
    if weight.zeros is not None:
        parts["zeros"] = _store(weight.zeros, spec.element)
    if spec.tensor_scale:
        parts["tensor_scale"] = np.array(weight.tensor_scale, np.float32)
    if weight.mask is not None:
        parts["mask"] = np.packbits(weight.mask.cpu().numpy())
    return parts


def from_parts(
    parts: Mapping[str, Array], spec: Spec, sparsity: str | None, layout: Layout, name: str
) -> QuantizedTensor:
    """Return the weight that ``parts``, of the shapes and types of :func:`part_types`, stand for.

    Raises:
        PlanError: A part is missing, or does not hold what its format can.
    """
    missing = part_types(spec, sparsity, layout).keys() - parts.keys()
    if missing:
        raise PlanError(f"{name}: a stored weight must be whole, but lacks {min(missing)}")
    codes = _load(parts["codes"], spec.element, f"{name}: codes")
    least = -spec.element.max_value - (0 if spec.symmetric else 1)
    if bool((codes < least).any()):
        raise PlanError(f"{name}: codes must be at least {least:g}, got {float(codes.min()):g}")
    scales = zeros = mask = None
    if "scales" in parts:
        scales = _load(parts["scales"], find_format(str(spec.scale_format)), f"{name}: scales")
        if bool((scales < 0).any()):
            raise PlanError(f"{name}: scales must be at least 0, got {float(scales.min()):g}")
    if "zeros" in parts:
        zeros = _load(parts["zeros"], spec.element, f"{name}: zeros")
    if sparsity is not None:
        mask = _load_mask(parts["mask"], sparsity, layout, name)
        if bool((codes[~mask] != 0).any()):
            raise PlanError(f"{name}: codes must be 0 where the mask prunes them")
    g = float(parts["tensor_scale"]) if spec.tensor_scale else 1.0
    if g < 0:
        raise PlanError(f"{name}: the tensor scale must be at least 0, got {g:g}")
    return QuantizedTensor(spec, layout, codes, scales, zeros, g, sparsity, mask)


def _tiles(spec: Spec, layout: Layout) -> tuple[int, int, int]:
    if spec.block_shape is None:
        return (1 if spec.granularity == "tensor" else layout.rows), 1, 1
    tall, wide = min(spec.block_shape[0], layout.rows), min(spec.block_shape[1], layout.channels)
    return ceil(layout.rows / tall), layout.positions, ceil(layout.channels / wide)


def _type_of(format: Format) -> str:
    return "uint8" if format.bits <= 8 else _WIDE.get(format.name, "float32")


def _store(x: Tensor, format: Format) -> Array:
    x = x.detach().cpu()
    if format.bits <= 8:
        return encode(x, format).numpy()
    array: Array = x.numpy()
    if format.name == "bf16":
        return (array.view(np.uint32) >> 16).astype(np.uint16)
    return array.astype(_type_of(format))


def _load(array: Array, format: Format, name: str) -> Tensor:
    if format.bits > 8:
        if format.name == "bf16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        values = to_tensor(array.astype(np.float32))
    else:
        top = 2**format.bits - 1
        if array.size and array.max() > top:
            raise PlanError(f"{name} must be at most {top} for {format.name}, got {array.max()}")
        values = decode(to_tensor(array), format)
    if not bool(values.isfinite().all()):
        raise PlanError(f"{name} must be finite, but some are NaN or Inf")
    return values


def _load_mask(packed: Array, sparsity: str, layout: Layout, name: str) -> Tensor:
    shape = layout.rows, layout.positions, layout.channels
    mask = torch.from_numpy(np.unpackbits(packed, count=prod(shape)).astype(np.bool_))
    pattern = parse_sparsity(sparsity)
    units = mask.reshape(-1, pattern.group // pattern.unit, pattern.unit)
    whole = (units == units[..., :1]).all()
    if not bool(whole and (units.sum((1, 2)) == pattern.kept).all()):
        raise PlanError(f"{name}: the mask must keep {sparsity} of every group")
    return mask.reshape(shape)
