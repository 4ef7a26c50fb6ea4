"""Output perturbation: relative error of each layer's output when it alone runs in a scheme.

Each layer is replayed on its own fp32 inputs, so that errors of earlier layers do not count. Needs
no loss and no gradient; blind to how much the model cares.
"""

import numpy as np

from mpsearch.execute.simulator import Simulator
from mpsearch.sensitivity.single import RatioSum
from mpsearch.tables import Costs, Progress, Table


def score(
    simulator: Simulator,
    *,
    costs: Costs | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """Compare every layer's output with itself, the layer in each scheme and in fp32.

    The value of a group is the sum over its layers of |Y − Y_s|² / |Y|²; an output of zeros has no error.

    Args:
        simulator: The model and its data.
        costs: Not needed.
        budget: Not needed: about one evaluation is spent for each scheme.
        seed: Nothing is drawn.
        progress: Told the batches that are done.
    """
    base = simulator.space.index(simulator.space.base)
    shape = simulator.allowed.shape
    layers = simulator.graph.layers
    group_of = {i: g for g, group in enumerate(simulator.graph.groups) for i in group.layers}
    sums: dict[tuple[int, int], RatioSum] = {}
    batches = list(simulator.batches.iterate())
    for done, batch in enumerate(batches):
        if progress is not None:
            progress(done, len(batches), "errors of layers' outputs")
        tensors = simulator.capture(range(len(layers)), batch)
        n = len(next(iter(batch.values())))
        for i, layer in enumerate(layers):
            plain = tensors.get(layer.output)
            if plain is None or not plain.is_floating_point():
                continue
            for s in np.flatnonzero(simulator.allowed[group_of[i]]).tolist():
                if s != base:
                    error = simulator.replay(i, s, tensors) - plain
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
