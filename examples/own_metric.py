"""A sensitivity metric of one's own, held to what every metric promises.

Run: python -m examples.own_metric

A package registers it in its pyproject.toml, and ``--metric unlucky`` finds it:

    [project.entry-points."mpsearch.metrics"]
    unlucky = "my_package:METRIC"
"""

import tempfile
from pathlib import Path

import numpy as np

import mpsearch as mp
from examples.small_model import write_small_model
from mpsearch.errors import NumericsError
from mpsearch.sensitivity.score_sensitivity import run_metric
from mpsearch.sensitivity.task import Metric, MetricTask


def score(task: MetricTask, *, share: float = 0.9) -> mp.Table:
    """Measure what the unlucky samples lose: a quantile of the losses, not their mean.

    Args:
        task: What to score; its seed draws the bootstrap that gives the standard errors.
        share: Share of the samples that lose less than the score.
    """
    simulator, rng = task.simulator, np.random.default_rng(task.seed)
    allowed, base = simulator.allowed.copy(), simulator.space.index(simulator.space.base)
    values, stderr = np.zeros(allowed.shape), np.zeros(allowed.shape)
    reasons = dict(simulator.reasons)
    uniform = np.full(len(simulator.groups), base, np.int64)
    before = simulator.losses(uniform)
    draws = rng.integers(0, len(before), (50, len(before)))
    entries = [(g, s) for g, s in np.argwhere(allowed).tolist() if s != base]
    for done, (g, s) in enumerate(entries):
        changed = uniform.copy()
        changed[g] = s
        if task.progress is not None:
            task.progress(
                done, len(entries), f"{simulator.groups[g]} at {simulator.space.names[s]}"
            )
        try:
            losses = simulator.losses(changed) - before
        except NumericsError as error:  # it overflows on these data: no score, but not allowed
            allowed[g, s], reasons[simulator.groups[g], simulator.space.names[s]] = (
                False,
                str(error),
            )
            continue
        values[g, s] = np.quantile(losses, share)
        stderr[g, s] = np.quantile(losses[draws], share, axis=1).std()
    if task.progress is not None:
        task.progress(len(entries), len(entries), "all entries measured")
    return mp.Table(
        "unlucky",
        simulator.unit,
        simulator.groups,
        simulator.space.names,
        values,
        stderr,
        allowed,
        reasons=reasons,
        cost_plans=float(len(entries) + 1),
    )


METRIC = Metric(score, measures=True)


def main(folder: Path) -> None:
    """Score the small model."""
    model, data = write_small_model(folder)
    space = mp.read_space("npu")
    simulator = mp.Simulator(mp.import_onnx(model), space, mp.read_batches(data))
    table = run_metric(METRIC, MetricTask(simulator))
    for group, row in zip(table.groups, table.values, strict=True):
        print(group, *(f"{name} {v:.3g}" for name, v in zip(table.schemes, row, strict=True)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
