"""Compiled loops for CPU tensors: the torch path's arithmetic, bit for bit, in one pass a cache line.

Imported by :mod:`mpsearch.numerics.dispatch` at the first use, because numba is slow to import. Loops over
contiguous rows carry no branch, so that LLVM turns each into vector instructions; magnitudes are
compared as integers, which orders them, catches NaN and Inf, and vectorises where float maxima do
not. Every kernel works on rows ``start`` to ``stop`` and releases the GIL: threads share a tensor by rows.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

RULE_FP32, RULE_E8M0, RULE_MINIFLOAT = 0, 1, 2
"""How a block's step follows from its amax; the third rounds to a scale format, then times g."""

_MAGNITUDE = np.int32(0x7FFFFFFF)
_EXPONENT = np.int32(0x7F800000)
_SMALLEST_E8M0 = np.int32(0x400000)  # the fp32 pattern of 2**-127
_LANES = 16
STRIP = 512  # columns of a strided block that stay in cache between its two passes


@intrinsic
def _bits(context: Any, x: Any) -> Any:
    """Return the pattern of an fp32 number."""
    return types.int32(types.float32), lambda _, b, __, args: b.bitcast(args[0], ir.IntType(32))


@intrinsic
def _number(context: Any, x: Any) -> Any:
    """Return the fp32 number of a pattern."""
    return types.float32(types.int32), lambda _, b, __, args: b.bitcast(args[0], ir.FloatType())


def _compile(function: Any, **more: Any) -> Any:
    try:
        return njit(nogil=True, error_model="numpy", cache=True, **more)(function)
    except RuntimeError:  # no writable place for the cache
        return njit(nogil=True, error_model="numpy", **more)(function)


def _compile_sum(function: Any) -> Any:
    """Compile a loop that sums, in whatever order is fastest: the same on one machine."""
    return _compile(function, fastmath={"reassoc"})


@_compile
def _magnitude(x):  # type: ignore[no-untyped-def]  # numba infers types
    return np.int32(_bits(x) & _MAGNITUDE)


@_compile
def _round(x, grid):  # type: ignore[no-untyped-def]
    """Round one number; see :mod:`mpsearch.numerics.elements` for why this is exact."""
    shift, floor, cap, top, flush = grid
    size = abs(x)
    size = cap if size > cap else size
    field = np.int32(_bits(size) & _EXPONENT)
    offset = _number(np.int32((field if field > floor else floor) + shift))
    size = (size + offset) - offset
    size = np.float32(0) if size < flush else size
    size = np.float32(np.inf) if size > top else size
    return np.copysign(size, x)


@_compile
def _step(amax, rule):  # type: ignore[no-untyped-def]
    """Return the step for the pattern of an amax.

    ``rule`` is (kind, unit, largest scale, emax in the exponent field, g, grid of the scale format).
    """
    kind, unit, largest, emax, g, grid = rule
    if kind == RULE_E8M0:
        field = np.int32(np.int32(amax & _EXPONENT) - emax)
        return _number(field if field > 0 else _SMALLEST_E8M0)
    scale = _number(amax) / unit
    scale = np.float32(0) if amax == 0 else scale
    scale = largest if scale > largest else scale
    if kind == RULE_MINIFLOAT:
        scale = _round(scale, grid) * g
    return scale


@_compile
def find_extremes(x, start, stop):  # type: ignore[no-untyped-def]
    """Return the least and largest key of a flat array: integers ordered as the numbers are, NaN outermost."""
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    part = x[start:stop]
    for j in range(part.size):
        pattern = _bits(part[j])
        key = np.int32(pattern ^ np.int32(np.int32(pattern >> 31) & _MAGNITUDE))
        low = key if key < low else low
        high = key if key > high else high
    return low, high


@_compile
def count_bins(x, start, stop):  # type: ignore[no-untyped-def]
    """Return how often each upper half of the pattern occurs."""
    counts = np.zeros(
        (2, 1 << 16), np.int64
    )  # two, so that equal neighbours do not wait for each other
    part = x[start:stop]
    for j in range(part.size):
        counts[j & 1, np.int32(_bits(part[j]) >> 16) & 0xFFFF] += 1
    return counts[0] + counts[1]


@_compile
def round_flat(x, out, start, stop, step, grid):  # type: ignore[no-untyped-def]
    """Round a flat array at one step (1 is a plain cast); return the pattern of the largest magnitude seen."""
    worst = np.int32(0)
    source, target = x[start:stop], out[start:stop]
    if step == 1:  # a loop without the division, which would take most of its time
        for j in range(source.size):
            size = _magnitude(source[j])
            worst = size if size > worst else worst
            target[j] = _round(source[j], grid)
        return worst
    divisor = step if step != 0 else np.float32(np.inf)
    for j in range(source.size):
        size = _magnitude(source[j])
        worst = size if size > worst else worst
        target[j] = _round(source[j] / divisor, grid) * step
    return worst


