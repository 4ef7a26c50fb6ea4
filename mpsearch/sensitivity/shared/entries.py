"""What metrics share: which entries to score, paired differences, the empty table."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.problem.tables import Table
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Estimate, Floats, Ints, estimate_mean


def base_assignment(simulator: Simulator) -> Ints:
    """Return the [G] assignment of the base format to every group."""
    base = simulator.space.index(simulator.space.base)
    return np.full(len(simulator.groups), base, np.int64)


def single_changes(simulator: Simulator) -> list[tuple[int, int]]:
    """Return (group, scheme) of every allowed entry but the base's, scheme by scheme."""
    base = simulator.space.index(simulator.space.base)
    n_groups, n_schemes = simulator.allowed.shape
    return [
        (g, s)
        for s in range(n_schemes)
        for g in range(n_groups)
        if s != base and simulator.allowed[g, s]
    ]


def change_one(assignment: Ints, group: int, scheme: int) -> Ints:
    """Return ``assignment`` with one group at another scheme."""
    changed = assignment.copy()
    changed[group] = scheme
    return changed


def finite_loss(simulator: Simulator, assignment: Ints) -> float | None:
    """Return the mean loss of ``assignment`` [G]; None where it overflows."""
    with suppress(NumericsError):
        return simulator.loss(assignment).mean
    return None


def refuse_infinite(table: Table) -> Table:
    """Return ``table`` with entries that are NaN or Inf not allowed: they overflow, and are no score."""
    bad = ~(np.isfinite(table.values) & np.isfinite(table.stderr)) & table.allowed
    if not bad.any():
        return table
    reasons = dict(table.reasons)
    for g, s in np.argwhere(bad).tolist():
        reasons[table.groups[g], table.schemes[s]] = (
            f"overflows on the data: {table.metric} of {table.groups[g]!r} is NaN or Inf"
        )
    return replace(
        table,
        values=np.where(bad, 0.0, table.values),
        stderr=np.where(bad, 0.0, table.stderr),
        allowed=table.allowed & ~bad,
        reasons=reasons,
        details={name: np.where(bad, 0.0, values) for name, values in table.details.items()},
    )


class RatioSum:
    """Accumulates Σ|e|² / Σ|x|² over samples, with the standard error of the ratio.

    The error is that of a ratio of means (the delta method); one sample is as uncertain as large.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[Floats] = []

    def add(self, error: Tensor, signal: Tensor, n: int) -> None:
        """Add ``n`` samples: tensors of one shape, samples first (else they count as one)."""
        rows = n if error.ndim and error.shape[0] == n else 1
        powers = [
            t.reshape(rows, -1).double().square().sum(1).cpu().numpy() for t in (error, signal)
        ]
        self._parts.append(np.stack(powers, axis=1))

    def estimate(self) -> Estimate:
        """Return the ratio; 0 where there is no signal."""
        parts = np.concatenate(self._parts)
        noise, power = parts.mean(axis=0)
        if power == 0:
            return Estimate(0.0, 0.0)
        ratio = float(noise / power)
        if len(parts) < 2:
            return Estimate(ratio, ratio)
        residual = (parts[:, 0] - ratio * parts[:, 1]) / power
        return Estimate(ratio, estimate_mean(residual).stderr)


def predict(table: Table, assignments: Ints) -> Floats:
    """Return what ``table`` says of each of ``assignments`` [P, G]: sums of its values and pair terms."""
    rows = np.arange(len(table.groups))
    total = table.values[rows, assignments].sum(axis=1)
    if table.pair_terms is not None:
        for (a, b), term in zip(table.edges.tolist(), table.pair_terms, strict=True):
            total = total + term[assignments[:, a], assignments[:, b]]
    return np.asarray(total, np.float64)
