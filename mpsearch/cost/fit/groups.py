"""One format and sparsity of one device: curve, residual, and how far off kernels are that were left out."""

from dataclasses import dataclass

import numpy as np

from mpsearch.cost.curve import Machine, Shapes, curve_us, decode
from mpsearch.cost.device import Device
from mpsearch.cost.fit.curves import Prior, fit_theta, machine_for, shapes_of
from mpsearch.cost.fit.measurements import Measured
from mpsearch.cost.fitted import FittedKernels, residual_lines
from mpsearch.cost.measured import ResidualTable, residual_table
from mpsearch.stats.estimates import Floats, Ints

FOLDS = 10
MOST_POINTS = 256
"""Kernels whose residuals a device file keeps; of more, neighbours are averaged."""
_Z95 = 1.959964
_LEAST_ERROR = 0.02


@dataclass(frozen=True, slots=True)
class Predicted:
    """Kernels predicted without their (N, K): latency, standard error, and what was measured, [P] each."""

    us: Floats
    stderr: Floats
    measured_us: Floats

    @property
    def errors(self) -> Floats:
        """Relative errors [P]."""
        return np.abs(self.us / self.measured_us - 1)


@dataclass(frozen=True, slots=True)
class Group:
    """A fitted curve with its residual; what :class:`FittedKernels` stores."""

    theta: Floats
    points: Floats
    left: Floats
    relative_error: float
    error_scale: float

    @property
    def table(self) -> ResidualTable:
        """The residual on its grid."""
        return residual_table(
            self.points, self.left, far=self.relative_error, scale=self.error_scale
        )

    def predict(self, machine: Machine, shapes: Shapes) -> tuple[Floats, Floats]:
        """Return latency and standard error [N]."""
        position = np.log2(np.stack([shapes.m * shapes.copies, shapes.n, shapes.k]))
        left, spread, beyond = self.table.at(position)
        us = curve_us(self.theta, machine, shapes) * np.exp(left)
        return us, us * np.sqrt(spread**2 + (0.05 * beyond) ** 2)


def fit_group(
    device: Device, measured: Measured, prior: Prior, *, folds: int = FOLDS
) -> tuple[Group, Predicted | None]:
    """Fit one group, and predict each of its kernels from fits without its (N, K).

    Args:
        device: The device.
        measured: Its kernels.
        prior: What is believed before.
        folds: Parts that the (N, K) pairs are dealt into.

    Returns:
        The group, and predictions of kernels left out; None where fewer than three (N, K) were measured.
    """
    machine = machine_for(device, measured.format, measured.sparsity)
    shapes = shapes_of(measured)
    theta = fit_theta(machine, shapes, measured.us, prior)
    part = _deal(measured.sizes, folds)
    if part.max(initial=0) < 2:
        error = float(np.sqrt(np.mean(_left(theta, machine, shapes, measured.us) ** 2)))
        return group_of(theta, machine, shapes, measured, max(error, 0.15), 1.5), None
    us, stderr, curve = (np.zeros(len(shapes)) for _ in range(3))
    for fold in range(int(part.max()) + 1):
        test = part == fold
        kept = fit_theta(machine, shapes.take(~test), measured.us[~test], prior, start=theta)
        group = group_of(kept, machine, shapes.take(~test), measured.take(~test), 0.1, 1.0)
        us[test], stderr[test] = group.predict(machine, shapes.take(test))
        curve[test] = curve_us(kept, machine, shapes.take(test))
    z = np.abs(np.log(us / measured.us)) / (stderr / us)
    scale = float(np.quantile(z, 0.95)) / _Z95
    spread = np.abs(np.log(curve / measured.us))
    far = max(_LEAST_ERROR, float(np.quantile(spread, 0.95)) / _Z95)
    group = group_of(theta, machine, shapes, measured, far, max(scale, 0.3))
    return group, Predicted(us, stderr * scale, measured.us)


def fitted_kernels(
    measured: Measured, group: Group, predicted: Predicted | None, *, library: str, source: str
) -> FittedKernels:
    """Return what a device file says of ``group``."""
    sizes = np.round(2**group.points).astype(np.int64)
    points = np.column_stack([sizes, np.round(1000 * group.left).astype(np.int64)])
    error = None if predicted is None else _short(float(predicted.errors.mean()))
    facts = {
        "format": measured.format,
        "sparsity": measured.sparsity,
        "library": library,
        "relative_error": _short(group.relative_error),
        "error_scale": _short(group.error_scale),
        "points": len(measured.us),
        "cross_validated": error,
        "residual": residual_lines([tuple(row) for row in points.tolist()]),
        "source": source,
    }
    parameters = {name: _short(value) for name, value in decode(group.theta).items()}
    return FittedKernels.model_validate(facts | parameters)


def group_of(
    theta: Floats,
    machine: Machine,
    shapes: Shapes,
    measured: Measured,
    far: float,
    scale: float,
) -> Group:
    """Return a curve with what it leaves at ``measured``.

    Args:
        theta: The curve's parameters.
        machine: What it knows of the device.
        shapes: The measured kernels' sizes.
        measured: Their latencies.
        far: Relative error of the curve alone.
        scale: Factor on the residual's standard errors.
    """
    left = _left(theta, machine, shapes, measured.us)
    points, left = _thin(np.log2(measured.sizes), left)
    return Group(theta, points, left, far, scale)


def _left(theta: Floats, machine: Machine, shapes: Shapes, us: Floats) -> Floats:
    result: Floats = np.log(us / curve_us(theta, machine, shapes))
    return result


def _thin(points: Floats, left: Floats) -> tuple[Floats, Floats]:
    """Average neighbours, in cells of an eighth of an octave and more, until few enough are left."""
    cell = 0.125
    while len(points) > MOST_POINTS:
        _, which, count = np.unique(
            np.round(points / cell), axis=0, return_inverse=True, return_counts=True
        )
        which = which.ravel()
        left = np.bincount(which, left) / count
        points = np.stack([np.bincount(which, column) / count for column in points.T], axis=1)
        cell *= 1.5
    return points, left


def _deal(sizes: Floats, folds: int) -> Ints:
    """Return the part [P] of each kernel: its (N, K) decides, dealt in turn after a fixed shuffle."""
    _, which = np.unique(sizes[:, 1:], axis=0, return_inverse=True)
    order = np.random.default_rng(0).permutation(int(which.max()) + 1)
    part: Ints = (order % folds)[which.ravel()]
    return part


def _short(value: float) -> float:
    return float(f"{value:.4g}")
