"""Latencies by fitted kernels: the curve, what it left at measured kernels nearby, and an error for each."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from mpsearch.cost.curve import PARAMETERS, Machine, Shapes, curve_us, encode
from mpsearch.cost.device import Device, operand_format
from mpsearch.cost.fitted import FittedKernels, residual_points
from mpsearch.cost.products import Products, element_bytes, padded_reduction, right_bytes
from mpsearch.schemes import Scheme, Spec, parse_sparsity
from mpsearch.stats.estimates import Bools, Floats

LENGTH = 2.0
"""Octaves of M, N or K over which what the curve leaves stays alike; chosen on A100 and RTX 4090."""
VARIANCE = 0.01
"""Of ln latency about a curve; chosen on A100 and RTX 4090, as the next."""
NOISE = 0.002
_BLOCK = 16384
"""Kernels at a time: their arrays stay in the cache."""
BOUND = 0.7
"""Largest |ln| that a residual changes a latency by."""
_PER_OCTAVE = 0.05  # relative error that an octave outside the fitted sizes adds
_UNLIKE = 0.25  # relative error of a kernel that was not measured itself, by those of a like format
_LIKE = {"bf16": "fp16", "fp16": "bf16", "mxfp8": "fp8", "fp8": "mxfp8"}
_LIKE |= {"mxfp4": "nvfp4", "nvfp4": "mxfp4", "fp4": "nvfp4"}


@dataclass(frozen=True, slots=True)
class Latencies:
    """N latencies in microseconds.

    Attributes:
        mean: Predicted, [N].
        stderr: Standard error of the prediction, [N].
        extrapolated: Where a size lies outside those that were measured, [N]; all where none was.
    """

    mean: Floats
    stderr: Floats
    extrapolated: Bools


def find_fitted(device: Device, scheme: Scheme) -> tuple[FittedKernels, float] | None:
    """Return the kernels that ``scheme`` runs on, and the relative error of taking these for those.

    Weight-only schemes run as their activations' kernels with fewer bytes. None: nothing was fitted.
    """
    kind = operand_format(scheme.activation)
    exact = {(k.format, k.sparsity): k for k in device.kernels}
    sparsity = scheme.sparsity or "dense"
    unlike = 0.0 if operand_format(scheme.weight) == kind else _UNLIKE
    if (kind, sparsity) in exact:
        return exact[kind, sparsity], unlike
    alike = exact.get((_LIKE.get(kind, ""), sparsity))
    return (alike, max(unlike, _UNLIKE / 2)) if alike is not None else None


def measured_latencies(
    device: Device, scheme: Scheme, products: Products, *, out: Spec
) -> Latencies | None:
    """Return what ``products`` take by the device's fitted kernels; None where it has none for ``scheme``.

    Depthwise layers run on vector units, bound by their bytes. Activations are not quantised here.
    """
    found = find_fitted(device, scheme)
    if found is None:
        return None
    fitted, unlike = found
    shapes = kernel_shapes(scheme, products, out=out)
    machine = machine_of(device, scheme.rate, scheme.sparsity)
    mean = at_least(fitted, curve_us(theta_of(fitted), machine, shapes))
    table = _table(fitted)
    position = np.log2(np.stack([shapes.m * shapes.copies, shapes.n, shapes.k]))
    left, spread, beyond = table.at(position)
    mean *= np.exp(left)
    error = np.sqrt(spread**2 + unlike**2 + (_PER_OCTAVE * beyond) ** 2)
    outside = (beyond > 0) | (fitted.points == 0)
    depthwise = (products.channels == 1) & (products.groups > 1)
    if depthwise.any():
        vector = _vector_us(device, fitted, products, shapes)
        mean = np.where(depthwise, vector, mean)
        error = np.where(depthwise, np.maximum(error, 2 * _UNLIKE), error)
        outside |= depthwise
    return Latencies(mean, mean * error, outside)


def kernel_shapes(scheme: Scheme, products: Products, *, out: Spec) -> Shapes:
    """Return sizes and bytes of ``products`` in ``scheme``."""
    left = element_bytes(scheme.activation)
    right = right_bytes(scheme, products)
    moved = products.input_elements * left + right + products.output_elements * element_bytes(out)
    n = products.n / products.groups
    return Shapes(
        m=products.m.astype(np.float64),
        n=n,
        k=padded_reduction(scheme, products).astype(np.float64),
        copies=(products.calls * products.groups).astype(np.float64),
        left_bytes=np.full(len(n), left),
        right_bytes=right
        / (products.n * products.k * np.where(products.has_weight, 1, products.calls)),
        moved=moved,
    )


def machine_of(device: Device, rate: str, sparsity: str | None) -> Machine:
    """Return what curves need to know of ``device``; a device whose multiprocessors nobody states has 100."""
    peak = device.peak_tflops[rate] * 1e6
    if sparsity not in (None, "dense"):
        pattern = parse_sparsity(sparsity)
        peak *= pattern.group / pattern.kept
    return Machine(
        flops_per_us=peak,
        bytes_per_us=device.bandwidth_gb_s * 1e3,
        multiprocessors=device.multiprocessors or 100,
        cache_bytes=(device.l2_mb or 0.0) * 1e6,
    )


def theta_of(fitted: FittedKernels) -> Floats:
    """Return the curve's parameters as the vector that :func:`curve_us` takes."""
    return encode(**{name: getattr(fitted, name) for name in PARAMETERS})


def at_least(fitted: FittedKernels, us: Floats) -> Floats:
    """Return latencies [N] of which no kernel's own time is less than ``least_us``, smoothly."""
    if fitted.least_us == 0.0:
        return us
    own = np.maximum(us - fitted.launch_us, 0.0)
    result: Floats = fitted.launch_us + (own**8 + fitted.least_us**8) ** 0.125
    return result