@_compile_sum
def clip_gradient(x, quantized, gradient, out, start, stop, limit, share):  # type: ignore[no-untyped-def]
    """Write the gradient of what is not cut off; return the sum that moves a learned step."""
    total = np.float64(0)
    for first in range(start, stop, _LANES * STRIP):  # partial sums in fp32 stay exact enough
        last = min(first + _LANES * STRIP, stop)
        part = np.float32(0)
        for j in range(first, last):
            inside = abs(x[j]) < limit
            out[j] = gradient[j] if inside else np.float32(0)
            moved = share * (quantized[j] - x[j]) if inside else quantized[j]
            part += gradient[j] * moved
        total += np.float64(part)
    return total


@_compile_sum
def depthwise_gradient(x, gradient, start, stop, size, stride, pads, dilation):  # type: ignore[no-untyped-def]
    """Return [kh, kw, C], the gradient of a depthwise kernel, over samples of [N, H, W, C] and [N, OH, OW, C]."""
    out = np.zeros((size[0], size[1], x.shape[3]), np.float32)
    for n in range(start, stop):
        part = np.zeros_like(out)  # sums of one sample: fp32 stays exact enough
        for oh in range(gradient.shape[1]):
            for i in range(size[0]):
                ih = oh * stride[0] + i * dilation[0] - pads[0]
                if ih < 0 or ih >= x.shape[1]:
                    continue
                for ow in range(gradient.shape[2]):
                    g = gradient[n, oh, ow]
                    for j in range(size[1]):
                        iw = ow * stride[1] + j * dilation[1] - pads[1]
                        if iw < 0 or iw >= x.shape[2]:
                            continue
                        row, total = x[n, ih, iw], part[i, j]
                        for c in range(g.size):
                            total[c] += row[c] * g[c]
        out += part
    return out


@_compile
def round_patterns(x, out, start, stop, dropped):  # type: ignore[no-untyped-def]
    """Round away ``dropped`` bits of each pattern (bf16, tf32); return the largest magnitude's pattern."""
    worst = np.int32(0)
    source, target = x[start:stop], out[start:stop]
    below = np.int32((1 << (dropped - 1)) - 1)
    kept = np.int32(-(1 << dropped))
    for j in range(source.size):
        pattern = _bits(source[j])
        size = np.int32(pattern & _MAGNITUDE)
        worst = size if size > worst else worst
        half = np.int32(np.int32(np.int32(pattern >> dropped) & np.int32(1)) + below)
        rounded = np.int32(np.int32(pattern + half) & kept)
        target[j] = _number(pattern if size > _EXPONENT else rounded)
    return worst


@_compile
def _largest(part):  # type: ignore[no-untyped-def]
    worst = np.int32(0)
    for j in range(part.size):
        size = _magnitude(part[j])
        worst = size if size > worst else worst
    return worst


@_compile
def _largest_lanes(lanes, quarters, amaxes):  # type: ignore[no-untyped-def]
    """Write the largest pattern of each row of [n, 16]; 16 to 4 to 1, since both steps vectorise."""
    for b in range(lanes.shape[0]):
        for j in range(4):
            p, q = _magnitude(lanes[b, j]), _magnitude(lanes[b, j + 4])
            r, s = _magnitude(lanes[b, j + 8]), _magnitude(lanes[b, j + 12])
            p, r = (p if p > q else q), (r if r > s else s)
            quarters[b, j] = p if p > r else r
    for b in range(lanes.shape[0]):
        p = max(quarters[b, 0], quarters[b, 1])
        q = max(quarters[b, 2], quarters[b, 3])
        amaxes[b] = p if p > q else q


@_compile
def _round_part(source, target, step, grid):  # type: ignore[no-untyped-def]
    divisor = step if step != 0 else np.float32(np.inf)
    for j in range(source.size):
        target[j] = _round(source[j] / divisor, grid) * step


@_compile
def _round_each(source, target, steps, grid):  # type: ignore[no-untyped-def]
    for j in range(source.size):
        divisor = steps[j] if steps[j] != 0 else np.float32(np.inf)
        target[j] = _round(source[j] / divisor, grid) * steps[j]


@_compile
def round_rows(x, out, start, stop, rule, grid):  # type: ignore[no-untyped-def]
    """Round each row of [rows, columns] at its own step; return the largest magnitude's pattern."""
    worst = np.int32(0)
    for i in range(start, stop):
        amax = _largest(x[i])
        worst = amax if amax > worst else worst
        _round_part(x[i], out[i], _step(amax, rule), grid)
    return worst


