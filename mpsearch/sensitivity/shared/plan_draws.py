"""Plans of the kind that searches visit: at all levels of loss, random and along predicted fronts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mpsearch.problem.build import build_problem
from mpsearch.problem.tables import Costs, Table
from mpsearch.registry import find
from mpsearch.schemes import Scheme, parse_sparsity
from mpsearch.search.task import Task
from mpsearch.sensitivity.selftest import draw_plans
from mpsearch.sensitivity.shared.entries import predict
from mpsearch.stats.estimates import Floats, Ints

_POOL, _DRAWN = 100, 10  # random plans to choose from: so many, or so many for one that is wanted
_DEVIATING = (0.0, 0.1, 0.25)  # share of a front plan's groups that are drawn anew
_PRICES = 0.7  # deviation of the groups' log prices
_CONCENTRATION = 0.4  # of the schemes that deviating groups take


def draw_useful_plans(
    table: Table,
    schemes: Sequence[Scheme],
    costs: Costs | None,
    count: int,
    limit: float,
    seed: int,
) -> Ints:
    """Return [P, G] plans without doubles, the first ``count`` of them spread over all levels of predicted loss.

    Half of these are random (:func:`draw_plans`) and half near fronts: of loss and latency if costs are given,
    and of loss and bits under random prices of the groups, a random share of their groups drawn anew. More random
    ones than needed follow.

    An entry counts for at most half of ``limit`` here: alone, in a model that is exact elsewhere, it may be
    far worse than in the plans that hold it, and only such plans can tell.

    Args:
        table: What is known so far.
        schemes: [S] the table's schemes.
        costs: Costs of the same groups.
        count: Plans that are wanted.
        limit: Predicted loss above which a plan is left out.
        seed: Seed of all that is drawn.
    """
    drawn, near = draw_visited(table, schemes, costs, max(_POOL, _DRAWN * count), limit, seed)
    first = [_spread(table, near, count // 2), _spread(table, drawn, count - count // 2)]
    together = np.concatenate([*first, drawn])
    _, kept = np.unique(together, axis=0, return_index=True)
    return np.asarray(together[np.sort(kept)], np.int64)


def draw_visited(
    table: Table,
    schemes: Sequence[Scheme],
    costs: Costs | None,
    count: int,
    limit: float,
    seed: int,
) -> tuple[Ints, Ints]:
    """Return those of ``count`` random plans and of half as many near fronts that ``table`` says are of use."""
    lenient = replace(table, values=np.minimum(table.values, 0.5 * limit))
    drawn = draw_plans(table.allowed, count, seed=seed + 1)
    near = _draw_near_fronts(lenient, schemes, count // 2, seed)
    if costs is not None:
        front = find("searchers", "hull").search(Task(build_problem(table, costs))).assignments
        near = np.concatenate([front, near])
    drawn, near = (some[predict(lenient, some) <= limit] for some in (drawn, near))
    return drawn, near


def weigh_entries(table: Table, plans: Ints) -> Floats:
    """Return [G, S] what a relative error of each entry does to predicted losses of ``plans``: Σ share²."""
    rows = np.arange(len(table.groups))
    parts = table.values[rows, plans]
    shares = parts / np.maximum(np.abs(parts).sum(axis=1), 1e-300)[:, None]
    weights = np.zeros(table.values.shape)
    np.add.at(weights, (np.broadcast_to(rows, plans.shape), plans), shares**2)
    return weights


def _spread(table: Table, plans: Ints, count: int) -> Ints:
    """Return ``count`` of the plans, or all, evenly spread over the order of their predicted losses."""
    steps = np.linspace(0, len(plans) - 1, min(len(plans), count))
    return plans[np.argsort(predict(table, plans), kind="stable")[steps.round().astype(np.int64)]]


def _draw_near_fronts(table: Table, schemes: Sequence[Scheme], count: int, seed: int) -> Ints:
    """Return [P, G] plans that minimise loss plus priced bits, each under other prices, with deviations."""
    rng = np.random.default_rng([seed, 104_729])
    n_groups, n_schemes = table.values.shape
    positive = table.values[table.values > 0]
    if len(positive) == 0:
        return np.zeros((0, n_groups), np.int64)
    low, high = np.log(np.quantile(positive, [0.02, 0.98]))
    bits = np.array([_operand_bits(scheme) for scheme in schemes])  # [S, 2]
    share = rng.random((count, 1))  # memory-bound layers gain by weights' bits, others by both
    each = (share * bits[:, 0] + (1.0 - share) * bits[:, 1]) / bits.max()
    levels = rng.uniform(low, high, (count, 1))
    prices = np.exp(levels + _PRICES * rng.standard_normal((count, n_groups)))
    value = np.where(table.allowed, table.values + prices[:, :, None] * each[:, None, :], np.inf)
    plans = np.asarray(value.argmin(axis=2), np.int64)
    deviating = rng.random(plans.shape) < rng.choice(_DEVIATING, (count, 1))
    likely = rng.dirichlet(np.full(n_schemes, _CONCENTRATION), count) + 1e-9
    chances = np.where(table.allowed, likely[:, None, :], 0.0).cumsum(axis=2)
    drawn = (chances <= rng.random(plans.shape)[:, :, None] * chances[:, :, -1:]).sum(axis=2)
    return np.where(deviating, drawn, plans)


def _operand_bits(scheme: Scheme) -> tuple[float, float]:
    """Bits of an element of the weight, zeros left out, and of the activation."""
    weight = float(scheme.weight.element.bits)
    if scheme.sparsity is not None:
        pattern = parse_sparsity(scheme.sparsity)
        weight *= pattern.kept / pattern.group
    return weight, float(scheme.activation.element.bits)
