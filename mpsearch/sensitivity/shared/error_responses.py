"""Responses: what the error of one layer in one scheme does to drawn losses, for all entries at once."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mpsearch.sensitivity.shared.backward import draw_losses, iterate_passes, layer_gradients
from mpsearch.simulate.probe import replay
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats

MAX_DRAWS = 4
_ENOUGH = 256  # draws over all samples


def enough_draws(simulator: Simulator) -> int:
    """Return how many labels a sample to draw: 4 for few samples, 1 from 256 on."""
    return min(MAX_DRAWS, max(1, -(-_ENOUGH // simulator.n_samples)))


def responses_effort(simulator: Simulator) -> float:
    """Return about how many evaluations of the whole model :func:`responses` takes."""
    return float(4 + 2 * len(simulator.space.schemes) + 2 * enough_draws(simulator))


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
                error = _rows(replay(simulator.calibrated, i, s, done.inputs) - plain, done.n)
                changes[:, :, g, s] += torch.bmm(gradients, error.unsqueeze(-1)).squeeze(-1).cpu()
                squares[:, g, s] += (power * error.square()).sum(1).cpu()
        yield changes.numpy(), squares.numpy()


def _rows(tensor: Tensor, n: int) -> Tensor:
    """[n, elements] of a tensor whose first axis is samples; shared out evenly where it is not."""
    if tensor.ndim and tensor.shape[0] % n == 0:
        return tensor.reshape(n, -1)
    return (tensor / n**0.5).reshape(1, -1).expand(n, -1)
