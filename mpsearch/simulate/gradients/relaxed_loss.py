"""The loss of a mixture of schemes and its gradient, over all runs of some data."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.losses.losses import sample_losses
from mpsearch.simulate.reference import Reference
from mpsearch.simulate.runner import Feed, Runner
from mpsearch.stats.estimates import Bools, Floats


def differentiate(
    reference: Reference,
    runner: Runner,
    probabilities: Tensor,
    allowed: Bools,
    feeds: Iterable[Feed],
) -> Floats:
    """Return the [n] losses of a mixture; the gradient of their mean is added to that of ``probabilities``.

    Args:
        reference: What losses compare with.
        runner: Runs the model.
        probabilities: [G, S], which must require a gradient.
        allowed: [G, S]; what is not takes no part.
        feeds: Input name to tensor of each run.

    Raises:
        NumericsError: A loss is not finite.
    """
    mixture = [
        [(int(s), probabilities[g, s]) for s in np.flatnonzero(allowed[g])]
        for g in range(len(allowed))
    ]
    total = list[Floats]()
    for feed, target in zip(feeds, reference.targets, strict=True):
        heads = runner.heads(runner.run_mixture(feed, mixture))
        losses = sample_losses(reference.kind, reference.heads, heads, target)
        if not bool(torch.isfinite(losses).all()):
            raise NumericsError("the mixture's loss must be finite, but it is not")
        if losses.requires_grad:
            (losses.sum() / len(reference.batches)).backward()
        total.append(losses.detach().cpu().numpy())
    return np.concatenate(total)
