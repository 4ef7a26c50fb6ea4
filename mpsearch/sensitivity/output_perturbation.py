"""Output perturbation: relative error of an output when one group alone runs in a scheme.

``output_perturbation`` is the error at the layer's own output: each layer is replayed on its own fp32 inputs, so
that errors of earlier layers do not count. Needs no loss and no gradient; blind to how much the
model cares. ``model_output_perturbation`` is the error at the model's outputs, measured with the group lowered
and all others in the base format, whatever the loss is.
"""

from dataclasses import replace

import numpy as np

from mpsearch.problem.tables import Table
from mpsearch.registry import find
from mpsearch.sensitivity.shared.entries import RatioSum
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.probe import capture, replay


def score(task: MetricTask) -> Table:
    """Compare every layer's output with itself, the layer in each scheme and in fp32.

    The value of a group is the sum over its layers of |Y − Y_s|² / |Y|²; an output of zeros has no error.

    Args:
        task: What to score; about one evaluation is spent for each scheme, whatever the budget. Nothing is
            drawn.
    """
    simulator, progress = task.simulator, task.progress
    base = simulator.space.index(simulator.space.base)
    shape = simulator.allowed.shape
    layers = simulator.graph.layers
    group_of = {i: g for g, group in enumerate(simulator.graph.groups) for i in group.layers}
    sums: dict[tuple[int, int], RatioSum] = {}
    batches = list(simulator.batches.iterate())
    for done, batch in enumerate(batches):
        if progress is not None:
            progress(done, len(batches), "errors of layers' outputs")
        tensors = capture(simulator.calibrated, range(len(layers)), batch)
        n = len(next(iter(batch.values())))
        for i, layer in enumerate(layers):
            plain = tensors.get(layer.output)
            if plain is None or not plain.is_floating_point():
                continue
            for s in np.flatnonzero(simulator.allowed[group_of[i]]).tolist():
                if s != base:
                    error = replay(simulator.calibrated, i, s, tensors) - plain
                    sums.setdefault((i, s), RatioSum()).add(error, plain, n)
    values, variance = np.zeros(shape), np.zeros(shape)
    for (i, s), ratio in sums.items():
        mean, stderr = ratio.estimate()
        values[group_of[i], s] += mean
        variance[group_of[i], s] += stderr**2
    if progress is not None:
        progress(len(batches), len(batches), "all outputs compared")
    return Table(
        metric="output_perturbation",
        unit="relative MSE",
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=np.sqrt(variance),
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        cost_plans=float(len(simulator.space.schemes)),
    )


METRIC = Metric(score)


def score_model(task: MetricTask, *, tolerance: float | None = None) -> Table:
    """Compare the model's outputs with the fp32 model's, one group in each scheme.

    The value is what the group adds to the mean |Y − Y_s|² over the variance of Y, averaged over the model's outputs. ``details`` holds
    ``layer_output``, what :func:`score` gives.

    Args:
        task: What to score, whose own loss is not read; a budget of fewer evaluations than there are entries
            is refused. Nothing is drawn.
        tolerance: Expected share of discordant pairs of entries at which to stop.

    Raises:
        InfeasibleError: The budget does not reach all entries.
    """
    at_layers = score(MetricTask(task.simulator))
    own = replace(task, simulator=task.simulator.by_loss("mse"))
    table = find("metrics", "perturbation").score(own, tolerance=tolerance)
    return replace(
        table,
        metric="model_output_perturbation",
        details={**table.details, "layer_output": at_layers.values},
        cost_plans=table.cost_plans + at_layers.cost_plans,
    )


MODEL_OUTPUT = Metric(score_model, measures=True, stops_early=True)
