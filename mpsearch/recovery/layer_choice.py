"""What a layer's weight and bias become, judged on data that did not make them."""

from dataclasses import dataclass, replace
from sys import float_info
from typing import Literal

import torch
from torch import Tensor

from mpsearch.deadline import Deadline
from mpsearch.graph.model import Operand
from mpsearch.numerics.layout import Layout
from mpsearch.numerics.quantize import quantize_weight
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.recovery.adaround import learn_rounding
from mpsearch.recovery.gptq import DAMPING, MOST_DOUBLE, round_in_gram
from mpsearch.recovery.moments import Moments
from mpsearch.recovery.obs import recover
from mpsearch.recovery.sweep import damp

_RIDGES = (1e-3, 1e-1)
"""Damping of targets that are tried, as fractions of the mean diagonal of H."""


Rounding = Literal["gptq", "round", "obs"]
"""``gptq`` selects and rounds; ``round`` learns from there which way to round; ``obs`` selects, makes up for what is pruned, and is
rounded plainly."""


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

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: fp64, fp32 of a large one."""
        return torch.float32 if self.weight.numel() > MOST_DOUBLE else torch.float64

    def rows(self, weight: Tensor, groups: int) -> Tensor:
        """Return a weight as rows [G, R / G, K]."""
        layout: Layout = self.plain.layout
        K = layout.positions * layout.channels
        return layout.to_rows(weight.float()).reshape(groups, -1, K).to(self.dtype)


def choose_layer(
    product: Product,
    made: Moments,
    judge: Moments,
    *,
    rounding: Rounding | None,
    bias: bool,
    deadline: Deadline | None = None,
) -> Found:
    """Return what makes the layer's output on ``judge`` nearest to the fp32 model's.

    Args:
        product: The layer.
        made: Of the data that recover.
        judge: Of others.
        rounding: What may change its weight.
        bias: Whether its bias may.
        deadline: When to stop learning.
    """
    groups = len(made.gram)
    weight = product.rows(product.weight, groups)
    plain = product.rows(product.plain.dequantize(), groups)
    bias = bias and product.takes_bias
    judged = _Judge(made, judge, judge.gram.to(weight.dtype), judge.lag.to(weight.dtype))
    change = plain - weight
    image = change @ judged.gram
    before = judged.error(change, image, bias=False)
    best = Found(Choice(), None, None, before, before)
    if bias and (after := judged.error(change, image, bias=True)) < best.after:
        found = recover_layer(product, made, Choice(bias=True))
        best = replace(found, before=before, after=after)
    if rounding is None:
        return best
    choice, step = _choose_target(judged, rounding, bias=bias)
    target = None if step is None else weight + step
    found = recover_layer(product, made, choice, target, deadline)
    assert found.weight is not None
    change = product.rows(found.weight.dequantize(), groups) - weight
    after = judged.error(change, change @ judged.gram, bias=bias)
    return replace(found, before=before, after=after) if after < best.after else best


def recover_layer(
    product: Product,
    made: Moments,
    choice: Choice,
    target: Tensor | None = None,
    deadline: Deadline | None = None,
) -> Found:
    """Return what ``choice`` makes of the layer on the data of ``made``.

    Args:
        product: The layer.
        made: Of the data.
        choice: How it is recovered.
        target: Rows [G, R, K] that are rounded; None: the model's own.
        deadline: When to stop learning.
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
        stored = _round(product, wanted, gram, choice.rounding, deadline)
        rows = product.rows(stored.dequantize(), groups)
    bias = mean_error(rows - weight, made).flatten().float() if choice.bias else None
    return Found(choice, stored, bias)


def _round(
    product: Product, wanted: Tensor, gram: Tensor, rounding: Rounding, deadline: Deadline | None
) -> QuantizedTensor:
    spec, sparsity, right = product.plain.spec, product.plain.sparsity, product.operand
    if rounding != "obs" or sparsity is None:
        found = round_in_gram(
            wanted, spec, gram, right, sparsity=sparsity, damping=DAMPING, name=product.name
        )
        if rounding != "round":
            return found
        return learn_rounding(wanted, found, gram, deadline=deadline, name=product.name)
    axis, channels, groups = right.reduction_axis, right.channel_axes, right.groups
    pruned = recover(
        wanted, sparsity, gram, reduction_axis=axis, channel_axes=channels, groups=groups
    )
    return quantize_weight(
        pruned, spec, reduction_axis=axis, channel_axes=channels, groups=groups, sparsity=sparsity
    )


def mean_error(change: Tensor, made: Moments) -> Tensor:
    """Return fp64 [G, R] what the output lacks on average of the fp32 output, of a weight changed by ``change`` [G, R, K]."""
    rounded = change.double() @ made.plan_sum[:, :, None]
    return (made.lag_sum - rounded.squeeze(-1)) / max(made.count, 1)


def _choose_target(
    judged: "_Judge", rounding: Rounding, *, bias: bool
) -> tuple[Choice, Tensor | None]:
    """The ridge and how far to go, whose target, not rounded, is best on the data that judge; and that step, None: none."""
    gram, lag = judged.made.centred() if bias else (judged.made.gram, judged.made.lag)
    gram, lag = gram.to(judged.lag.dtype), lag.to(judged.lag.dtype)
    nothing = torch.zeros_like(lag)
    start = judged.error(nothing, nothing, bias=bias)
    best, least, found = Choice(rounding, bias=bias), start, None
    for ridge in _RIDGES:
        step = _full_step(gram, lag, ridge)
        image = step @ judged.gram
        whole = judged.error(step, image, bias=bias)
        half = judged.error(step / 2, image / 2, bias=bias)
        curvature = 2 * (whole + start - 2 * half)  # of the parabola through the three
        slope = whole - start - curvature
        length = min(max(-slope / (2 * curvature), 0.0), 1.0) if curvature > 0 else 0.0
        error = start + slope * length + curvature * length**2
        if error < least:
            best, least = Choice(rounding, length, ridge, bias), error
            found = length * step
    return best, found


def _full_step(gram: Tensor, lag: Tensor, ridge: float) -> Tensor:
    """What is added to the weight to make the plan's output nearest to the fp32 model's: W (C - H) (H + λ I)⁻¹."""
    while True:
        lower, failed = torch.linalg.cholesky_ex(damp(gram, ridge))
        if not bool(failed.any()):
            break
        ridge = max(10 * ridge, 1e-8)
    return torch.cholesky_solve(lag.mT, lower).mT


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Squared error of a layer's output on data that judge.

    Attributes:
        made: Of the data that biases come from.
        judge: Of the data that errors are of.
        gram: [G, K, K] of ``judge``, in what weights are computed in.
        lag: [G, R, K] of ``judge``.
    """

    made: Moments
    judge: Moments
    gram: Tensor
    lag: Tensor

    def error(self, change: Tensor, image: Tensor, *, bias: bool) -> float:
        """Return the squared error of the output of a weight changed by ``change`` [G, R, K], relative to the fp32 output's power.

        Args:
            change: What is added to the fp32 model's weight.
            image: The same times ``gram``.
            bias: Whether a bias makes up for the mean error.
        """
        judge = self.judge
        total = ((image - 2 * self.lag) * change).sum(dtype=torch.float64)
        if bias:
            b = mean_error(change, self.made)
            mean = (change.double() @ judge.plan_sum[:, :, None]).squeeze(-1) - judge.lag_sum
            total += (judge.count * b.square() + 2 * b * mean).sum()
        return (float(total) + judge.lag_power) / max(judge.power, float_info.min)
