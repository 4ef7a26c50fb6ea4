"""The rounding that a runtime documents, applied to an activation before the simulation rounds it again.

A runtime that takes fp32 to fp8 through fp16 rounds some ties the other way. Rounding is idempotent: what is
fed already rounded to the simulation comes out unchanged, so the rest of the layer is compared as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpsearch.formats import find_format
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.layout import find_layout
from mpsearch.numerics.range import Range
from mpsearch.numerics.scales import choose_steps, tensor_scale
from mpsearch.numerics.tiles import cut_tiles, join_tiles
from mpsearch.schemes import Spec

_FP8 = ("e4m3", "e5m2")


@dataclass(frozen=True, slots=True)
class Rounding:
    """What a runtime documents about its rounding.

    Attributes:
        through_half: fp32 goes to fp8 through fp16.
        left_out: 16-bit formats whose casts there and back are left out: such layers compute in fp32.
        byte_codes: Value → lowest and highest code of those whose static int8 codes use their whole byte.
        biases: Convolution → its bias in whole units of its integer products, as fp32.
    """

    through_half: bool = False
    left_out: frozenset[str] = frozenset()
    byte_codes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    biases: Mapping[str, Tensor] = field(default_factory=dict)


EXACT = Rounding()


def round_through_half(
    x: Tensor, spec: Spec, found: Range | None, *, reduction_axis: int, groups: int = 1
) -> Tensor:
    """Return ``x`` in ``spec`` as a runtime has it that takes fp32 to fp8 through fp16.

    Args:
        x: fp32 activation.
        spec: Activation spec; those without fp8 elements or scales give ``x`` itself.
        found: Calibrated range of static specs.
        reduction_axis: Axis along which blocks run.
        groups: Convolution groups that the axis spans.
    """
    if spec.is_cast or not (spec.format in _FP8 or spec.scale_format in _FP8):
        return x
    static = found if spec.range == "static" else None
    if spec.granularity == "tensor":
        step = torch.tensor(static.scale) if static else choose_steps(x.abs().max(), spec)
        return _quantize(x, step, spec)
    layout = find_layout(
        tuple(x.shape),
        reduction_axis=reduction_axis,
        groups=groups if spec.block_shape is not None else 1,
    )
    rows = layout.to_rows(x)
    tiles = cut_tiles(rows, spec)
    amax = tiles.abs().amax((1, 4), keepdim=True)
    if spec.tensor_scale:
        g = static.scale if static else tensor_scale(float(x.abs().max()), spec)
        unit = torch.tensor(spec.element.max_value) * torch.tensor(g)
        stored = find_format(str(spec.scale_format))
        ratio = torch.where(amax == 0, 0.0, amax / unit).clamp(max=stored.max_value)
        steps = round_elements(ratio.half().float(), stored) * torch.tensor(g)
    else:
        steps = choose_steps(amax, spec)
    shape = (rows.shape[0], rows.shape[1], rows.shape[2])
    return layout.from_rows(join_tiles(_quantize(tiles, steps, spec), shape))


def _quantize(x: Tensor, steps: Tensor, spec: Spec) -> Tensor:
    units = x / torch.where(steps == 0, torch.inf, steps)
    if spec.format in _FP8:
        limit = spec.element.max_value
        units = units.clamp(-limit, limit).half().float()
    return round_elements(units, spec.element) * steps