def _vector_us(device: Device, fitted: FittedKernels, products: Products, shapes: Shapes) -> Floats:
    rate = device.peak_tflops.get("fp32", min(device.peak_tflops.values())) * 1e6
    compute = 2 * products.macs / (0.5 * rate)
    moved = shapes.moved / (device.bandwidth_gb_s * 1e3 * min(fitted.memory_efficiency, 0.8))
    result: Floats = fitted.launch_us + np.maximum(compute, moved)
    return result


@dataclass(frozen=True, slots=True)
class ResidualTable:
    """What a curve leaves on a grid of log2 sizes, interpolated between them.

    Attributes:
        axes: Nodes of log2 M, N and K, each ascending.
        left: ln of measured over curve, [M, N, K] nodes.
        spread: Its standard error.
        far: Standard error where nothing was measured.
    """

    axes: tuple[Floats, Floats, Floats]
    left: Floats
    spread: Floats
    far: float

    def at(self, position: Floats) -> tuple[Floats, Floats, Floats]:
        """Return residual (0 outside the grid), standard error and octaves outside, [N] each.

        Args:
            position: log2 of M, N and K, [3, N].
        """
        count = position.shape[1]
        if not self.left.size:
            return np.zeros(count), np.full(count, self.far), np.zeros(count)
        parts = [self._block(position[:, i : i + _BLOCK]) for i in range(0, count, _BLOCK)]
        left, spread, beyond = (np.concatenate(values) for values in zip(*parts, strict=True))
        return left, spread, beyond

    def _block(self, position: Floats) -> tuple[Floats, Floats, Floats]:
        beyond = np.zeros(position.shape[1])
        index, share = [], []
        for nodes, values in zip(self.axes, position, strict=True):
            beyond = np.maximum(beyond, np.maximum(nodes[0] - values, values - nodes[-1]))
            i = np.clip(np.searchsorted(nodes, values, side="right") - 1, 0, max(len(nodes) - 2, 0))
            index.append(i)
            width = nodes[min(1, len(nodes) - 1) :] - nodes[: max(len(nodes) - 1, 1)]
            share.append(np.clip((values - nodes[i]) / np.maximum(width, 1e-9)[i], 0.0, 1.0))
        both = np.stack([self.left.ravel(), self.spread.ravel()], axis=1)
        result = np.zeros((position.shape[1], 2))
        _, columns, depth = self.left.shape
        for corner in product(*((0, 1) if size > 1 else (0,) for size in self.left.shape)):
            weight = np.ones(position.shape[1])
            for step, near in zip(corner, share, strict=True):
                weight *= near if step else 1 - near
            m, n, k = (i + step for i, step in zip(index, corner, strict=True))
            result += weight[:, None] * both[(m * columns + n) * depth + k]
        outside = beyond > 1e-9
        return (
            np.where(outside, 0.0, result[:, 0]),
            np.where(outside, self.far, result[:, 1]),
            np.where(outside, beyond, 0.0),
        )


def residual_table(points: Floats, left: Floats, *, far: float, scale: float) -> ResidualTable:
    """Return the Gaussian process of ``left`` on the grid of the points' own sizes.

    Its covariance falls as exp(-d / 2 octaves) in each size: between neighbouring nodes its mean is close to
    linear, so that a grid loses nothing of note.

    Args:
        points: log2 of M, N, K of measured kernels, [P, 3].
        left: ln of measured over curve, [P].
        far: Standard error of the curve alone.
        scale: Factor on the process's own standard errors.
    """
    axes = tuple(_nodes(points[:, i]) for i in range(3)) if len(points) else (np.zeros(0),) * 3
    if not len(points):
        return ResidualTable(axes, np.zeros((0, 0, 0)), np.zeros((0, 0, 0)), far)  # type: ignore[arg-type]  # three
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    covariance = _covariance(points, points) + NOISE * np.eye(len(points))
    across = _covariance(points, grid)
    solved = np.linalg.solve(covariance, across)
    mean = np.clip(left @ solved, -BOUND, BOUND)
    variance = np.maximum(VARIANCE + NOISE - (solved * across).sum(axis=0), NOISE)
    shape = tuple(len(axis) for axis in axes)
    return ResidualTable(
        axes,  # type: ignore[arg-type]  # three
        mean.reshape(shape),
        (scale * np.sqrt(variance)).reshape(shape),
        far,
    )


def _covariance(a: Floats, b: Floats) -> Floats:
    distance = np.abs(a[:, None, :] - b[None, :, :]).sum(axis=-1)
    result: Floats = VARIANCE * np.exp(-distance / LENGTH)
    return result


def _nodes(values: Floats) -> Floats:
    """Distinct values, those nearer than a fifth of an octave merged; ends are kept."""
    distinct = np.unique(values)
    kept = [distinct[0]]
    for value in distinct[1:]:
        if value - kept[-1] > 0.2:
            kept.append(value)
    if kept[-1] != distinct[-1]:
        kept[-1] = distinct[-1]
    return np.array(kept)


@lru_cache(maxsize=256)
def _cached(lines: tuple[tuple[str, str], ...], far: float, scale: float) -> ResidualTable:
    found = np.array(residual_points(dict(lines)), np.float64).reshape(-1, 4)
    return residual_table(np.log2(found[:, :3]), found[:, 3] / 1000, far=far, scale=scale)


def _table(fitted: FittedKernels) -> ResidualTable:
    lines = tuple(fitted.residual.items())
    return _cached(lines, fitted.relative_error, fitted.error_scale)
