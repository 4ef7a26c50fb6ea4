"""KL: divergence of the outputs' distributions from the fp32 model, whatever the loss is.

Equal to ``perturbation`` where there are no labels. Differences of a loss against labels are noisy
and may be negative; a divergence is neither.
"""

from dataclasses import replace

from mpsearch.losses.outputs import LABELLED
from mpsearch.problem.tables import Table
from mpsearch.registry import find
from mpsearch.sensitivity.task import Metric, MetricTask


def score(task: MetricTask, *, tolerance: float | None = None) -> Table:
    """Measure the divergence with one group lowered and all others in the base format.

    Args:
        task: What to score, whose labels are not read; a budget of fewer evaluations than there are entries
            is refused. Nothing is drawn.
        tolerance: Expected share of discordant pairs of entries at which to stop.

    Raises:
        InfeasibleError: The budget does not reach all entries.
    """
    own = task.simulator
    if own.loss_kind in (*LABELLED, "quality"):
        own = own.by_loss("kl")
    measure = find("metrics", "perturbation").score
    table = measure(replace(task, simulator=own), tolerance=tolerance)
    return replace(table, metric="kl")


METRIC = Metric(score, measures=True, stops_early=True)
