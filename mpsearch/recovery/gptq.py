"""Second-order rounding: a weight in a spec's elements whose errors make up for each other in the layer's output.

Scales are chosen before the pass, by squared error that counts in the Gram matrix of what the layer reads; then columns
are rounded in the order of its diagonal, each error made up for by the columns that follow (GPTQ, arXiv 2210.17323), and coordinate
descent goes over them again. With an n:m pattern a first pass without rounding selects (SparseGPT, arXiv 2301.00774).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpsearch.errors import NumericsError, SchemeError
from mpsearch.graph.model import Operand
from mpsearch.numerics.grids import as_float32, round_plain, round_to_grid
from mpsearch.numerics.layout import Layout
from mpsearch.numerics.quantize import quantize_weight
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.scales import round_affine
from mpsearch.numerics.sparsity import choose_mask
from mpsearch.numerics.tiles import grid_values, spec_grid
from mpsearch.recovery.gram_scales import choose_scales_in_gram
from mpsearch.recovery.sweep import damp, descend, factorize, sweep
from mpsearch.schemes import Spec, parse_sparsity

DAMPING = 1e-3
"""λ as a fraction of the mean diagonal of H."""

MOST_DOUBLE = 1 << 16
"""Weights of a layer beyond which it is computed in fp32."""


def round_in_gram(
    weight: Tensor,
    spec: Spec,
    gram: Tensor,
    operand: Operand,
    *,
    sparsity: str | None = None,
    damping: float = DAMPING,
    passes: int = 2,
    name: str = "weight",
) -> QuantizedTensor:
    """Return ``weight`` as ``spec`` stores it, pruned and rounded for the layer's output.

    In the output error ``tr((w' - w) H (w' - w)ᵀ)`` it is never worse than :func:`mpsearch.numerics.quantize.quantize_weight`;
    no row is, where scales are not shared between rows.

    Args:
        weight: fp32 (fp16, bf16), as the node reads it.
        spec: Weight spec of a scheme.
        gram: H = XᵀX of the layer's inputs: [K, K], or [G, K, K] for G convolution groups of consecutive rows. K runs over
            kernel positions and, inside each, channels.
        operand: Where the weight's reduction runs.
        sparsity: Pattern to prune to.
        damping: λ as a fraction of the mean diagonal of H; as much more as it takes where H is singular.
        passes: Passes of coordinate descent after the first.
        name: What an error calls the weight.

    Raises:
        SchemeError: The shapes do not fit, or the pattern does not divide the channels.
        NumericsError: The weight or the Gram matrix holds NaN or Inf.
    """
    plain = quantize_weight(
        weight,
        spec,
        reduction_axis=operand.reduction_axis,
        channel_axes=operand.channel_axes,
        groups=operand.groups,
        sparsity=sparsity,
        name=name,
    )
    layout = plain.layout
    hessian = check_gram(gram.to(weight.device), layout, name)
    if weight.numel() == 0 or (spec.format == "fp32" and sparsity is None):
        return plain
    values = layout.to_rows(as_float32(weight.detach()))
    if values.numel() > MOST_DOUBLE:
        hessian = hessian.float()
    best = _round(values, spec, layout, hessian, sparsity, damping, passes)
    return _no_row_worse(best, plain, values, hessian)


def _round(
    values: Tensor,
    spec: Spec,
    layout: Layout,
    hessian: Tensor,
    sparsity: str | None,
    damping: float,
    passes: int,
) -> QuantizedTensor:
    """Round rows [R, P, C]; see :func:`round_in_gram`."""
    unit = parse_sparsity(sparsity).group if sparsity is not None else 1
    order = _order(hessian, unit)
    back = order.argsort(1)
    arranged = _arrange(hessian, order)
    factor = factorize(arranged, damping)
    weighed = (factor.diagonal(dim1=1, dim2=2) ** -2).gather(1, back)
    damped = damp(arranged, damping)
    columns = _columns(values.to(factor.dtype), order)
    kept: Tensor | None = None
    if sparsity is not None:
        swept, kept = select(columns, factor, sparsity)
        values = _rows(swept, back, values.shape).float()
    scales = choose_scales_in_gram(values, spec, _spread(weighed, values))
    steps = None if scales.steps is None else _columns(scales.steps, order)
    zeros = None if scales.zeros is None else _columns(scales.zeros, order)
    codes = torch.empty_like(columns, dtype=torch.float32)
    rounding = _Rounding(
        spec,
        None if steps is None else steps.unbind(1),
        None if steps is None else torch.where(steps == 0, torch.inf, steps).unbind(1),
        None if zeros is None else zeros.unbind(1),
        None if kept is None else kept.unbind(1),
        codes.unbind(1),
        _levels(spec, codes),
    )
    fixed = sweep(columns.clone(), factor, rounding.fix)
    for _ in range(passes):
        fixed = descend(columns, fixed, damped, rounding.fix)
    return QuantizedTensor(
        spec,
        layout,
        _rows(codes, back, values.shape),
        scales.stored,
        scales.stored_zeros,
        scales.tensor_scale,
        sparsity,
        None if kept is None else _rows(kept, back, values.shape),
    )


_FEW_BITS = 6
"""Of float formats whose elements are looked up."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rounding:
    """Rounds columns to a spec's elements.

    Attributes:
        spec: The spec.
        steps: K times [G, R], of each element; None for a cast.
        divisors: The same, Inf where a step is 0.
        zeros: K times [G, R] zero points; None where symmetric.
        kept: K times bool [G, R]; None where all are.
        codes: K times [G, R], what columns were last rounded to.
        levels: What an element may be where it is a float of few bits, in ascending order, and what lies between; None: computed.
    """

    spec: Spec
    steps: tuple[Tensor, ...] | None
    divisors: tuple[Tensor, ...] | None
    zeros: tuple[Tensor, ...] | None
    kept: tuple[Tensor, ...] | None
    codes: tuple[Tensor, ...]
    levels: tuple[Tensor, Tensor] | None

    def fix(self, wanted: Tensor, at: int) -> Tensor:
        """Return column ``at`` [G, R] as rounded, in the type of ``wanted``."""
        x = wanted.float()
        if self.kept is not None:
            x = x * self.kept[at]
        if self.steps is None or self.divisors is None:
            codes = round_plain(x, self.spec.element, subnormals=self.spec.subnormals)
            values = codes.clone()
        elif self.zeros is None:
            codes = self._round(x / self.divisors[at])
            values = codes * self.steps[at]
        else:
            codes = round_affine(x, self.steps[at], self.zeros[at], self.spec)[0]
            values = (codes - self.zeros[at]).mul_(self.steps[at])
        self.codes[at].copy_(codes)
        return values.to(wanted.dtype)

    def _round(self, x: Tensor) -> Tensor:
        element = self.spec.element
        if element.kind == "int":
            return x.round_().clamp_(-element.max_value, element.max_value)
        if self.levels is not None:
            values, middles = self.levels
            return values[torch.bucketize(x, middles)]
        return round_to_grid(x, spec_grid(self.spec))


