"""SQNR: noise-to-signal power of each layer's weights and activations, quantised where they stand.

Needs no loss and no gradient, only one pass over the data. The noise ratios of the two operands of a
product add up at its output if their errors are independent, so their sum is the value; powers are
additive, decibels are not.
"""

import numpy as np
import torch
from torch import Tensor

from mpsearch.problem.tables import Table
from mpsearch.schemes import Scheme
from mpsearch.sensitivity.shared.entries import RatioSum
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.probe import capture, plain_weight, simulated_weight
from mpsearch.simulate.scheme_run import Read, quantize_input, read_operands
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats


def score(task: MetricTask) -> Table:
    """Compare every operand with itself quantised.

    The value of a group is the sum over its layers of |w − Q(w)|² / |w|² and |x − Q(x)|² / |x|²; the
    standard error is that of the activations over samples. A tensor of zeros has no noise. ``details`` holds both parts.

    Args:
        task: What to score; less than one evaluation is spent for each scheme, whatever the budget. Nothing
            is drawn.
    """
    simulator, progress = task.simulator, task.progress
    schemes, base = simulator.space.schemes, simulator.space.index(simulator.space.base)
    layers = simulator.graph.layers
    group_of = {i: g for g, group in enumerate(simulator.graph.groups) for i in group.layers}
    sums: dict[tuple[int, int, int], RatioSum] = {}
    batches = list(simulator.batches.iterate())
    for done, batch in enumerate(batches):
        if progress is not None:
            progress(done, len(batches), "noise of activations")
        tensors = capture(simulator.calibrated, range(len(layers)), batch)
        n = len(next(iter(batch.values())))
        for i, layer in enumerate(layers):
            for read in read_operands(layer):
                if read.value not in tensors:
                    continue
                x = tensors[read.value]
                for s, scheme in enumerate(schemes):
                    if s == base or not simulator.allowed[group_of[i], s]:
                        continue
                    error = _activation_error(simulator, x, scheme, read, layer.name)
                    key = (i, s, read.index)
                    sums.setdefault(key, RatioSum()).add(error, x, n)
    weight, activation = np.zeros(simulator.allowed.shape), np.zeros(simulator.allowed.shape)
    variance = np.zeros(simulator.allowed.shape)
    for (i, s, _), ratio in sums.items():
        mean, stderr = ratio.estimate()
        activation[group_of[i], s] += mean
        variance[group_of[i], s] += stderr**2
    for i in range(len(layers)):
        for s in range(len(schemes)):
            if s != base and simulator.allowed[group_of[i], s]:
                weight[group_of[i], s] += weight_noise(simulator, i, s)
    if progress is not None:
        progress(len(batches), len(batches), "all operands compared")
    return Table(
        metric="sqnr",
        unit="noise/signal",
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=weight + activation,
        stderr=np.sqrt(variance),
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        details={"weight_noise": weight, "activation_noise": activation},
        cost_plans=1.0,
    )


METRIC = Metric(score)


def decibels(noise: Floats) -> Floats:
    """Return signal-to-noise in dB for people; what has no noise is NaN, to be shown as a dash."""
    with np.errstate(divide="ignore"):
        return np.where(noise > 0, -10 * np.log10(noise), np.nan)


def weight_noise(simulator: Simulator, layer: int, scheme: int) -> float:
    """Return |w − Q(w)|² / |w|², summed over the weights of ``layer``; 0 for weights that are 0."""
    total = 0.0
    for index, gemm in enumerate(simulator.graph.layers[layer].gemms):
        if not gemm.has_weight:
            continue
        w = plain_weight(simulator.calibrated, layer, index).double()
        power = float(w.square().sum())
        if power > 0:
            error = w - simulated_weight(simulator.calibrated, layer, scheme, index).double()
            total += float(error.square().sum()) / power
    return total


def _activation_error(
    simulator: Simulator, x: Tensor, scheme: Scheme, read: Read, layer: str
) -> Tensor:
    with torch.no_grad():
        return x - quantize_input(x, scheme.activation, read, simulator.ranges, layer)
