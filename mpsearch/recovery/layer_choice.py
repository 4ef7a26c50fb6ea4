"""What a layer's weight and bias become, judged on data that did not make them."""

from dataclasses import dataclass, replace
from sys import float_info
from typing import Literal

import torch
from torch import Tensor

from mpsearch.graph.model import Operand
from mpsearch.numerics.layout import Layout
from mpsearch.numerics.quantize import quantize_weight
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.recovery.gptq import DAMPING, round_in_gram
from mpsearch.recovery.moments import Moments
from mpsearch.recovery.obs import recover
from mpsearch.recovery.sweep import damp

_RIDGES = (1e-3, 1e-1)
"""Damping of targets that are tried, as fractions of the mean diagonal of H."""


Rounding = Literal["gptq", "obs"]
"""``gptq`` selects and rounds; ``obs`` selects, makes up for what is pruned, and is rounded plainly."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a layer is recovered.

    Attributes:
        rounding: What rounds its weight in the Gram matrix; None: plainly.
        step: How far the target goes from the model's own weight (0) to the one whose output on the plan's inputs is
            nearest to the fp32 model's (1).
        ridge: Damping of that target.
        bias: Whether a bias makes up for the mean error.
    """

    rounding: Rounding | None = None
    step: float = 0.0
    ridge: float = 0.0
    bias: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a layer becomes.

    Attributes:
        choice: How.
        weight: What is stored; None: what its scheme makes of the model's own.
        bias: fp32 [N]; None without.
        before: Squared error of the output on the data that judge, relative to the fp32 model's, as the plan was.
        after: The same of what was found.
    """

    choice: Choice
    weight: QuantizedTensor | None
    bias: Tensor | None
    before: float = 0.0
    after: float = 0.0

    @property
    def changed(self) -> bool:
        """Whether anything was."""
        return self.weight is not None or self.bias is not None


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A layer's product with a weight.

    Attributes:
        weight: The fp32 weight as the node reads it.
        plain: What the plan so far stores.
        operand: Where its reduction runs.
        takes_bias: Whether a bias may be added to the output.
        name: What errors call it.
    """

    weight: Tensor
    plain: QuantizedTensor
    operand: Operand
    takes_bias: bool
    name: str

    def rows(self, weight: Tensor, groups: int) -> Tensor:
        """Return a weight as fp64 rows [G, R / G, K]."""
        layout: Layout = self.plain.layout
        K = layout.positions * layout.channels
        return layout.to_rows(weight.float()).reshape(groups, -1, K).double()


def choose_layer(
    product: Product, made: Moments, judge: Moments, *, rounding: Rounding | None, bias: bool
) -> Found:
    """Return what makes the layer's output on ``judge`` nearest to the fp32 model's.

    Args:
        product: The layer.
        made: Of the data that recover.
        judge: Of others.
        rounding: What may change its weight.
        bias: Whether its bias may.
    """
    groups = len(made.gram)
    weight = product.rows(product.weight, groups)
    plain = product.rows(product.plain.dequantize(), groups)
    bias = bias and product.takes_bias
    judged = _Judge(weight, made, judge, weight @ judge.cross)
    before = judged.error(plain, bias=False)
    best = Found(Choice(), None, None, before, before)
    if bias and (after := judged.error(plain, bias=True)) < best.after:
        found = recover_layer(product, made, Choice(bias=True))
        best = replace(found, before=before, after=after)
    if rounding is None:
        return best
    choice, target = _choose_target(judged, rounding, bias=bias)
    found = recover_layer(product, made, choice, target)
    assert found.weight is not None
    after = judged.error(product.rows(found.weight.dequantize(), groups), bias=bias)
    return replace(found, before=before, after=after) if after < best.after else best