def _levels(spec: Spec, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Elements of a float format of few bits, and what lies between them, where ``like`` is."""
    if spec.is_cast or spec.element.kind == "int" or spec.element.bits > _FEW_BITS:
        return None
    values = grid_values(spec).to(like.device)
    return values, (values[1:] + values[:-1]) / 2


def select(columns: Tensor, factor: Tensor, pattern: str) -> tuple[Tensor, Tensor]:
    """Return weights and mask, both [G, K, R], of a pass that prunes and rounds nothing.

    Args:
        columns: [G, K, R] weights, groups of the pattern together.
        factor: Of :func:`mpsearch.recovery.sweep.factorize`.
        pattern: ``n:m`` or ``n:m_paired``.
    """
    kept = torch.ones_like(columns, dtype=torch.bool)
    scale = factor.diagonal(dim1=1, dim2=2)

    def choose(wanted: Tensor, at: int) -> None:
        unit = slice(at, at + wanted.shape[1])
        score = (wanted / scale[:, unit, None]).float()
        kept[:, unit] = choose_mask(score.transpose(1, 2), pattern).transpose(1, 2)

    def fix(wanted: Tensor, at: int) -> Tensor:
        return torch.where(kept[:, at], wanted, 0.0)

    unit = parse_sparsity(pattern).group
    return sweep(columns.clone(), factor, fix, unit=unit, select=choose), kept


def check_gram(gram: Tensor, layout: Layout, name: str) -> Tensor:
    """Return a Gram matrix as fp64 [G, K, K], once it is known to fit ``layout``.

    Raises:
        SchemeError: It has another shape.
        NumericsError: It holds NaN or Inf.
    """
    hessian = gram.double() if gram.ndim == 3 else gram.double().unsqueeze(0)
    K = layout.positions * layout.channels
    if hessian.ndim != 3 or hessian.shape[1:] != (K, K) or layout.rows % max(len(hessian), 1):
        raise SchemeError(
            f"the Gram matrix of {name} must be [{K}, {K}], or one for each group of its {layout.rows} "
            f"rows, got {list(gram.shape)}"
        )
    if not bool(torch.isfinite(hessian).all()):
        raise NumericsError(f"the Gram matrix of {name} must be finite, but it holds NaN or Inf")
    return hessian


def row_errors(change: Tensor, hessian: Tensor) -> Tensor:
    """Return the squared output error [R] of each row of ``change`` [R, P, C] in ``hessian`` [G, K, K]."""
    rows = change.to(hessian.dtype).reshape(len(hessian), -1, hessian.shape[1])
    return ((rows @ hessian) * rows).sum(-1).flatten()


def _no_row_worse(
    found: QuantizedTensor, plain: QuantizedTensor, values: Tensor, hessian: Tensor
) -> QuantizedTensor:
    """``found`` with the rows of ``plain`` where those are better; all of them where rows share scales."""
    layout = found.layout
    errors = [
        row_errors(layout.to_rows(tensor.dequantize()) - values, hessian)
        for tensor in (found, plain)
    ]
    worse = errors[0] > errors[1]
    if not bool(worse.any()):
        return found
    per_row = found.scales is None or (
        len(found.scales) == layout.rows and found.tensor_scale == plain.tensor_scale
    )
    if not per_row:
        return plain if float(errors[0].sum()) > float(errors[1].sum()) else found

    def mixed(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return a if a is None or b is None else torch.where(worse[:, None, None], b, a)

    codes = mixed(found.codes, plain.codes)
    assert codes is not None  # there always are
    return replace(
        found,
        codes=codes,
        scales=mixed(found.scales, plain.scales),
        zeros=mixed(found.zeros, plain.zeros),
        mask=mixed(found.mask, plain.mask),
    )


def _order(hessian: Tensor, unit: int) -> Tensor:
    """[G, K] columns, in units of ``unit``, those that the output feels most first."""
    G, K = hessian.shape[:2]
    worth = hessian.diagonal(dim1=1, dim2=2).reshape(G, K // unit, unit).sum(-1)
    units = worth.argsort(dim=1, descending=True, stable=True)
    within = torch.arange(unit, device=hessian.device)
    return (units[:, :, None] * unit + within).reshape(G, K)


def _arrange(hessian: Tensor, order: Tensor) -> Tensor:
    """``hessian`` [G, K, K] with rows and columns in ``order`` [G, K]."""
    rows = hessian.gather(1, order[:, :, None].expand_as(hessian))
    return rows.gather(2, order[:, None, :].expand_as(hessian))


def _columns(rows: Tensor, order: Tensor) -> Tensor:
    """[R, P, C] as [G, K, R / G] in ``order`` [G, K]; weights in fp64."""
    G, K = order.shape
    columns = rows.reshape(G, -1, K).transpose(1, 2)
    return columns.gather(1, order[:, :, None].expand(columns.shape))


def _rows(columns: Tensor, back: Tensor, shape: torch.Size) -> Tensor:
    """[G, K, R / G] in its own order again, as [R, P, C]."""
    own = columns.gather(1, back[:, :, None].expand(columns.shape))
    return own.transpose(1, 2).reshape(shape).contiguous()


def _spread(weighed: Tensor, values: Tensor) -> Tensor:
    """[G, K] for each row [R, P, C] of its group."""
    G, K = weighed.shape
    return weighed[:, None].expand(G, len(values) // G, K).reshape(values.shape)
