"""Sensitivities by the name of their metric."""

import inspect
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from mpsearch.errors import MetricError
from mpsearch.problem.tables import FULL, Costs, Progress, Table
from mpsearch.registry import find
from mpsearch.sensitivity.shared.entries import refuse_infinite
from mpsearch.simulate.simulator import Simulator


class Metric(Protocol):
    """Scores every group at every scheme."""

    def __call__(
        self,
        simulator: Simulator,
        *,
        costs: Costs | None = None,
        budget: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        **more: Any,
    ) -> Table:
        """Return an additive, minimised table with standard errors.

        A metric that can stop early takes ``seconds``, ``tolerance`` or both as well.
        """


def score_sensitivity(
    simulator: Simulator,
    *,
    metric: str = "calibrated",
    costs: Costs | None = None,
    budget: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    seconds: float | None = None,
    tolerance: float | None = None,
) -> Table:
    """Score every group of the simulator's model at every scheme of its space.

    Args:
        simulator: The model, its space and its calibration data.
        metric: Name of a metric; see ``registry.list_names("metrics")``.
        costs: Costs of the same groups, for metrics that measure where the front will run.
        budget: Evaluations of whole plans that may be spent; None is the metric's own choice,
            ``full`` two for each entry.
        seed: Seed of whatever the metric draws.
        progress: Told how many steps are done, of how many.
        seconds: Time after which what was measured is returned; the table's notes say how much that
            is. None takes all data.
        tolerance: Expected share of pairs of entries in the wrong order at which enough samples were
            seen; None takes all data.

    Returns:
        [G, S] values, 0 for the base and where nothing is allowed, with standard errors.

    Raises:
        UnknownNameError: No metric has this name.
        MetricError: The metric cannot stop early, or ``budget`` is neither a number nor ``full``.
    """
    if budget == FULL:
        base = simulator.space.index(simulator.space.base)
        budget = full_budget(int(np.delete(simulator.allowed, base, axis=1).sum()))
    if isinstance(budget, str):
        raise MetricError(f"`budget` must be a number of evaluations or {FULL!r}, got {budget!r}")
    score: Metric = find("metrics", metric)
    more = {"seconds": seconds, "tolerance": tolerance}
    given = {name: value for name, value in more.items() if value is not None}
    refused = [name for name in given if name not in inspect.signature(score).parameters]
    if refused:
        raise MetricError(
            f"metric {metric} cannot stop early ({', '.join(refused)}); leave it out, or take one that "
            f"measures entry by entry, such as perturbation"
        )
    return run_metric(
        score, simulator, costs=costs, budget=budget, seed=seed, progress=progress, **given
    )


def run_metric(score: Metric, simulator: Simulator, **arguments: Any) -> Table:
    """Return the table of a metric's ``score``: entries that overflow refused, one sample noted.

    Args:
        score: The metric.
        simulator: The model, its space and its calibration data.
        arguments: What else ``score`` takes.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # what overflows is refused, not warned of
        table = refuse_infinite(score(simulator, **arguments))
    if simulator.n_samples == 1:
        note = "one sample: standard errors are not known, each is said to be as large as its value"
        table = replace(table, stderr=np.abs(table.values), notes=(*table.notes, note))
    return table


def full_budget(entries: int) -> int:
    """Evaluations of a full budget: one for each of so many entries, and as many for whole plans."""
    return 2 * entries
