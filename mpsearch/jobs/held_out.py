"""Scores of whole plans on held-out data, with the ranges that calibration data gave."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from mpsearch.artifacts import digest_json
from mpsearch.choose.by_quality import Scorer
from mpsearch.data.batches import Batches
from mpsearch.figures.plan_row import mean_scores
from mpsearch.jobs.recovered import RecoveredPlans
from mpsearch.jobs.stage_inputs import Bench, evaluation_context
from mpsearch.problem.tables import Progress
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Estimate, Floats

_SCORES = ("nll", "accuracy", "loss")


def held_out_scorer(
    bench: Bench, evaluation: Batches, recovered: RecoveredPlans | None = None
) -> Scorer:
    """Return what scores plans on ``evaluation`` sample by sample, read through the store.

    With labels: ``nll`` (or the squared error) and ``accuracy`` as the labels have it. Without: ``loss``,
    the divergence from the fp32 model. And the job's quality where that is a function, by its name.

    Args:
        bench: The run; its simulator holds the ranges.
        evaluation: Held-out data.
        recovered: Plans that are scored with the weights that recovery gave them; None scores all without.
    """
    function = bench.prepared.job.quality if ":" in bench.prepared.job.quality else ""
    names = (*_SCORES, function) if function else _SCORES
    context = evaluation_context(bench.prepared, bench.simulator, bench.calibration, "eval")

    @cache
    def simulator() -> Simulator:
        return bench.simulator.on_data(evaluation)

    @cache
    def own_simulator() -> Simulator:
        return bench.simulator.on_data(evaluation, loss=f"quality:{function}")

    def score(assignment: tuple[int, ...] | None) -> dict[str, Floats]:
        key = assignment or ()
        plan = None if recovered is None else recovered.plan(key)
        weights = None if plan is None else plan.weights
        own = context if weights is None else digest_json([context, weights.digest])
        scores = {name: bench.store.get(f"{own}/{name}", key) for name in names}
        known = {name: values for name, values in scores.items() if values is not None}
        if not known:
            known = _scores(changed(simulator(), key), assignment)
            if function:
                known[function] = _own_scores(changed(own_simulator(), key), assignment)
            known = {
                name: bench.store.put(f"{own}/{name}", key, values)
                for name, values in known.items()
            }
        return known

    def changed(plain: Simulator, key: tuple[int, ...]) -> Simulator:
        return plain if recovered is None else recovered.changed(key, plain)

    return score


def score_plans(
    scorer: Scorer, plans: Sequence[tuple[str, tuple[int, ...] | None]], progress: Progress
) -> list[dict[str, Estimate]]:
    """Return mean and standard error of the scores of each plan.

    Args:
        scorer: Scores plans on held-out data.
        plans: (label, [G] assignment; None for the fp32 model).
        progress: Called with each label.
    """
    found = []
    for done, (label, assignment) in enumerate(plans):
        progress(done, len(plans), label)
        found.append(mean_scores(scorer(assignment)))
    progress(len(plans), len(plans), "")
    return found


def _scores(simulator: Simulator, assignment: tuple[int, ...] | None) -> dict[str, Floats]:
    chosen = None if assignment is None else np.array(assignment, np.int64)
    if simulator.batches.labels is not None:
        return simulator.scores(chosen)
    if chosen is None:
        return {"loss": np.zeros(simulator.n_samples)}
    return {"loss": simulator.losses(chosen)}


def _own_scores(simulator: Simulator, assignment: tuple[int, ...] | None) -> Floats:
    """Return the [n] scores of the user's own function, from a simulator whose loss is their drop."""
    parts = [t.reference_quality for t in simulator.targets if t.reference_quality is not None]
    reference: Floats = np.concatenate([part.double().cpu().numpy() for part in parts])
    own = simulator.targets[0].quality
    if assignment is None or own is None:
        return reference
    return reference + own.sign * simulator.losses(np.array(assignment, np.int64))
