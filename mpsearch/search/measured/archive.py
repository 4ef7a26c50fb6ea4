"""What a search has evaluated: budget, cache, history, and the front so far."""

import numpy as np

from mpsearch.deadline import has_passed
from mpsearch.errors import InfeasibleError
from mpsearch.problem.front import Front, Step
from mpsearch.problem.pareto import non_dominated
from mpsearch.search.additive.contraction import Reduced, reduce_problem
from mpsearch.search.measured.measure import announce, measure
from mpsearch.search.measured.points import (
    check_objectives,
    describe,
    judge,
    make_front,
    make_points,
)
from mpsearch.search.task import Task
from mpsearch.stats.estimates import Bools, Estimate, Floats, Ints

DEFAULT_MEASUREMENTS = 200
DEFAULT_EVALUATIONS = 10_000
_STALE = 200  # requests in a row that bring nothing new: the space is as good as exhausted
_COUNTED = 4096  # assignments up to which those that may be evaluated are counted


class Exhausted(Exception):  # noqa: N818  # the end of a search is no error
    """The budget, the time or the space is used up."""


class Archive:
    """Everything that one search evaluates goes through here and is kept.

    Nothing good is lost: the front is that of all evaluated assignments, whatever a population forgets.
    Searchers see assignments of variables (ties contracted).

    Attributes:
        problem: The problem.
        names: O objectives.
        reduced: The problem in V variables.
        measures: Whether losses are measured by an evaluator.
        budget: Evaluations that may be spent.
        spent: Evaluations spent; a fraction of the data counts as such.
    """

    def __init__(self, task: Task) -> None:
        self.problem = task.problem
        self.names = check_objectives(task.problem, task.objectives)
        self.reduced: Reduced = reduce_problem(task.problem, self.names)
        self.measures = task.evaluator is not None and "loss" in task.problem.objectives
        usual = DEFAULT_MEASUREMENTS if self.measures else DEFAULT_EVALUATIONS
        self.budget = task.budget or usual
        self.spent = 0.0
        self._evaluator = task.evaluator if self.measures else None
        self._progress = task.progress
        self._deadline = task.deadline
        self._index: dict[bytes, int] = {}
        self._rows: list[Ints] = []
        self._values: list[Floats] = []
        self._losses: list[Estimate] = []
        self._feasible: list[bool] = []
        self._history: list[Step] = []
        self._front: Floats = np.zeros((0, len(self.names)))
        self._stale = 0
        self._all = self._count_all()

    @property
    def left(self) -> int:
        """Whole evaluations that may still be spent."""
        return max(0, int(self.budget - self.spent + 1e-9))

    @property
    def evaluated(self) -> tuple[Ints, Floats, Bools]:
        """Assignments of variables [P, V], their objectives [P, O], and which are feasible [P]."""
        rows = np.array(self._rows, np.int64).reshape(-1, self.reduced.n_variables)
        values = np.array(self._values, np.float64).reshape(-1, len(self.names))
        return rows, values, np.array(self._feasible, np.bool_)

    @property
    def losses(self) -> list[Estimate]:
        """Measured losses in the order of :attr:`evaluated`; empty without evaluator."""
        return list(self._losses)

    @property
    def loss_limits(self) -> frozenset[str]:
        """The constraints, in words, that are judged by measured losses."""
        limits = self.problem.linear if self.measures else ()
        return frozenset(limit.text for limit in limits if limit.quantity == "loss")

    def on_front(self, values: Floats, feasible: Bools) -> Ints:
        """Return the indices of feasible, non-dominated rows of ``values`` [P, O]."""
        index = np.flatnonzero(feasible)
        return index[non_dominated(values[index])] if len(index) else index

    def totals(self, rows: Ints) -> Floats:
        """Return the predicted objectives [P, O] of assignments of variables [P, V]; free."""
        totals = self.problem.evaluate(self.reduced.expand(rows))
        return np.stack([totals[name] for name in self.names], axis=1)

    def known(self, rows: Ints) -> Bools:
        """Return which assignments of variables ``rows`` [P, V] were evaluated."""
        rows = np.ascontiguousarray(rows, np.int64)
        return np.array([row.tobytes() in self._index for row in rows], np.bool_)

    def evaluate(self, rows: Ints) -> Floats:
        """Return the objectives [P, O] of assignments of variables [P, V]; repeated ones are free.

        Raises:
            Exhausted: Before all are evaluated; what was evaluated is kept.
            NumericsError: A measured loss is not finite.
        """
        rows = np.ascontiguousarray(rows, np.int64)
        keys = [row.tobytes() for row in rows]
        fresh: dict[bytes, Ints] = {
            key: row for key, row in zip(keys, rows, strict=True) if key not in self._index
        }
        self._stale = 0 if fresh else self._stale + 1
        if self._stale >= _STALE or (not fresh and len(self._rows) >= self._all):
            raise Exhausted
        batch = list(fresh.values())[: self.left]
        if self._evaluator is None:
            self._record(np.array(batch, np.int64).reshape(-1, self.reduced.n_variables))
        else:
            if len(batch) > 1:
                announce(self._evaluator, self.reduced.expand(np.array(batch)))
            for row in batch:
                self._check_time()
                self._record(row[None])
        self._check_time()
        if len(batch) < len(fresh):
            raise Exhausted
        values = [self._values[self._index[key]] for key in keys]
        return np.stack(values) if values else np.zeros((0, len(self.names)))

    def excess(self, rows: Ints) -> Floats:
        """Return by how much evaluated assignments [P, V] miss limits on measured losses [P]; 0: none.

        In units of the limit's own scale, summed over limits.
        """
        total = np.zeros(len(rows))
        limits = [limit for limit in self.problem.linear if limit.quantity == "loss"]
        if self.measures and limits:
            index = [self._index[row.tobytes()] for row in np.ascontiguousarray(rows, np.int64)]
            means, stderrs = np.array([self._losses[i] for i in index]).reshape(-1, 2).T
            for limit in limits:
                over = limit.excess(means + limit.margin * stderrs)
                total += np.maximum(over, 0.0) / (limit.slack or 1.0)
        return total

    def charge(self, cost: float) -> None:
        """Spend ``cost`` evaluations on something that is no plan, such as a gradient.

        Raises:
            Exhausted: The budget does not suffice.
        """
        self._check_time()
        if self.budget - self.spent < cost:
            raise Exhausted
        self.spent += cost

    def loss(self, row: Ints) -> Estimate:
        """Return the measured loss of an evaluated assignment of variables [V]."""
        return self._losses[self._index[np.asarray(row, np.int64).tobytes()]]

    def adopt(self, row: Ints, loss: Estimate | None) -> None:
        """Keep what an earlier search found of the assignment ``row`` [V]; it counts as spent."""
        rows = np.ascontiguousarray(row, np.int64)[None]
        if not self.known(rows).any():
            self._record(rows, None if loss is None else [loss])

    def screen(self, rows: Ints, fraction: float) -> list[Estimate]:
        """Return losses of assignments of variables [P, V] on a fraction of the data; not recorded.

        Raises:
            Exhausted: The budget does not suffice.
        """
        if self._evaluator is None or self.budget - self.spent < len(rows) * fraction:
            raise Exhausted
        self._check_time()
        self.spent += len(rows) * fraction
        return self._evaluator.evaluate(self.reduced.expand(rows), fraction=fraction)

    def front(self, *, method: str, certificate: str = "") -> Front:
        """Return the front of all feasible assignments that were evaluated.

        Raises:
            InfeasibleError: None is feasible.
        """
        rows, _, feasible = self.evaluated
        if not feasible.any():
            least = (
                f"; the least measured loss was {min(loss.mean for loss in self._losses):.6g}"
                if self._losses
                else ""
            )
            raise InfeasibleError(
                f"none of {len(rows)} evaluated assignments meets {describe(self.problem)}{least}"
            )
        index = np.flatnonzero(feasible)
        losses = [self._losses[i] for i in index.tolist()] if self.measures else None
        points = make_points(
            self.problem, self.reduced.expand(rows[index]), method=method, losses=losses
        )
        return make_front(
            self.problem,
            points,
            self.names,
            method=method,
            certificate=certificate,
            history=self._history,
        )

    def _count_all(self) -> float:
        """Return how many assignments of variables can be feasible; inf where there are many."""
        domains = [np.flatnonzero(row) for row in self.reduced.allowed]
        if np.prod([float(len(domain)) for domain in domains]) > _COUNTED:
            return np.inf
        rows = np.stack([axis.ravel() for axis in np.meshgrid(*domains, indexing="ij")], axis=1)
        left = [c for c in self.problem.constraints if c not in self.loss_limits]
        free = self.problem.changed(constraints=left) if self.loss_limits else self.problem
        return float(free.feasible(self.reduced.expand(rows)).sum())

    def _check_time(self) -> None:
        if self._rows and has_passed(self._deadline):  # one is evaluated in however little time
            raise Exhausted

    def _record(self, rows: Ints, losses: list[Estimate] | None = None) -> None:
        if not len(rows):
            return
        assignments = self.reduced.expand(rows)
        if self._evaluator is not None and losses is None:
            losses = measure(self._evaluator, assignments)
        totals = self.problem.evaluate(assignments)
        if losses is not None:
            totals["loss"] = np.array([loss.mean for loss in losses])
            self._losses += losses
        values = np.stack([totals[name] for name in self.names], axis=1)
        feasible = judge(self.problem, assignments, losses)
        for row, value, fine in zip(rows, values, feasible.tolist(), strict=True):
            self._index[row.tobytes()] = len(self._rows)
            self._rows.append(row)
            self._values.append(value)
            self._feasible.append(fine)
            self.spent += 1
            if fine and not (self._front <= value).all(axis=1).any():
                better = ~(value <= self._front).all(axis=1)
                self._front = np.concatenate([self._front[better], value[None]])
                self._history.append(Step(self.spent, tuple(value.tolist())))
        if self._progress:
            if len(self._front):
                least = ", ".join(
                    f"{name} >= {value:.4g}"
                    for name, value in zip(self.names, self._front.min(axis=0), strict=True)
                )
                text = f"{len(self._front)} points, {least}"
            else:
                text = "no feasible assignment yet"
            self._progress(min(int(self.spent), self.budget), self.budget, text)
