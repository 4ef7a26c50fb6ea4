"""Information: how much of what a layer knows about the model's answer a scheme's noise destroys.

The information-bottleneck view with a Gaussian estimate. T is what a layer's channels say on average
over positions, cut to its leading principal components; Y is the answer as it is told: the model's scores
with as much noise as leaves them what the answers hold of the inputs. A scheme adds noise of the measured
covariance; I(T; Y) − I(T + noise; Y) is the loss, never negative if the noise is independent of T.
Since Y knows no more than the answers, no entry exceeds that: H(mean p) − mean H(p) of the classes'
probabilities, which is at most the entropy of the classes, also where T is the scores themselves. Numbers are
told to a tenth of their standard deviation. Source: Tishby & Zaslavsky (arXiv 1503.02406); for the
formulas and the data processing inequality Cover & Thomas, chapters 2 and 8.

Bias: the estimate of I(T; Y) from n samples is too large by about d_T d_Y / (2 n) nats, given as the detail
``bias``; it cancels in the difference where the noise is small, and shrinks it where the noise is large.
"""

import numpy as np
import torch
from torch import Tensor

from mpsearch.errors import DataError
from mpsearch.problem.tables import Progress, Table
from mpsearch.sensitivity.shared.answers import find_answers
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.probe import capture, replay
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats

DIMENSIONS = 8
_DRAWS = 20
_RIDGE = 1e-6


