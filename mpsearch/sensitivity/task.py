"""What a metric is given, and how it is declared."""

from collections.abc import Callable
from dataclasses import dataclass

from mpsearch.deadline import Deadline
from mpsearch.problem.tables import Costs, Progress, Table
from mpsearch.settings import Setting, own_settings
from mpsearch.simulate.simulator import Simulator


@dataclass(frozen=True, slots=True)
class MetricTask:
    """One scoring.

    Attributes:
        simulator: The model, its space and its calibration data.
        costs: Costs of the same groups, for metrics that measure where the front will run.
        budget: Evaluations of whole plans that may be spent; None leaves it to the metric.
        seed: Seed of whatever is drawn.
        progress: Told how many steps are done, of how many.
        deadline: Stop then, with what was scored; for metrics that say that they can.
    """

    simulator: Simulator
    costs: Costs | None = None
    budget: int | None = None
    seed: int = 0
    progress: Progress | None = None
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A sensitivity metric: what is registered under ``mpsearch.metrics``.

    Attributes:
        score: ``score(task, *, own settings) -> Table``, an additive, minimised table with standard
            errors. Its keyword-only parameters, each with a default, are the settings that users
            reach by name.
        measures: Every entry is measured, one evaluation each at least.
        needs_gradients: The loss must have a gradient.
        stops_early: It heeds the task's deadline.
    """

    score: Callable[..., Table]
    measures: bool = False
    needs_gradients: bool = False
    stops_early: bool = False

    @property
    def settings(self) -> dict[str, Setting]:
        """Its own settings by name."""
        return own_settings(self.score)
