"""Gradient: first-order change of the loss, |gradient · rounding error|, of weights and activations.

Source: AutoRound's DeltaLoss, Σ |g (w − Q(w))| + Σ |g (x − Q(x))|. The gradient of a divergence from
the fp32 model is zero at that model, so the gradients are those of drawn labels: the value is how far
the log-likelihood of what the model itself would say moves.
"""

import numpy as np
import torch
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.problem.tables import Table
from mpsearch.sensitivity.shared.backward import Pass, draw_losses, iterate_passes, layer_gradients
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.probe import simulated_weight
from mpsearch.simulate.scheme_run import quantize_input, read_operands, weight_inputs
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats, estimate_mean


def score(task: MetricTask) -> Table:
    """Sum |gradient × rounding error| over the elements of every group's operands.

    Activations are summed for each sample; weights for each batch, with the batch's mean gradient.

    Args:
        task: What to score; about three evaluations are spent, whatever the budget.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    simulator, progress = task.simulator, task.progress
    shape = simulator.allowed.shape
    group_of = {i: g for g, group in enumerate(simulator.graph.groups) for i in group.layers}
    samples: list[Floats] = []
    n_runs = simulator.n_runs
    for b, done in enumerate(iterate_passes(simulator)):
        rng = torch.Generator().manual_seed(task.seed * 1_000_003 + b)
        losses = draw_losses(simulator, done, rng)
        gradients = layer_gradients(simulator, done, losses, keep=False)
        part = np.zeros((done.n, *shape))
        for i, gradient in gradients.items():
            _add_layer(simulator, done, i, gradient, part[:, group_of[i]])
        samples.append(part)
        if progress is not None:
            progress(b + 1, n_runs, "gradients of operands")
    every = np.concatenate(samples)
    values, stderr = np.zeros(shape), np.zeros(shape)
    for g, s in np.ndindex(*shape):
        values[g, s], stderr[g, s] = estimate_mean(every[:, g, s])
    return Table(
        metric="gradient",
        unit="nats, first order",
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=stderr,
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        cost_plans=3.0,
    )


METRIC = Metric(score, needs_gradients=True)


def _add_layer(simulator: Simulator, done: Pass, index: int, gradient: Tensor, out: Floats) -> None:
    """Add one layer's terms to ``out`` [n, S]."""
    layer = simulator.graph.layers[index]
    program, step = simulator.calibrated.layer_steps[index]
    base = simulator.space.index(simulator.space.base)
    group = next(g for g, x in enumerate(simulator.graph.groups) if index in x.layers)
    names = [*step.node.inputs]
    tensors: list[Tensor | None] = []
    for slot, name in zip(step.inputs, names, strict=False):
        tensors.append(done.inputs.get(name, program.constants.get(slot)))
    reads = [read for read in read_operands(layer) if tensors[read.index] is not None]
    weights = weight_inputs(layer)
    leaves = {}
    for place in (*(read.index for read in reads), *(place for _, place in weights)):
        found = tensors[place]
        if found is not None:
            leaves[place] = tensors[place] = found.detach().clone().requires_grad_()
    with torch.enable_grad():
        result = step.kernel(*tensors)
        first = result[0] if isinstance(result, tuple) else result
        grads = torch.autograd.grad(first, list(leaves.values()), gradient, materialize_grads=True)
    found_grads = dict(zip(leaves, grads, strict=True))
    for s in np.flatnonzero(simulator.allowed[group]).tolist():
        if s == base:
            continue
        spec = simulator.space.schemes[s].activation
        for read in reads:
            x = leaves[read.index].detach()
            error = x - quantize_input(x, spec, read, simulator.ranges, layer.name)
            each = (found_grads[read.index] * error).abs().double()
            rows = done.n if each.shape[0] % done.n == 0 else 1
            out[:, s] += each.reshape(rows, -1).sum(1).cpu().numpy() / (1 if rows > 1 else done.n)
        for gemm, place in weights:
            change = leaves[place].detach() - simulated_weight(simulator.calibrated, index, s, gemm)
            total = float((found_grads[place] * change).abs().double().sum())
            out[:, s] += total / done.n
    if not np.isfinite(out).all():
        raise NumericsError(f"gradients of layer {layer.name!r} hold NaN or Inf")