def recover_layer(
    product: Product, made: Moments, choice: Choice, target: Tensor | None = None
) -> Found:
    """Return what ``choice`` makes of the layer on the data of ``made``.

    Args:
        product: The layer.
        made: Of the data.
        choice: How it is recovered.
        target: Rows [G, R, K] that are rounded; None: the model's own.
    """
    groups = len(made.gram)
    weight = product.rows(product.weight, groups)
    stored, rows = None, product.rows(product.plain.dequantize(), groups)
    if choice.rounding is not None:
        layout = product.plain.layout
        shape = (layout.rows, layout.positions, layout.channels)
        wanted = product.weight
        if target is not None:
            wanted = layout.from_rows(target.float().reshape(shape))
        gram = made.centred()[0] if choice.bias else made.gram
        stored = _round(product, wanted, gram, choice.rounding)
        rows = product.rows(stored.dequantize(), groups)
    bias = mean_error(weight, rows, made).flatten().float() if choice.bias else None
    return Found(choice, stored, bias)


def _round(product: Product, wanted: Tensor, gram: Tensor, rounding: Rounding) -> QuantizedTensor:
    spec, sparsity, right = product.plain.spec, product.plain.sparsity, product.operand
    if rounding == "gptq" or sparsity is None:
        return round_in_gram(
            wanted, spec, gram, right, sparsity=sparsity, damping=DAMPING, name=product.name
        )
    axis, channels, groups = right.reduction_axis, right.channel_axes, right.groups
    pruned = recover(
        wanted, sparsity, gram, reduction_axis=axis, channel_axes=channels, groups=groups
    )
    return quantize_weight(
        pruned, spec, reduction_axis=axis, channel_axes=channels, groups=groups, sparsity=sparsity
    )


def mean_error(weight: Tensor, rows: Tensor, made: Moments) -> Tensor:
    """Return [G, R] what the output of ``rows`` lacks on average of the fp32 output."""
    difference = weight @ made.fp32_sum[:, :, None] - rows @ made.plan_sum[:, :, None]
    return difference.squeeze(-1) / max(made.count, 1)


def _choose_target(judged: "_Judge", rounding: Rounding, *, bias: bool) -> tuple[Choice, Tensor]:
    """The step and the ridge whose target, not rounded, is best on the data that judge, and that target."""
    made, target = judged.made, judged.weight
    gram, cross = made.centred() if bias else (made.gram, made.cross)
    best, least = Choice(rounding, bias=bias), judged.error(judged.weight, bias=bias)
    start = least
    for ridge in _RIDGES:
        step = _full_step(judged.weight, gram, cross, ridge)
        whole = judged.error(judged.weight + step, bias=bias)
        half = judged.error(judged.weight + step / 2, bias=bias)
        curvature = 2 * (whole + start - 2 * half)  # of the parabola through the three
        slope = whole - start - curvature
        length = min(max(-slope / (2 * curvature), 0.0), 1.0) if curvature > 0 else 0.0
        error = start + slope * length + curvature * length**2
        if error < least:
            best, least = Choice(rounding, length, ridge, bias), error
            target = judged.weight + length * step
    return best, target


def _full_step(weight: Tensor, gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """What is added to the weight to make the plan's output nearest to the fp32 model's: W (C - H) (H + λ I)⁻¹."""
    while True:
        lower, failed = torch.linalg.cholesky_ex(damp(gram, ridge))
        if not bool(failed.any()):
            break
        ridge = max(10 * ridge, 1e-8)
    wanted = weight @ (cross - gram)
    return torch.cholesky_solve(wanted.transpose(1, 2), lower).transpose(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Squared error of a layer's output on data that judge.

    Attributes:
        weight: [G, R, K] of the fp32 model.
        made: Of the data that biases come from.
        judge: Of the data that errors are of.
        crossed: [G, R, K] ``weight`` in the cross moments of ``judge``.
    """

    weight: Tensor
    made: Moments
    judge: Moments
    crossed: Tensor

    def error(self, rows: Tensor, *, bias: bool) -> float:
        """Return the squared error of the output of ``rows`` [G, R, K], relative to the fp32 output's power."""
        judge = self.judge
        total = ((rows @ judge.gram - 2 * self.crossed) * rows).sum()
        if bias:
            b = mean_error(self.weight, rows, self.made)
            mean = rows @ judge.plan_sum[:, :, None] - self.weight @ judge.fp32_sum[:, :, None]
            total += (judge.count * b.square() + 2 * b * mean.squeeze(-1)).sum()
        return (float(total) + judge.power) / max(judge.power, float_info.min)
