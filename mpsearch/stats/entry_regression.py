"""A law from a cheap metric to measured losses, learnt from some entries: hierarchical regression.

In logarithms, measured − prior = offset + offset(scheme) + slope · prior + offset(group) + offset(group,
kind) + scatter, all normal. Entries of one group err alike, and those of one kind (one sparsity
pattern, say) most of all, so that one measured entry speaks for its siblings. Given the coefficients
that all groups share, groups are independent: the posterior is exact and costs S³ a group.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from mpsearch.stats.estimates import Bools, Floats, Ints

_OFFSET = 10.0  # prior deviation of the offset: the prior may have another unit
_SCHEME = 0.2  # of a scheme's own offset
_SLOPE = 0.1
_GROUP = (0.05, 0.3, 1.0)  # of a group's offset, those that are tried
_KIND = (0.05, 0.3, 0.8)  # of the offset of a group's entries of one kind
_SCATTER = (0.3, 0.5, 0.8)  # of what is left
_UNKNOWN = 1e8  # variance of what was not measured


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """What measured entries say of all.

    Attributes:
        logarithms: [G, S] predicted log of each entry's loss.
        deviations: [G, S] their standard deviations, scatter included.
    """

    logarithms: Floats
    deviations: Floats


def fit_law(x: Floats, measured: Floats, usable: Bools, kinds: Ints) -> Law:
    """Fit the law by its evidence over a small grid of deviations.

    Args:
        x: [G, S] logarithms of the prior.
        measured: [G, S] measured losses, positive where ``usable``.
        usable: [G, S] which entries to learn from.
        kinds: [S] number of each scheme's kind.

    Returns:
        The prior itself with a deviation of 1 where fewer than two entries are usable.
    """
    if usable.sum() < 2:
        return Law(x, np.ones_like(x))
    n_groups, n_schemes = x.shape
    shift = np.where(usable, np.log(np.where(usable, measured, 1.0)) - x, 0.0)
    design = np.empty((n_groups, n_schemes, n_schemes + 2))
    design[..., :n_schemes] = _SCHEME * np.eye(n_schemes)
    design[..., n_schemes] = _OFFSET
    design[..., n_schemes + 1] = _SLOPE * (x - float(x[usable].mean()))
    alike = (kinds[:, None] == kinds).astype(np.float64)
    fits = [
        _regress(design, shift, usable, group**2 + kind**2 * alike, scatter)
        for group, kind, scatter in product(_GROUP, _KIND, _SCATTER)
    ]
    mean, variance, _ = max(fits, key=lambda fit: fit[2])
    return Law(x + mean, np.sqrt(variance))


def _regress(
    design: Floats, shift: Floats, usable: Bools, shared: Floats, scatter: float
) -> tuple[Floats, Floats, float]:
    """Mean [G, S], variance [G, S] and log evidence under one covariance within groups [S, S]."""
    noise = np.where(usable, scatter**2, _UNKNOWN)
    within = shared + noise[:, :, None] * np.eye(len(shared))
    precision = np.linalg.inv(within)
    weighted = np.einsum("gst,gtc->gsc", precision, design)
    inner = np.einsum("gsc,gsd->cd", design, weighted) + np.eye(design.shape[2])
    pull = np.einsum("gsc,gs->c", weighted, shift)
    spread = np.linalg.inv(inner)
    common = spread @ pull
    residual = shift - design @ common
    gain = np.einsum("st,gtu->gsu", shared, precision)
    mean = design @ common + np.einsum("gsu,gu->gs", gain, residual)
    left = design - np.einsum("gsu,guc->gsc", gain, design)
    variance = (
        np.diag(shared)
        - np.einsum("gsu,us->gs", gain, shared)
        + np.einsum("gsc,cd,gsd->gs", left, spread, left)
        + scatter**2
    )
    fit = np.einsum("gs,gst,gt->", shift, precision, shift) - pull @ common
    volume = np.linalg.slogdet(within)[1].sum() - (~usable).sum() * np.log(_UNKNOWN)
    evidence = -0.5 * float(fit + volume + np.linalg.slogdet(inner)[1])
    return mean, np.maximum(variance, scatter**2), evidence
