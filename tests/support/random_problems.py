"""Random problems with brute force as their oracle."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from mpsearch.problem.problem import Problem


@dataclass(frozen=True)
class Oracle:
    """All assignments of a problem, their objectives, and which are feasible."""

    rows: np.ndarray
    values: np.ndarray  # latency_us, loss
    feasible: np.ndarray

    def front(self) -> np.ndarray:
        """Non-dominated values [P, 2], sorted, one of those that differ by rounding only."""
        values = self.values[self.feasible]
        scale = np.abs(self.values).max(axis=0) + 1e-300
        best = []
        for x, y in sorted(map(tuple, values)):
            if not best or y < best[-1][1] - 1e-11 * scale[1]:
                if best and x - best[-1][0] < 1e-11 * scale[0]:
                    best.pop()
                best.append((x, y))
        return np.array(best).reshape(-1, 2)


def random_problem(seed: int, *, constrained: bool = True) -> tuple[Problem, Oracle]:
    """A feasible problem of 3-8 groups and 2-5 schemes with everything that may occur."""
    for attempt in range(100):
        problem, oracle = _draw(np.random.default_rng([seed, attempt]), constrained)
        if oracle.feasible.any():
            return problem, oracle
    raise AssertionError("no feasible problem in 100 draws")


def _draw(rng: np.random.Generator, constrained: bool) -> tuple[Problem, Oracle]:
    S = int(rng.integers(2, 6))
    G = int(rng.integers(3, min(8, int(np.log(20_000) / np.log(S))) + 1))
    names = [f"g{i}" for i in range(G)]
    schemes = [f"s{i}" for i in range(S)]
    latency = rng.uniform(0.1, 1, (G, S)) * 10.0 ** rng.integers(-9, 10)
    loss = rng.normal(0.5, 0.5, (G, S)) * 10.0 ** rng.integers(-9, 10)
    if rng.random() < 0.3:  # many equal sums
        latency = rng.integers(0, 4, (G, S)).astype(float)
        loss = rng.integers(0, 4, (G, S)) * 1e-3
    allowed = rng.random((G, S)) < 0.85
    allowed[np.arange(G), rng.integers(S, size=G)] = True

    kind = rng.choice(["none", "chain", "tree", "dag"])
    edges = {
        "none": [],
        "chain": [(i, i + 1) for i in range(G - 1)],
        "tree": [(int(rng.integers(i)), i) for i in range(1, G)],
        "dag": [(i, j) for i in range(G) for j in range(i + 1, G) if rng.random() < 0.4],
    }[kind]
    if rng.random() < 0.3:
        edges = [(j, i) for i, j in edges]
    terms = {}
    if edges and rng.random() < 0.8:
        terms["latency_us"] = np.tile(1 - np.eye(S), (len(edges), 1, 1)) * latency.max() * 0.2
    if edges and rng.random() < 0.4:
        terms["loss"] = rng.normal(0, 0.2, (len(edges), S, S)) * np.abs(loss).max()

    ties, forbidden = [], []
    if rng.random() < 0.4:
        ties.append(sorted(rng.choice(G, size=2, replace=False).tolist()))
    if rng.random() < 0.4:
        i, j = rng.choice(G, size=2, replace=False).tolist()
        forbidden.append((i, int(rng.integers(S)), j, int(rng.integers(S))))
    words = [f"tie({', '.join(names[i] for i in tie)})" for tie in ties]
    words += [
        f"forbid({names[i]}={schemes[a]}, {names[j]}={schemes[b]})" for i, a, j, b in forbidden
    ]

    rows = np.array(list(product(range(S), repeat=G)))
    values = np.zeros((len(rows), 2))
    for k, (name, table) in enumerate((("latency_us", latency), ("loss", loss))):
        for g in range(G):
            values[:, k] += table[g, rows[:, g]]
        for e, (i, j) in enumerate(edges):
            if name in terms:
                values[:, k] += terms[name][e][rows[:, i], rows[:, j]]
    feasible = np.ones(len(rows), bool)
    for g in range(G):
        feasible &= allowed[g, rows[:, g]]
    for a, b in ties:
        feasible &= rows[:, a] == rows[:, b]
    for i, a, j, b in forbidden:
        feasible &= ~((rows[:, i] == a) & (rows[:, j] == b))
    if constrained and feasible.any():
        if rng.random() < 0.3:
            limit = _between(values[feasible, 0], rng)
            words.append(f"latency_us <= {limit!r}")
            feasible &= values[:, 0] <= limit
        if feasible.any() and rng.random() < 0.3:
            limit = _between(values[feasible, 1], rng)
            words.append(f"loss <= {limit!r}")
            feasible &= values[:, 1] <= limit
        if rng.random() < 0.3:
            scheme, count = int(rng.integers(S)), int(rng.integers(1, G))
            sign = rng.choice(["<=", ">="])
            words.append(f"count({schemes[scheme]}) {sign} {count}")
            number = (rows == scheme).sum(axis=1)
            feasible &= number <= count if sign == "<=" else number >= count
    problem = Problem(
        {"latency_us": latency, "loss": loss},
        allowed=allowed,
        edges=edges or None,
        pair_terms=terms,
        schemes=schemes,
        groups=names,
        constraints=words,
    )
    return problem, Oracle(rows, values, feasible)


def _between(values: np.ndarray, rng: np.random.Generator) -> float:
    """A limit that lies clear of all sums, so that rounding decides nothing."""
    ordered = np.unique(values)
    if len(ordered) < 2:
        return float(ordered[0]) + 1.0
    gaps = np.diff(ordered)
    wide = np.flatnonzero(gaps > 1e-6 * np.abs(ordered).max())
    if not len(wide):
        return float(ordered[-1]) * (2 if ordered[-1] > 0 else 0.5)
    at = int(rng.choice(wide))
    return float(ordered[at] + gaps[at] / 2)


def assert_same_front(found: np.ndarray, wanted: np.ndarray, scale: np.ndarray) -> None:
    """Each row of the one has its like in the other, to rounding."""
    for one, other in ((found, wanted), (wanted, found)):
        for row in one:
            distance = (np.abs(other - row) / scale).max(axis=1).min()
            assert distance < 1e-9, f"{row} has no like within {distance}"
