"""SQNR: noise-to-signal power of each layer's weights and activations, quantised where they stand.

Needs no loss and no gradient, only one pass over the data. The noise ratios of the two operands of a
product add up at its output if their errors are independent, so their sum is the value; powers are
additive, decibels are not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpsearch.problem.tables import Progress, Table
from mpsearch.schemes import Scheme
from mpsearch.sensitivity.shared.entries import RatioSum
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.probe import capture, plain_weight, simulated_weight
from mpsearch.simulate.scheme_run import Read, quantize_input, read_operands
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Bools, Floats


def score(task: MetricTask) -> Table:
    """Compare every operand with itself quantised.

    The value of a group is the sum over its layers of |w − Q(w)|² / |w|² and |x − Q(x)|² / |x|²; the
    standard error is that of the activations over samples. A tensor of zeros has no noise. ``details`` holds both parts.

    Args:
        task: What to score; less than one evaluation is spent for each scheme, whatever the budget. Nothing
            is drawn.
    """
    simulator, base = task.simulator, task.simulator.space.index(task.simulator.space.base)
    wanted = simulator.allowed.copy()
    wanted[:, base] = False
    noise = measure_noise(simulator, wanted, task.progress)
    return Table(
        metric="sqnr",
        unit="noise/signal",
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=noise.weight + noise.activation,
        stderr=np.sqrt(noise.variance),
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        details={"weight_noise": noise.weight, "activation_noise": noise.activation},
        cost_plans=1.0,
    )


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise over signal of each group's operands in each scheme, [G, S] each; 0 where it was not asked for.

    Attributes:
        weight: Of weights.
        activation: Of activations.
        variance: Of the estimate of ``activation``.
    """

    weight: Floats
    activation: Floats
    variance: Floats


def measure_noise(simulator: Simulator, wanted: Bools, progress: Progress | None = None) -> Noise:
    """Return the noise of the entries ``wanted`` [G, S], from one pass over the data."""
    schemes, layers = simulator.space.schemes, simulator.graph.layers
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
                for s in np.flatnonzero(wanted[group_of[i]]).tolist():
                    error = _activation_error(simulator, x, schemes[s], read, layer.name)
                    sums.setdefault((i, s, read.index), RatioSum()).add(error, x, n)
    noise = Noise(*(np.zeros(wanted.shape) for _ in range(3)))
    for (i, s, _), ratio in sums.items():
        mean, stderr = ratio.estimate()
        noise.activation[group_of[i], s] += mean
        noise.variance[group_of[i], s] += stderr**2
    for i in range(len(layers)):
        for s in np.flatnonzero(wanted[group_of[i]]).tolist():
            noise.weight[group_of[i], s] += weight_noise(simulator, i, s)
    if progress is not None:
        progress(len(batches), len(batches), "all operands compared")
    return noise


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
