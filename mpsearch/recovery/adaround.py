"""Learned rounding: every weight goes to the grid point below it or above it, as the layer's output error decides.

AdaRound (arXiv 2004.10568), with the error counted in the Gram matrix of what the layer reads and not on samples, so that a
step costs one product of weights and Gram matrix. The grid may be any spec's, at the scales that the weight is stored with. Where
inputs are strongly correlated :func:`mpsearch.recovery.gptq.round_in_gram`, which is not bound to the two nearest points, is far ahead.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mpsearch.deadline import Deadline, has_passed
from mpsearch.numerics.grids import as_float32
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.scales import steps_of
from mpsearch.numerics.tiles import cut_tiles, grid_values, join_tiles
from mpsearch.recovery.gptq import check_gram, row_errors
from mpsearch.schemes import Spec

STEPS = 300
_WARM_UP = 0.2  # of the steps: without pressure towards either end
_STEEPEST, _FLATTEST = 20.0, 2.0
_PRESSURE = 20.0
_RATE = 0.05
_STRETCH = 1.1  # of the sigmoid beyond [0, 1] on either side, so that it reaches both


def learn_rounding(
    weight: Tensor,
    start: QuantizedTensor,
    gram: Tensor,
    *,
    steps: int = STEPS,
    deadline: Deadline | None = None,
    name: str = "weight",
) -> QuantizedTensor:
    """Return ``weight`` rounded up or down at the scales and mask of ``start``, no worse than ``start`` in the output error.

    Args:
        weight: fp32 (fp16, bf16), as the node reads it: the target.
        start: The weight as it is stored so far. A cast is returned as it is: it has no scale to round at.
        gram: H = XᵀX of the layer's inputs, as :func:`mpsearch.recovery.gptq.round_in_gram` takes it.
        steps: Of the optimiser.
        deadline: When to stop with what is learned.
        name: What an error calls the weight.

    Raises:
        SchemeError: The shapes do not fit.
        NumericsError: The Gram matrix holds NaN or Inf.
    """
    hessian = check_gram(gram.to(weight.device), start.layout, name)
    if start.scales is None or weight.numel() == 0:
        return start
    values = start.layout.to_rows(as_float32(weight.detach()))
    unit, zeros = element_steps(start)
    position = torch.where(unit > 0, values / torch.where(unit > 0, unit, 1.0), 0.0)
    if zeros is not None:
        position = position + zeros
    low, high = _neighbours(position, start.spec)
    kept = torch.ones_like(values, dtype=torch.bool) if start.mask is None else start.mask
    with torch.enable_grad():
        codes = _learn(values, unit, zeros, (low, high), kept, hessian.float(), steps, deadline)
    found = replace(start, codes=torch.where(kept, codes, start.codes))
    errors = [
        row_errors(start.layout.to_rows(q.dequantize()) - values, hessian) for q in (found, start)
    ]
    worse = (errors[0] > errors[1])[:, None, None]
    return replace(found, codes=torch.where(worse, start.codes, found.codes))


def element_steps(stored: QuantizedTensor) -> tuple[Tensor, Tensor | None]:
    """Return the step [R, P, C] of every element, and its zero point where there is one."""
    assert stored.scales is not None
    tiles = cut_tiles(stored.codes, stored.spec)
    shape = (stored.layout.rows, stored.layout.positions, stored.layout.channels)

    def spread(per_tile: Tensor) -> Tensor:
        whole = per_tile[:, None, :, :, None].expand(tiles.shape)
        return join_tiles(whole.contiguous(), shape)

    scales = spread(stored.scales)
    zeros = None if stored.zeros is None else spread(stored.zeros)
    return steps_of(scales, stored.spec, stored.tensor_scale), zeros


def _neighbours(x: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """The elements below and above ``x``, the same one twice beyond the ends."""
    grid = grid_values(spec).to(x.device)
    above = torch.searchsorted(grid, x.contiguous())
    return grid[(above - 1).clamp(min=0)], grid[above.clamp(max=len(grid) - 1)]


def _learn(
    values: Tensor,
    unit: Tensor,
    zeros: Tensor | None,
    ends: tuple[Tensor, Tensor],
    kept: Tensor,
    hessian: Tensor,
    steps: int,
    deadline: Deadline | None,
) -> Tensor:
    """Codes [R, P, C]; see :func:`learn_rounding`."""
    low, high = ends
    gap = torch.where(high > low, high - low, 1.0)
    offset = 0.0 if zeros is None else zeros
    share = ((values / torch.where(unit > 0, unit, 1.0) + offset - low) / gap).clamp(0.01, 0.99)
    inner = (share + (_STRETCH - 1)) / (2 * _STRETCH - 1)
    free = torch.logit(inner).requires_grad_()
    power = float(row_errors(values, hessian.double()).sum()) or 1.0
    rounding = (low + (share > 0.5) * (high - low) - offset) * unit * kept - values
    scale = 1 / max(float(row_errors(rounding, hessian.double()).sum()), 1e-12 * power)
    optimiser = torch.optim.Adam([free], lr=_RATE)
    G, K = hessian.shape[:2]
    for step in range(steps):
        if has_passed(deadline):
            break
        up = _rectified(free)
        change = ((low + up * (high - low) - offset) * unit * kept - values).reshape(G, -1, K)
        loss = scale * ((change @ hessian) * change).sum()
        done = (step / steps - _WARM_UP) / (1 - _WARM_UP)
        if done > 0:
            steep = _FLATTEST + (_STEEPEST - _FLATTEST) * (1 - done)
            loss = loss + _PRESSURE * (1 - (2 * up - 1).abs() ** steep).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return torch.where(_rectified(free) >= 0.5, high, low)


def _rectified(free: Tensor) -> Tensor:
    """The sigmoid, stretched and cut to [0, 1]."""
    return (torch.sigmoid(free) * (2 * _STRETCH - 1) - (_STRETCH - 1)).clamp(0, 1)
