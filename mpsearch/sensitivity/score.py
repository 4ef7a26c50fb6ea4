"""Sensitivities by the name of their metric."""

from typing import Protocol

from mpsearch.execute.simulator import Simulator
from mpsearch.registry import find
from mpsearch.tables import Costs, Progress, Table


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
    ) -> Table:
        """Return an additive, minimised table with standard errors."""


def score_sensitivity(
    simulator: Simulator,
    *,
    metric: str = "perturbation",
    costs: Costs | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """Score every group of the simulator's model at every scheme of its space.

    Args:
        simulator: The model, its space and its calibration data.
        metric: Name of a metric; see ``registry.list_names("metrics")``.
        costs: Costs of the same groups, for metrics that measure where the front will run.
        budget: Evaluations of whole plans that may be spent; None is the metric's own choice.
        seed: Seed of whatever the metric draws.
        progress: Told how many steps are done, of how many.

    Returns:
        [G, S] values, 0 for the base and where nothing is allowed, with standard errors.

    Raises:
        UnknownNameError: No metric has this name.
    """
    score: Metric = find("metrics", metric)
    return score(simulator, costs=costs, budget=budget, seed=seed, progress=progress)