@_compile
def round_blocks(x, out, start, stop, block, rule, grid):  # type: ignore[no-untyped-def]
    """Round each run of ``block`` columns of [rows, columns] at its own step; the last may be short."""
    worst = np.int32(0)
    columns = x.shape[1]
    blocks = (columns + block - 1) // block
    amaxes = np.empty(blocks, np.int32)
    steps = np.empty(blocks, np.float32)
    spread = np.empty(columns, np.float32)  # each column's step: the last loop runs over whole rows
    groups = columns // _LANES if block % _LANES == 0 else 0  # runs of 16 inside one block
    whole = groups * _LANES
    quarters = np.empty((groups, 4), np.int32)
    group_amaxes = np.empty(groups, np.int32)
    spread_groups = spread[:whole].reshape(groups, _LANES)
    each = max(block // _LANES, 1)
    for i in range(start, stop):
        row, target = x[i], out[i]
        _largest_lanes(row[:whole].reshape(groups, _LANES), quarters, group_amaxes)
        amaxes[:] = 0
        b, left = 0, each  # counted, because an integer division costs more than all the rest
        for k in range(groups):
            amaxes[b] = group_amaxes[k] if group_amaxes[k] > amaxes[b] else amaxes[b]
            left -= 1
            if left == 0:
                b, left = b + 1, each
        for b in range(whole // block, blocks):
            size = _largest(row[max(b * block, whole) : (b + 1) * block])
            amaxes[b] = size if size > amaxes[b] else amaxes[b]
        for b in range(blocks):
            worst = amaxes[b] if amaxes[b] > worst else worst
            steps[b] = _step(amaxes[b], rule)
        b, left = 0, each
        for k in range(groups):
            step = steps[b]
            for j in range(_LANES):
                spread_groups[k, j] = step
            left -= 1
            if left == 0:
                b, left = b + 1, each
        for b in range(whole // block, blocks):
            spread[max(b * block, whole) : (b + 1) * block] = steps[b]
        _round_each(row, target, spread, grid)
    return worst


@_compile
def round_strided(x, out, start, stop, block, rule, grid):  # type: ignore[no-untyped-def]
    """Round [outer, channels, inner] in blocks along channels, one step for each inner position.

    ``start`` and ``stop`` count strips: ``STRIP`` inner positions of one outer index.
    """
    worst = np.int32(0)
    channels, inner = x.shape[1], x.shape[2]
    strips = (inner + STRIP - 1) // STRIP
    amaxes = np.empty(STRIP, np.int32)
    steps = np.empty(STRIP, np.float32)
    divisors = np.empty(STRIP, np.float32)
    for strip in range(start, stop):
        i, left = strip // strips, strip % strips * STRIP
        width = min(STRIP, inner - left)
        for first in range(0, channels, block):
            last = min(first + block, channels)
            amaxes[:width] = 0
            for c in range(first, last):
                row = x[i, c, left : left + width]
                for j in range(width):
                    size = _magnitude(row[j])
                    amaxes[j] = size if size > amaxes[j] else amaxes[j]
            for j in range(width):
                worst = amaxes[j] if amaxes[j] > worst else worst
                steps[j] = _step(amaxes[j], rule)
                divisors[j] = steps[j] if steps[j] != 0 else np.float32(np.inf)
            for c in range(first, last):
                row, target = x[i, c, left : left + width], out[i, c, left : left + width]
                for j in range(width):
                    target[j] = _round(row[j] / divisors[j], grid) * steps[j]
    return worst


@_compile
def prune_fours(x, out, start, stop, kept):  # type: ignore[no-untyped-def]
    """Keep the ``kept`` largest magnitudes of each row of [n, 4], the first of equal ones.

    Returns the largest magnitude's pattern.
    """
    worst = np.int32(0)
    source, target = x[start:stop], out[start:stop]
    for i in range(source.shape[0]):
        a, b = _magnitude(source[i, 0]), _magnitude(source[i, 1])
        c, d = _magnitude(source[i, 2]), _magnitude(source[i, 3])
        ab, ac, ad = np.int32(a >= b), np.int32(a >= c), np.int32(a >= d)
        bc, bd, cd = np.int32(b >= c), np.int32(b >= d), np.int32(c >= d)
        first = np.int32(3) - ab - ac - ad  # how many are before it
        second = np.int32(2) + ab - bc - bd
        third = np.int32(1) + ac + bc - cd
        fourth = ad + bd + cd
        target[i, 0] = source[i, 0] if first < kept else np.float32(0)
        target[i, 1] = source[i, 1] if second < kept else np.float32(0)
        target[i, 2] = source[i, 2] if third < kept else np.float32(0)
        target[i, 3] = source[i, 3] if fourth < kept else np.float32(0)
        p, q = (a if a > b else b), (c if c > d else d)
        p = p if p > q else q
        worst = p if p > worst else worst
    return worst


@_compile
def keep_largest(scores, mask, start, stop, kept):  # type: ignore[no-untyped-def]
    """Set ``mask`` [n, m] where the score is among the ``kept`` largest of its row, the first of equal ones."""
    m = scores.shape[1]
    for i in range(start, stop):
        for j in range(m):
            before = 0
            for k in range(m):
                before += (scores[i, k] > scores[i, j]) | ((scores[i, k] == scores[i, j]) & (k < j))
            mask[i, j] = before < kept
