"""Sensitivities by the name of their metric."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mpsearch.deadline import deadline_in
from mpsearch.errors import DataError, MetricError
from mpsearch.problem.tables import FULL, Costs, Progress, Table
from mpsearch.registry import find
from mpsearch.sensitivity.shared.entries import refuse_infinite
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.settings import check_settings
from mpsearch.simulate.simulator import Simulator


def score_sensitivity(
    simulator: Simulator,
    *,
    metric: str = "calibrated",
    costs: Costs | None = None,
    budget: int | str | None = None,
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    time_limit_s: float | None = None,
) -> Table:
    """Score every group of the simulator's model at every scheme of its space.

    Args:
        simulator: The model, its space and its calibration data.
        metric: Name of a metric; see ``registry.list_names("metrics")``.
        costs: Costs of the same groups, for metrics that measure where the front will run.
        budget: Evaluations of whole plans that may be spent; None is the metric's own choice,
            ``full`` two for each entry.
        settings: The metric's own settings by name, such as ``{"tolerance": 0.05}``.
        seed: Seed of whatever the metric draws.
        progress: Told how many steps are done, of how many.
        time_limit_s: Seconds after which what was measured is returned; the table's notes say how much that
            is. None takes all data.

    Returns:
        [G, S] values, 0 for the base and where nothing is allowed, with standard errors.

    Raises:
        UnknownNameError: No metric has this name.
        SettingError: The metric has no such setting, or it is of another kind.
        MetricError: The metric cannot stop early, or ``budget`` is neither a number nor ``full``.
    """
    if budget == FULL:
        base = simulator.space.index(simulator.space.base)
        budget = full_budget(int(np.delete(simulator.allowed, base, axis=1).sum()))
    if isinstance(budget, str):
        raise MetricError(f"`budget` must be a number of evaluations or {FULL!r}, got {budget!r}")
    found = find("metrics", metric)
    given = check_settings(f"metric {metric}", found.settings, settings or {})
    if time_limit_s is not None and not found.stops_early:
        raise MetricError(
            f"metric {metric} cannot stop early; leave the time limit out, or take one that measures "
            "entry by entry, such as perturbation"
        )
    task = MetricTask(simulator, costs, budget, seed, progress, deadline_in(time_limit_s))
    return run_metric(found, task, **given)


def run_metric(metric: Metric, task: MetricTask, **settings: Any) -> Table:
    """Return the table of a metric: entries that overflow refused, one sample noted.

    Args:
        metric: The metric.
        task: What to score.
        settings: The metric's own.

    Raises:
        DataError: The metric needs gradients, and the loss is a measure of quality, which has none.
    """
    simulator = task.simulator
    if metric.needs_gradients and simulator.loss_kind == "quality":
        raise DataError(
            f"the loss {simulator.loss_given!r} has no gradient; take a metric that measures, such as "
            "perturbation, or a loss such as kl"
        )
    with np.errstate(invalid="ignore", over="ignore"):  # what overflows is refused, not warned of
        table = refuse_infinite(metric.score(task, **settings))
    if simulator.n_samples == 1:
        note = "one sample: standard errors are not known, each is said to be as large as its value"
        table = replace(table, stderr=np.abs(table.values), notes=(*table.notes, note))
    return table


def full_budget(entries: int) -> int:
    """Evaluations of a full budget: one for each of so many entries, and as many for whole plans."""
    return 2 * entries
