"""REINFORCE: a policy that decides group after group, knowing what is left of the budget."""

from contextlib import suppress

import numpy as np

from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.search.additive.contraction import Reduced
from mpsearch.search.measured.archive import Exhausted
from mpsearch.search.measured.begin import begin
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Bools, Floats, Ints

_EPISODES = 8  # per update
_RATE = 0.05
_FEATURES = 9


def search(task: Task) -> Front:
    """Return the front of plans that a learning policy drew (Williams 1992; He et al. 2019 for the setting).

    Variables are decided in order. The state is the variable's own row of the tables and the slack: what
    is left of a budget of the first objective beyond the least that the rest needs; each episode draws
    its budget. A softmax over linear scores chooses; choices that cannot keep the budget are masked. The
    reward is the negative loss against a running mean of like budgets.

    Args:
        task: What to search; the last of two objectives or more is the reward's, the first one the budget's.
            200 measured or 10 000 predicted evaluations if the budget is None.

    Raises:
        ProblemError: There is one objective only.
        InfeasibleError: No assignment meets the constraints.
    """
    if len(task.objectives) < 2:
        raise ProblemError("policy trades one objective against a budget of another: it needs two")
    start = begin(task, stream=9)
    archive, repairer, rng = start.archive, start.repairer, start.rng
    scene = _Scene(archive.reduced)
    weights = np.zeros(_FEATURES)
    buckets = np.full(10, np.nan)
    with suppress(Exhausted):
        while True:
            shares = rng.random(_EPISODES)
            played = [scene.play(weights, share, rng) for share in shares]
            rows = repairer.repair(np.stack([row for row, _ in played]), rng)
            losses = archive.evaluate(rows)[:, -1]
            update = np.zeros(_FEATURES)
            for share, loss, (_, trace) in zip(shares, losses, played, strict=True):
                bucket = int(share * len(buckets))
                base = loss if np.isnan(buckets[bucket]) else buckets[bucket]
                buckets[bucket] = 0.8 * base + 0.2 * loss
                update += (base - loss) / (abs(base) + 1e-12) * trace
            norm = float(np.linalg.norm(update))
            weights += _RATE * update / max(1.0, norm / 5.0)
    return archive.front(method="policy")


SEARCHER = Searcher(search)


class _Scene:
    """The tables as features, and one episode's walk through the variables."""

    def __init__(self, reduced: Reduced) -> None:
        self._allowed = reduced.allowed
        self._cost = _unit(reduced.values[:, :, 0], reduced.allowed)
        loss = reduced.values[:, :, -1]
        scaled = _unit(loss, reduced.allowed)
        rank = np.argsort(np.argsort(np.where(reduced.allowed, loss, np.inf), axis=1), axis=1)
        place = np.linspace(-1.0, 1.0, len(loss))[:, None] + np.zeros(loss.shape)
        self._static = np.stack(
            [
                scaled,
                np.sqrt(scaled),
                self._cost,
                rank / max(1, loss.shape[1] - 1),
                place * scaled,
                place * self._cost,
            ],
            axis=2,
        )
        hidden = np.where(reduced.allowed, self._cost, np.inf)
        least = hidden.min(axis=1)
        self._rest = np.append(least[::-1].cumsum()[::-1][1:], 0.0)
        most = np.where(reduced.allowed, self._cost, -np.inf).max(axis=1)
        self._low, self._high = float(least.sum()), float(most.sum())

    def play(self, weights: Floats, share: float, rng: np.random.Generator) -> tuple[Ints, Floats]:
        """Return an assignment [V] drawn within the budget, and the gradient of its log-probability."""
        left = self._low + share * (self._high - self._low)
        V = len(self._allowed)
        row = np.empty(V, np.int64)
        trace = np.zeros(_FEATURES)
        draws = rng.random(V)
        for v in range(V):
            slack = left - self._rest[v]
            fits = self._allowed[v] & (self._cost[v] <= slack + 1e-12)
            if not fits.any():
                fits = self._cheapest(v)
            state = np.clip(slack / max(V - v, 1), 0.0, 1.0)
            moving = np.stack(
                [self._cost[v] * state, self._static[v, :, 0] * state, fits * state], axis=1
            )
            features = np.concatenate([self._static[v], moving], axis=1)
            scores = np.where(fits, 10.0 * features @ weights, -np.inf)
            chance = np.exp(scores - scores.max())
            chance /= chance.sum()
            choice = min(int(np.searchsorted(chance.cumsum(), draws[v])), len(chance) - 1)
            row[v] = choice if fits[choice] else int(chance.argmax())
            trace += features[row[v]] - chance @ features
            left -= self._cost[v, row[v]]
        return row, trace

    def _cheapest(self, v: int) -> Bools:
        hidden = np.where(self._allowed[v], self._cost[v], np.inf)
        cheapest: Bools = np.arange(len(hidden)) == hidden.argmin()
        return cheapest


def _unit(table: Floats, allowed: Bools) -> Floats:
    """Return the table less each row's least allowed entry, the largest entry scaled to 1."""
    shifted = table - np.where(allowed, table, np.inf).min(axis=1, keepdims=True)
    shifted = np.where(allowed, shifted, 0.0)
    top = float(shifted.max())
    scaled: Floats = shifted / top if top > 0 else shifted
    return scaled
