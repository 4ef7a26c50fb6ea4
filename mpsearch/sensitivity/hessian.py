"""Hessian: curvature of the loss in each weight, times the squared error that a scheme makes there.

Three flavours of one score, ½ · curvature · |W − Q(W)|²: the Hessian's mean eigenvalue by Hutchinson
(HAWQ-V2, arXiv 1911.03852), that of the Gauss-Newton matrix, which is never negative, and the largest
eigenvalue by Lanczos (HAWQ, arXiv 1905.03696). Weights only: activations and products of
activations count nothing. ``details`` holds the bare trace or eigenvalue.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mpsearch.losses.losses import sample_losses
from mpsearch.problem.tables import Table
from mpsearch.sensitivity.shared.backward import Pass, draw_losses, iterate_passes
from mpsearch.sensitivity.shared.curvature import (
    gauss_newton_samples,
    hessian_samples,
    largest_eigenvalues,
)
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.probe import plain_weight, simulated_weight
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats, estimate_mean

PROBES = 8
LANCZOS_STEPS = 8


def score(task: MetricTask) -> Table:
    """Score by the Hessian's trace over the number of weights.

    Args:
        task: What to score. The budget is the probes a batch times four, since a product with the Hessian
            takes about as long as four evaluations; None takes 8 probes.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the weight.
    """
    n_probes = PROBES if task.budget is None else max(2, task.budget // 4)

    def measure(done: Pass, batch_seed: int) -> Floats:
        loss = sample_losses("kl", task.simulator.heads, done.heads, done.target).mean()
        return hessian_samples(loss, done.weights, n_probes=n_probes, seed=batch_seed)

    return _score(task, "hessian", measure, True, 4.0 * n_probes)


METRIC = Metric(score, needs_gradients=True)


def score_gauss_newton(task: MetricTask) -> Table:
    """Score by the Gauss-Newton matrix's trace over the number of weights; see :func:`score`."""
    n_probes = PROBES if task.budget is None else max(2, task.budget // 2)

    def measure(done: Pass, batch_seed: int) -> Floats:
        def draw(rng: torch.Generator) -> Tensor:
            losses = draw_losses(task.simulator, done, rng)
            signs = (torch.randint(0, 2, losses.shape, generator=rng) * 2 - 1).to(losses)
            return (signs * losses).sum() / len(losses) ** 0.5

        return gauss_newton_samples(draw, done.weights, n_probes=n_probes, seed=batch_seed)

    return _score(task, "gauss_newton", measure, True, 2.0 * n_probes)


GAUSS_NEWTON = Metric(score_gauss_newton, needs_gradients=True)


def score_eigenvalue(task: MetricTask) -> Table:
    """Score by the largest eigenvalue of each weight's block of the Hessian; see :func:`score`."""

    def measure(done: Pass, batch_seed: int) -> Floats:
        loss = sample_losses("kl", task.simulator.heads, done.heads, done.target).mean()
        found = largest_eigenvalues(loss, done.weights, n_steps=LANCZOS_STEPS, seed=batch_seed)
        return np.array(list(found.values())).T

    spent = 4.0 * LANCZOS_STEPS * len(task.simulator.graph.layers)
    return _score(task, "eigenvalue", measure, False, spent)


EIGENVALUE = Metric(score_eigenvalue, needs_gradients=True)


def _score(
    task: MetricTask,
    metric: str,
    measure: Callable[[Pass, int], Floats],
    per_weight: bool,
    spent: float,
) -> Table:
    """Average what ``measure`` gives, [probes, weights], over batches; multiply by the schemes' errors.

    A probe of one batch is added to one of each other batch, so that the standard error is that of
    as many independent sums as there are probes. Of eigenvalues, ``measure`` gives the value and how
    far it may be off, and the errors add up.
    """
    simulator = task.simulator
    weights = _weights(simulator)
    samples: Floats | None = None
    n_runs = simulator.n_runs
    for b, done in enumerate(iterate_passes(simulator, outputs=False, weights=list(weights))):
        part = done.n / simulator.n_samples * measure(done, task.seed * 1_000_003 + b)
        samples = part if samples is None else samples + part
        if task.progress is not None:
            task.progress(b + 1, n_runs, "curvature of weights")
    assert samples is not None
    shape = simulator.allowed.shape
    base = simulator.space.index(simulator.space.base)
    sums = np.zeros((len(samples), *shape))
    bare = np.zeros(shape)
    for column, (g, i, gemm) in zip(samples.T, weights.values(), strict=True):
        plain = plain_weight(simulator.calibrated, i, gemm).double()
        size = plain.numel() if per_weight else 1
        for s in np.flatnonzero(simulator.allowed[g]).tolist():
            if s == base:
                continue
            lowered = simulated_weight(simulator.calibrated, i, s, gemm).double()
            error = float((plain - lowered).square().sum())
            sums[:, g, s] += 0.5 / size * error * column
            bare[g, s] += column.mean() if per_weight else column[0]
    values, stderr = np.zeros(shape), np.zeros(shape)
    for g, s in np.ndindex(*shape):
        column = sums[:, g, s]
        values[g, s], stderr[g, s] = estimate_mean(column) if per_weight else column
    return Table(
        metric=metric,
        unit=simulator.unit,
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=stderr,
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        details={"trace" if per_weight else "eigenvalue": bare},
        cost_plans=spent,
    )


def _weights(simulator: Simulator) -> dict[str, tuple[int, int, int]]:
    """Weight's value name to (group, layer, gemm) of its first reader."""
    found: dict[str, tuple[int, int, int]] = {}
    for g, group in enumerate(simulator.graph.groups):
        for i in group.layers:
            for j, gemm in enumerate(simulator.graph.layers[i].gemms):
                outside = gemm.right.value in simulator.program.slots
                if gemm.has_weight and outside:
                    found.setdefault(gemm.right.value, (g, i, j))
    return found