def score(task: MetricTask) -> Table:
    """Estimate the information about the model's answer that each entry destroys, in nats.

    ``details`` holds I(X; T) of the noisy layer, I(T; Y) of the clean one and its bias, summed over the
    layers of a group.

    Args:
        task: What to score; about one evaluation is spent for each scheme, whatever the budget. Only the
            bootstrap that gives standard errors draws.

    Raises:
        DataError: There are fewer than 4 samples: then nothing can be estimated.
    """
    simulator = task.simulator
    if simulator.n_samples < 4:
        raise DataError(
            f"`samples >= 4` must hold for metric information, got {simulator.n_samples}"
        )
    base = simulator.space.index(simulator.space.base)
    shape = simulator.allowed.shape
    clean, noise, answers = _collect(simulator, base, task.progress)
    n = simulator.n_samples
    values, variance = np.zeros(shape), np.zeros(shape)
    kept, relevant, bias = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    rng = np.random.default_rng([task.seed, n])
    draws = [rng.integers(0, n, n) for _ in range(_DRAWS)]
    size = max(1, min(DIMENSIONS, n // 4))
    y = answers @ _axes(answers, size)
    for (g, i, s), error in noise.items():
        axes = _axes(clean[i], size)
        t, e = clean[i] @ axes, error @ axes
        lost = lost_information(t, e, y)
        values[g, s] += lost
        spread = [lost_information(t[rows], e[rows], y[rows]) for rows in draws]
        variance[g, s] += float(np.var(spread))
        kept[g, s] += _through_noise(t, e)
        relevant[g, s] += _mutual(_told(t, y), t.shape[1])
        bias[g, s] += t.shape[1] * y.shape[1] / (2 * n)
    return Table(
        metric="information",
        unit="nats",
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=np.sqrt(variance),
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        details={"input_information": kept, "answer_information": relevant, "bias": bias},
        cost_plans=float(len(simulator.space.schemes)),
    )


METRIC = Metric(score)


def _collect(
    simulator: Simulator, base: int, progress: Progress | None
) -> tuple[dict[int, Floats], dict[tuple[int, int, int], Floats], Floats]:
    """Features of layers [n, C], their errors in each scheme, and the answers [n, D]."""
    layers = simulator.graph.layers
    group_of = {i: g for g, group in enumerate(simulator.graph.groups) for i in group.layers}
    clean: dict[int, list[Floats]] = {}
    noise: dict[tuple[int, int, int], list[Floats]] = {}
    batches = simulator.batches
    for done in range(batches.n_runs):
        batch = batches.feed_run(done)
        tensors = capture(simulator.calibrated, range(len(layers)), batch)
        rows = batches.run_rows or min(batches.run_size, len(batches) - done * batches.run_size)
        for i, layer in enumerate(layers):
            plain = tensors.get(layer.output)
            if plain is None or not plain.is_floating_point():
                continue
            axis = 1 if layer.op_type.startswith("Conv") else -1
            clean.setdefault(i, []).append(_pool(plain, rows, axis))
            for s in np.flatnonzero(simulator.allowed[group_of[i]]).tolist():
                if s != base:
                    error = replay(simulator.calibrated, i, s, tensors) - plain
                    noise.setdefault((group_of[i], i, s), []).append(_pool(error, rows, axis))
        if progress is not None:
            progress(done + 1, batches.n_runs, "features of layers")
    n = len(batches)  # what fills the last run up comes after
    return (
        {i: np.concatenate(parts)[:n] for i, parts in clean.items()},
        {key: np.concatenate(parts)[:n] for key, parts in noise.items()},
        find_answers(
            simulator.heads,
            list(zip(*(target.reference for target in simulator.targets), strict=True)),
            simulator.targets[0].scales,
        ),
    )


def _pool(x: Tensor, n: int, axis: int) -> Floats:
    """[n, C] means over all axes but samples and channels."""
    with torch.no_grad():
        rows = x.reshape(n, -1, *x.shape[1:]) if x.shape[0] % n == 0 else x.expand(n, 1, *x.shape)
        moved = rows.movedim(axis + 1 if axis >= 0 else axis, -1).double()
        return np.asarray(moved.reshape(n, -1, moved.shape[-1]).mean(1).cpu().numpy())


def _axes(x: Floats, size: int) -> Floats:
    """[C, d] leading principal directions with variance."""
    centred = x - x.mean(axis=0)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    some = scales[:size] > 1e-9 * max(scales[0], 1e-300) if len(scales) else scales[:0] > 0
    return np.asarray(directions[: len(some)][some].T, np.float64)


def _covariance(x: Floats) -> Floats:
    centred = x - x.mean(axis=0)
    return np.asarray(centred.T @ centred / max(len(x) - 1, 1), np.float64)


def _told(t: Floats, y: Floats) -> Floats:
    """The covariance of T and of Y with noise of variance 1."""
    joint = _covariance(np.hstack([t, y]))
    joint[t.shape[1] :, t.shape[1] :] += np.eye(y.shape[1])
    return joint


def lost_information(t: Floats, e: Floats, y: Floats) -> float:
    """Return I(T; Y) − I(T + E; Y) in nats for Gaussians, Y told with noise of variance 1.

    Args:
        t: [n, d] what is known.
        e: [n, d] errors, taken as independent of ``t`` and ``y``.
        y: [n, D] answers in units of their noise.
    """
    size = t.shape[1]
    joint = _told(t, y)
    noisy = joint.copy()
    noisy[:size, :size] += e.T @ e / len(e)
    return max(_mutual(joint, size) - _mutual(noisy, size), 0.0)


def _mutual(joint: Floats, size: int) -> float:
    """Mutual information of the first ``size`` of jointly Gaussian variables with the others."""
    if size == 0 or size == len(joint):
        return 0.0
    scale = np.sqrt(np.maximum(np.diag(joint), 1e-300))
    correlation = joint / scale[:, None] / scale + _RIDGE * np.eye(len(joint))
    parts = (correlation[:size, :size], correlation[size:, size:], correlation)
    logs = [float(np.linalg.slogdet(part)[1]) for part in parts]
    return max(0.5 * (logs[0] + logs[1] - logs[2]), 0.0)


def _through_noise(t: Floats, e: Floats) -> float:
    """I(T; T + E) for Gaussians; 0 where there is no noise to speak of, since it has no end."""
    signal, noise = _covariance(t), e.T @ e / len(e)
    floor = 1e-12 * max(float(np.trace(signal)), 1e-300)
    if float(np.trace(noise)) < floor:
        return 0.0
    noise = noise + floor * np.eye(len(noise))
    logs = [float(np.linalg.slogdet(part)[1]) for part in (signal + noise, noise)]
    return 0.5 * (logs[0] - logs[1])
