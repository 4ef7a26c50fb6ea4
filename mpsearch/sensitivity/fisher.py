"""Fisher: the curvature of the loss along the error that a scheme makes at a layer's output.

One forward pass, a few backward passes for drawn labels, and then each layer alone is replayed in
each scheme on its own fp32 inputs. To second order, the divergence that an output error dY causes
is ½ E[(g·dY)²] over drawn labels, g their gradients at the output. With the errors of different
elements taken as independent this is ½ E[Σ g² dY²], which NVIDIA ModelOpt's auto_quantize sums; the full
product ranks better and costs the same, so it is the value and the sum is among the details.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mpsearch.execute.simulator import Simulator
from mpsearch.sensitivity.backward import draw_losses, iterate_passes, layer_gradients
from mpsearch.sensitivity.single import mean_estimate
from mpsearch.tables import Costs, Floats, Progress, Table

MAX_DRAWS = 4
_ENOUGH = 256  # draws over all samples


def score(
    simulator: Simulator,
    *,
    costs: Costs | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Table:
    """Predict the loss of every entry from gradients at the layers' outputs and local errors.

    Args:
        simulator: The model and its data.
        costs: Not needed.
        budget: Not needed: about one evaluation is spent for each scheme, and two for each drawn label
            a sample, of which there are 4, and fewer from 128 samples on.
        seed: Seed of the drawn labels.
        progress: Told the batches that are done.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    n_batches = len(simulator._targets)
    n_draws = min(MAX_DRAWS, max(1, -(-_ENOUGH // simulator.n_samples)))
    parts: list[Floats] = []
    independent = np.zeros(simulator.allowed.shape)
    for b, (changes, squares) in enumerate(responses(simulator, n_draws=n_draws, seed=seed)):
        parts.append(0.5 * np.square(changes).mean(axis=1))
        independent += 0.5 * squares.sum(axis=0) / simulator.n_samples
        if progress is not None:
            progress(b + 1, n_batches, "gradients and local errors")
    samples = np.concatenate(parts)  # [n, G, S]
    values, stderr = np.zeros(simulator.allowed.shape), np.zeros(simulator.allowed.shape)
    for g, s in np.ndindex(*values.shape):
        values[g, s], stderr[g, s] = mean_estimate(samples[:, g, s])
    return Table(
        metric="fisher",
        unit=simulator.unit,
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=stderr,
        allowed=simulator.allowed,
        reasons=simulator.reasons,
        details={"independent_errors": independent},
        cost_plans=float(len(simulator.space.schemes) + 2 * n_draws),
    )


def responses(
    simulator: Simulator, *, n_draws: int = MAX_DRAWS, seed: int = 0
) -> Iterator[tuple[Floats, Floats]]:
    """Yield, for each batch, what the local errors do to the loss.

    Args:
        simulator: The model and its data.
        n_draws: Drawn labels a sample.
        seed: Seed of the draws.

    Yields:
        [n, D, G, S] changes g·dY of each drawn loss, and [n, G, S] means over draws of Σ g² dY²; 0 for
        the base.
    """
    base = simulator.space.index(simulator.space.base)
    shape = simulator.allowed.shape
    group_of = {i: g for g, group in enumerate(simulator.graph.groups) for i in group.layers}
    for b, done in enumerate(iterate_passes(simulator)):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + b)
        drawn = [
            layer_gradients(
                simulator, done, draw_losses(simulator, done, rng), keep=d + 1 < n_draws
            )
            for d in range(n_draws)
        ]
        changes = torch.zeros(done.n, n_draws, *shape, dtype=torch.float64)
        squares = torch.zeros(done.n, *shape, dtype=torch.float64)
        for i, output in done.outputs.items():
            g = group_of[i]
            gradients = torch.stack([_rows(one[i], done.n) for one in drawn], dim=1)  # [n, D, E]
            power = gradients.square().mean(1)
            plain = output.detach()
            for s in np.flatnonzero(simulator.allowed[g]).tolist():
                if s == base:
                    continue
                error = _rows(simulator.replay(i, s, done.inputs) - plain, done.n)
                changes[:, :, g, s] += torch.bmm(gradients, error.unsqueeze(-1)).squeeze(-1).cpu()
                squares[:, g, s] += (power * error.square()).sum(1).cpu()
        yield changes.numpy(), squares.numpy()


def _rows(tensor: Tensor, n: int) -> Tensor:
    """[n, elements] of a tensor whose first axis is samples; shared out evenly where it is not."""
    if tensor.ndim and tensor.shape[0] % n == 0:
        return tensor.reshape(n, -1)
    return (tensor / n**0.5).reshape(1, -1).expand(n, -1)
