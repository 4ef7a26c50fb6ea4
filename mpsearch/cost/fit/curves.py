"""Curves fitted to measured kernels: robust least squares on ln(tau / t), with a prior."""

from dataclasses import dataclass

import numpy as np

from mpsearch.cost.curve import Machine, Shapes, curve_us, encode
from mpsearch.cost.device import Device
from mpsearch.cost.fit.measurements import Measured, rate_of, scheme_of
from mpsearch.cost.measured import kernel_shapes, machine_of
from mpsearch.cost.products import Products
from mpsearch.schemes import find_scheme
from mpsearch.stats.estimates import Floats

START = encode(
    launch_us=4.5,
    power=3.0,
    efficiency=0.7,
    memory_efficiency=1.0,
    stream=2.7,
    prologue_k=90.0,
    tile_loss=20.0,
    split_loss=1.0,
    wide_loss=0.05,
    large_loss=0.1,
    cache_gain=0.0,
)
"""Where fits start, and what parameters that measurements leave open stay near."""
WIDTH = np.array([0.7, 0.7, 0.3, 0.5, 0.7, 1.0, 1.0, 1.0, 1.0, 1.0, 0.7])
"""Standard deviations of the prior, in the logarithms that are fitted."""
_PRIOR_WEIGHT = 0.3
_SCALE = 0.08  # of ln(tau / t) where the loss turns from squares to absolute values
_LOWEST = np.array([-2, -1.5, -3, -1.5, -1.5, 0, -2, -4, -6, -6, -1.5])
_HIGHEST = np.array([3.5, 2.5, 0.1, 1.5, 4, 8, 6, 4, -0.7, -0.7, 2.0])
_SPARSE_EFFICIENCY = -0.22  # of a start: 2:4 gains 1.6 where its peak says 2


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed before measuring: a vector of :mod:`mpsearch.cost.curve` and its widths."""

    theta: Floats
    width: Floats


def default_prior(sparsity: str) -> Prior:
    """Return the prior that knows no other device."""
    theta = START.copy()
    if sparsity != "dense":
        theta[2] += _SPARSE_EFFICIENCY
    return Prior(theta, WIDTH / _PRIOR_WEIGHT)


def fit_theta(
    machine: Machine, shapes: Shapes, us: Floats, prior: Prior, *, start: Floats | None = None
) -> Floats:
    """Return the parameters that explain ``us`` [P] best, given ``prior``."""
    from scipy.optimize import least_squares

    log_us = np.log(us)

    def residuals(theta: Floats) -> Floats:
        left = (np.log(curve_us(theta, machine, shapes)) - log_us) / _SCALE
        return np.concatenate([left, (theta - prior.theta) / prior.width])

    begin = np.clip(prior.theta if start is None else start, _LOWEST + 1e-6, _HIGHEST - 1e-6)
    found = least_squares(residuals, begin, bounds=(_LOWEST, _HIGHEST), loss="soft_l1", max_nfev=50)
    return np.asarray(found.x, np.float64)


def machine_for(device: Device, kind: str, sparsity: str) -> Machine:
    """Return what the curve of operand format ``kind`` needs to know of ``device``."""
    return machine_of(device, rate_of(kind), sparsity)


def shapes_of(measured: Measured) -> Shapes:
    """Return the measured kernels as the curve takes them; results count as 16 bits, whatever was written."""
    m, n, k = measured.sizes.T.astype(np.int64)
    ones = np.ones_like(m)
    products = Products(m, n, k, ones, ones, ones, ones.astype(np.bool_), m * k, m * n)
    scheme = scheme_of(measured.format, measured.sparsity)
    return kernel_shapes(scheme, products, out=find_scheme("fp16").activation)
