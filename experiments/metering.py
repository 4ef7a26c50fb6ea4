"""Searches run under a meter: what each measured, and what measuring took in units of one plan."""

import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mpsearch as mp
from mpsearch.problem.pareto import non_dominated
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Estimate, Floats, Ints

_TIMED = 8  # plans that say what one plan takes, before a search and after it


@dataclass
class Meter:
    """An evaluator that notes what was measured whole, and the processor seconds of all it did."""

    simulator: mp.Simulator
    spent_s: float = 0.0
    rows: list[tuple[float, Ints, float]] = field(default_factory=list)

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Measure, and note the time."""
        start = time.process_time()
        losses = self.simulator.evaluate(assignments, fraction=fraction)
        self.spent_s += time.process_time() - start
        if fraction == 1.0:
            for row, loss in zip(assignments, losses, strict=True):
                self.rows.append((self.spent_s, np.array(row, np.int8), loss.mean))
        return losses

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        """Differentiate, and note the time."""
        start = time.process_time()
        result = self.simulator.loss_and_gradient(probabilities)
        self.spent_s += time.process_time() - start
        return result


@dataclass(frozen=True)
class Run:
    """What one search measured.

    Attributes:
        spent: [n] plan-equivalents after each measurement, the sensitivity table included.
        rows: [n, G] assignments.
        losses: [n] as measured on the calibration data.
        plan_s: Processor seconds of one plan.
        search_s: Processor seconds of the search itself, evaluations not included.
    """

    spent: Floats
    rows: Ints
    losses: Floats
    plan_s: float
    search_s: float

    def save(self, path: Path) -> None:
        """Write to an npz file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            spent=self.spent,
            rows=self.rows.astype(np.int8),
            losses=self.losses,
            plan_s=self.plan_s,
            search_s=self.search_s,
        )

    @classmethod
    def load(cls, path: Path) -> "Run":
        """Read what :meth:`save` wrote."""
        with np.load(path) as kept:
            return cls(
                kept["spent"],
                kept["rows"].astype(np.int64),
                kept["losses"],
                float(kept["plan_s"]),
                float(kept["search_s"]),
            )

    def front(self, latency: Floats, compute: float) -> Ints:
        """Return the indices of the best as measured after ``compute``, at ``latency`` [n]."""
        seen = int(np.searchsorted(self.spent, compute, side="right"))
        values = np.stack([latency[:seen], self.losses[:seen]], axis=1)
        return np.flatnonzero(non_dominated(values))


def time_plans(simulator: mp.Simulator, seed: int) -> float:
    """Return the processor seconds of measuring one random plan, of plans not measured before."""
    rng = np.random.default_rng([seed, 99])
    rows = [[rng.choice(np.flatnonzero(row)) for row in simulator.allowed] for _ in range(_TIMED)]
    start = time.process_time()
    simulator.evaluate(np.array(rows))
    return (time.process_time() - start) / _TIMED


def run_search(
    searcher: Searcher,
    problem: mp.Problem,
    simulator: mp.Simulator,
    *,
    budget: int,
    seed: int,
    table_plans: float,
    settings: dict[str, Any],
) -> Run:
    """Run ``searcher`` on a simulator that has measured nothing yet.

    ``table_plans`` is what the sensitivity table that it reads took, in plans.
    """
    before = time_plans(simulator.on_data(simulator.batches), seed)
    meter = Meter(simulator)
    start = time.process_time()
    searcher.search(Task(problem, evaluator=meter, budget=budget, seed=seed), **settings)
    total = time.process_time() - start
    plan_s = (before + time_plans(simulator.on_data(simulator.batches), seed + 1)) / 2
    spent, rows, losses = zip(*meter.rows, strict=True)
    return Run(
        table_plans + np.array(spent) / plan_s,
        np.array(rows, np.int64),
        np.array(losses),
        plan_s,
        total - meter.spent_s,
    )


class HeldOut:
    """Losses on held-out data, kept in a file."""

    def __init__(self, path: Path, simulator: mp.Simulator) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._simulator = simulator
        self._store = sqlite3.connect(path)
        self._store.execute("CREATE TABLE IF NOT EXISTS loss (plan BLOB PRIMARY KEY, mean REAL)")
        self._known = dict(self._store.execute("SELECT plan, mean FROM loss"))

    def losses(self, rows: Ints) -> Floats:
        """Return the [P] mean losses of ``rows`` [P, G]."""
        for row in np.unique(rows, axis=0):  # sorted: neighbours share the start of the program
            key = row.astype(np.int8).tobytes()
            if key not in self._known:
                self._known[key] = self._simulator.evaluate(row[None])[0].mean
                with self._store:
                    self._store.execute("INSERT INTO loss VALUES (?, ?)", (key, self._known[key]))
        return np.array([self._known[row.astype(np.int8).tobytes()] for row in rows])
