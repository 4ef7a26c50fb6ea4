"""How far predictions are off: relative error, order of pairs, share within the standard error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.fit.groups import Predicted
from mpsearch.cost.fit.measurements import Measured, scheme_of
from mpsearch.cost.gemm import gemm_latency
from mpsearch.stats.estimates import Floats


@dataclass(frozen=True, slots=True)
class Score:
    """Kernels predicted against measured.

    Attributes:
        count: Kernels.
        mean_error: Mean of |predicted / measured - 1|.
        median_error: Its median.
        ordered: Share of the pairs of different latency whose order is predicted right; None of one kernel.
        within: Share within 1.96 standard errors.
    """

    count: int
    mean_error: float
    median_error: float
    ordered: float | None
    within: float


def score(parts: Sequence[Predicted]) -> Score:
    """Score all kernels of ``parts`` together."""
    us, stderr, measured = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("us", "stderr", "measured_us")
    )
    errors = np.abs(us / measured - 1)
    return Score(
        len(us),
        float(errors.mean()),
        float(np.median(errors)),
        _ordered(us, measured),
        float((np.abs(us - measured) <= 1.96 * stderr).mean()),
    )


def evaluate(
    device: Device, groups: Mapping[tuple[str, str], Measured]
) -> dict[tuple[str, str], Predicted]:
    """Predict measured kernels by a device file, group by group.

    Raises:
        DeviceError: The device cannot run a group; none that was selected for it.
    """
    found = {}
    for key, measured in groups.items():
        m, n, k = measured.sizes.T.astype(np.int64)
        scheme = scheme_of(*key)
        estimate = gemm_latency(device, scheme, m, n, k)
        found[key] = Predicted(np.asarray(estimate.mean), np.asarray(estimate.stderr), measured.us)
    return found


def _ordered(us: Floats, measured: Floats) -> float | None:
    """Compare each kernel with all others, a thousand at a time."""
    right = pairs = 0
    for start in range(0, len(us), 1000):
        part = slice(start, start + 1000)
        said = np.sign(us[part, None] - us[None, :])
        true = np.sign(measured[part, None] - measured[None, :])
        right += int((said * true > 0).sum())
        pairs += int((true != 0).sum())
    return right / pairs if pairs else None
