"""Scores of whole plans on held-out data, with the ranges that calibration data gave."""

from collections.abc import Sequence

import numpy as np

from mpsearch.data import Batches
from mpsearch.execute.simulator import Simulator
from mpsearch.jobs.bench import Bench, evaluation_context
from mpsearch.jobs.rows import mean_scores
from mpsearch.tables import Estimate, Floats

_SCORES = ("nll", "accuracy", "loss")


def score_plans(
    bench: Bench, evaluation: Batches, plans: Sequence[tuple[str, tuple[int, ...] | None]]
) -> list[dict[str, Estimate]]:
    """Return the scores of each plan on ``evaluation``, read through the store.

    With labels: ``nll`` (or the squared error) and ``accuracy`` as the labels have it. Without: ``loss``,
    the divergence from the fp32 model.

    Args:
        bench: The run; its simulator holds the ranges.
        evaluation: Held-out data.
        plans: (label, [G] assignment; None for the fp32 model).
    """
    context = evaluation_context(bench.prepared, bench.simulator, "eval")
    told = bench.watch("held-out")
    held_out: Simulator | None = None
    found = []
    for done, (label, assignment) in enumerate(plans):
        told(done, len(plans), label)
        key = assignment or ()
        scores = {name: bench.store.get(f"{context}/{name}", key) for name in _SCORES}
        known = {name: values for name, values in scores.items() if values is not None}
        if not known:
            held_out = held_out or bench.simulator.on_data(evaluation)
            known = _scores(held_out, assignment)
            for name, values in known.items():
                bench.store.put(f"{context}/{name}", key, values)
        found.append(mean_scores(known))
    told(len(plans), len(plans), "")
    return found


def _scores(simulator: Simulator, assignment: tuple[int, ...] | None) -> dict[str, Floats]:
    chosen = None if assignment is None else np.array(assignment, np.int64)
    if simulator.batches.labels is not None:
        return simulator.scores(chosen)
    if chosen is None:
        return {"loss": np.zeros(simulator.n_samples)}
    return {"loss": simulator.losses(chosen)}
