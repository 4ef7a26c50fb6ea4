"""KL: divergence of the outputs' distributions from the fp32 model, whatever the loss is.

Equal to ``perturbation`` where there are no labels. Differences of a loss against labels are noisy
and may be negative; a divergence is neither.
"""

from dataclasses import replace

from mpsearch.losses.outputs import LABELLED
from mpsearch.problem.tables import Costs, Progress, Table
from mpsearch.registry import find
from mpsearch.simulate.simulator import Simulator


def score(
    simulator: Simulator,
    *,
    costs: Costs | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    seconds: float | None = None,
    tolerance: float | None = None,
) -> Table:
    """Measure the divergence with one group lowered and all others in the base format.

    Args:
        simulator: The model and its data; labels are not read.
        costs: Not needed.
        budget: Evaluations that may be spent; fewer than there are entries is refused.
        seed: Nothing is drawn.
        progress: Told the entries that are done.
        seconds: Time after which what was measured is returned.
        tolerance: Expected share of discordant pairs of entries at which to stop.

    Raises:
        InfeasibleError: The budget does not reach all entries.
    """
    own = simulator
    if simulator.loss_kind in (*LABELLED, "quality"):
        own = simulator.by_loss("kl")
    measure = find("metrics", "perturbation")
    table: Table = measure(
        own, costs=costs, budget=budget, progress=progress, seconds=seconds, tolerance=tolerance
    )
    return replace(table, metric="kl")
