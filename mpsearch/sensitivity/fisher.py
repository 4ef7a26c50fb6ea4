"""Fisher: the curvature of the loss along the error that a scheme makes at a layer's output.

One forward pass, a few backward passes for drawn labels, and then each layer alone is replayed in
each scheme on its own fp32 inputs. To second order, the divergence that an output error dY causes
is ½ E[(g·dY)²] over drawn labels, g their gradients at the output. With the errors of different
elements taken as independent this is ½ E[Σ g² dY²], which NVIDIA ModelOpt's auto_quantize sums; the full
product ranks better and costs the same, so it is the value and the sum is among the details.
"""

import numpy as np

from mpsearch.deadline import has_passed
from mpsearch.problem.tables import Table
from mpsearch.sensitivity.shared.entries import refuse_infinite
from mpsearch.sensitivity.shared.error_responses import enough_draws, responses, responses_effort
from mpsearch.sensitivity.shared.sampling import late_notes
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.stats.estimates import Floats


def score(task: MetricTask) -> Table:
    """Predict the loss of every entry from gradients at the layers' outputs and local errors.

    Args:
        task: What to score. About two evaluations are spent for each scheme, and two for each drawn label a
            sample, of which there are 4, and fewer from 128 samples on; the budget is not needed. From the
            deadline on no further batch is begun.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    simulator, progress, n_runs = task.simulator, task.progress, task.simulator.n_runs
    n_draws = enough_draws(simulator)
    parts: list[Floats] = []
    independent = np.zeros(simulator.allowed.shape)
    for b, (changes, squares) in enumerate(responses(simulator, n_draws=n_draws, seed=task.seed)):
        with np.errstate(invalid="ignore", over="ignore"):
            parts.append(0.5 * np.square(changes).mean(axis=1))
            independent += 0.5 * squares.sum(axis=0)
        if progress is not None:
            progress(b + 1, n_runs, "gradients and local errors")
        if has_passed(task.deadline):
            break
    samples = np.concatenate(parts)  # [n, G, S]
    notes = late_notes(task.deadline, len(samples), simulator.n_samples)
    if notes and progress is not None:
        progress(n_runs, n_runs, notes[0])
    values, stderr = np.zeros(simulator.allowed.shape), np.zeros(simulator.allowed.shape)
    with np.errstate(invalid="ignore", over="ignore"):  # what overflows is refused below
        for g, s in np.ndindex(*values.shape):
            values[g, s], stderr[g, s] = simulator.estimate(samples[:, g, s])
    table = Table(
        metric="fisher",
        unit=simulator.unit,
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=stderr,
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        details={"independent_errors": independent / len(samples)},
        cost_plans=responses_effort(simulator),
        notes=notes,
    )
    return refuse_infinite(table)


METRIC = Metric(score, needs_gradients=True, stops_early=True)
