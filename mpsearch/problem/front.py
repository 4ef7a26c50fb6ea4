"""Points and fronts: what was predicted and what was measured, merged, compared, written and read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import ArtifactError, ProblemError
from mpsearch.problem.pareto import hypervolume, non_dominated
from mpsearch.shown import count, html_table, say, spread
from mpsearch.stats.digits import with_error
from mpsearch.stats.estimates import Estimate, Floats, Ints

RECOVERED = "recovered"
"""Method of a point whose loss was measured with the weights that recovery gave its plan."""


@dataclass(frozen=True, slots=True)
class Point:
    """One assignment, with what is predicted and what was measured.

    Attributes:
        assignment: [G] scheme index of each group.
        predicted: Quantity to its value from the tables.
        measured: Quantity to its value from running the quantised model.
        method: What proposed it.
        bound: Proven lower bound of the objective that was minimised to find it.
        gap: Proven relative distance from optimum, (value - bound) / |value|.
    """

    assignment: tuple[int, ...]
    predicted: Mapping[str, Estimate]
    measured: Mapping[str, Estimate] = field(default_factory=dict)
    method: str = ""
    bound: float | None = None
    gap: float | None = None

    def value(self, name: str) -> Estimate:
        """Return the measured value of ``name`` where there is one, else the predicted one."""
        return self.measured[name] if name in self.measured else self.predicted[name]


class Step(NamedTuple):
    """A point that entered the front during a search.

    Attributes:
        spent: Evaluations spent so far, this one included; a fraction of the data counts as such.
        values: [O] its objectives.
    """

    spent: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Front:
    """Assignments none of which dominates another.

    Attributes:
        points: By the first objective, ascending.
        names: The objectives that dominance is judged on.
        schemes: S names.
        groups: G names.
        method: The search method.
        certificate: What is proven of it; "" is nothing.
        history: What entered the front when, for plots.
    """

    points: tuple[Point, ...]
    names: tuple[str, ...]
    schemes: tuple[str, ...]
    groups: tuple[str, ...]
    method: str = ""
    certificate: str = ""
    history: tuple[Step, ...] = ()

    @property
    def assignments(self) -> Ints:
        """[P, G] scheme indices."""
        rows = [point.assignment for point in self.points]
        return np.array(rows, np.int64).reshape(len(rows), len(self.groups))

    @property
    def objectives(self) -> Floats:
        """[P, O] in the order of ``names``: measured where measured, else predicted."""
        rows = [[point.value(name).mean for name in self.names] for point in self.points]
        return np.array(rows, np.float64).reshape(len(rows), len(self.names))

    def __repr__(self) -> str:
        """What it holds, in a line."""
        return say("Front", *self._facts())

    def _repr_html_(self) -> str:
        """What a notebook shows: some points from end to end, predicted apart from measured."""
        names = list(
            dict.fromkeys(name for p in self.points for name in (*self.names, *p.predicted))
        )
        rows = []
        kept = spread(len(self.points))
        for point in (self.points[i] for i in kept):
            counts = [f"{point.assignment.count(s)} {name}" for s, name in enumerate(self.schemes)]
            cells = [
                with_error(values[name]) if name in values else "–"
                for values in (point.predicted, point.measured)
                for name in names
            ]
            rows.append([*cells, ", ".join(text for text in counts if text[:2] != "0 ")])
        columns = [f"{word} {name}" for word in ("predicted", "measured") for name in names]
        wanted = [i for i in range(len(columns)) if any(row[i] != "–" for row in rows)]
        shown = [[*(row[i] for i in wanted), row[-1]] for row in rows]
        heads = [*(columns[i] for i in wanted), "schemes"]
        caption = f"Front: {', '.join(filter(None, self._facts()))}; mp.plot_front(front) draws it"
        return html_table(caption, heads, shown, more=len(self.points) - len(kept))

    def _facts(self) -> tuple[str, ...]:
        return (
            count(len(self.points), "point"),
            f"{sum(bool(p.measured) for p in self.points)} measured",
            " × ".join(self.names),
            f"{count(len(self.groups), 'group')} in {count(len(self.schemes), 'scheme')}",
            self.method,
        )

    def hypervolume(self, reference: ArrayLike) -> float:
        """Return the volume that the front dominates within ``reference`` [O]."""
        return hypervolume(self.objectives, reference)

    def hypervolume_history(self, reference: ArrayLike) -> list[tuple[float, float]]:
        """Return (evaluations spent, hypervolume so far), for plots."""
        values = np.array([step.values for step in self.history]).reshape(-1, len(self.names))
        curve: list[tuple[float, float]] = []
        kept = values[:0]
        for step, value in zip(self.history, values, strict=True):
            kept = np.concatenate([kept, value[None]])
            kept = kept[non_dominated(kept)]
            curve.append((step.spent, hypervolume(kept, reference)))
        return curve


def merge(fronts: Sequence[Front]) -> Front:
    """Return the non-dominated points of all ``fronts``, which must speak of the same things.

    Raises:
        ProblemError: No front, or their objectives, groups or schemes differ, or one is measured where
            another is predicted.
    """
    if not fronts:
        raise ProblemError("merging needs at least one front, got none")
    first = fronts[0]
    for other in fronts[1:]:
        _same(first, other)
    kinds = {
        tuple(name in point.measured for name in first.names) for f in fronts for point in f.points
    }
    if len(kinds) > 1:
        raise ProblemError("fronts to be merged must all be measured or all be predicted")
    points = list({point.assignment: point for f in fronts for point in f.points}.values())
    joined = Front(tuple(points), first.names, first.schemes, first.groups)
    values = joined.objectives
    keep = np.flatnonzero(non_dominated(values))
    keep = keep[np.lexsort(values[keep].T[::-1])]
    methods = dict.fromkeys(f.method for f in fronts if f.method)
    return Front(
        tuple(points[i] for i in keep.tolist()),
        first.names,
        first.schemes,
        first.groups,
        "+".join(methods),
    )


@dataclass(frozen=True, slots=True)
class FrontDiff:
    """How two fronts differ.

    Attributes:
        common: Assignments on both.
        only_first: Points of the first that are not on the second.
        only_second: The reverse.
        first_wins: How many points of the first dominate one of the second.
        second_wins: The reverse.
        hypervolumes: Of the first and the second, within the worst corner of both together.
    """

    common: tuple[tuple[int, ...], ...]
    only_first: tuple[Point, ...]
    only_second: tuple[Point, ...]
    first_wins: int
    second_wins: int
    hypervolumes: tuple[float, float]


def diff(first: Front, second: Front) -> FrontDiff:
    """Compare two fronts over the same objectives, groups and schemes."""
    _same(first, second)
    mine = {point.assignment: point for point in first.points}
    theirs = {point.assignment: point for point in second.points}
    a, b = first.objectives, second.objectives
    both = np.concatenate([a, b])
    corner = both.max(axis=0) if len(both) else np.zeros(len(first.names))
    return FrontDiff(
        tuple(key for key in mine if key in theirs),
        tuple(point for key, point in mine.items() if key not in theirs),
        tuple(point for key, point in theirs.items() if key not in mine),
        _winners(a, b),
        _winners(b, a),
        (hypervolume(a, corner), hypervolume(b, corner)),
    )


def _winners(a: Floats, b: Floats) -> int:
    return sum(bool(((row <= b).all(axis=1) & (row < b).any(axis=1)).any()) for row in a)


def _same(first: Front, second: Front) -> None:
    for what in ("names", "groups", "schemes"):
        if getattr(first, what) != getattr(second, what):
            raise ProblemError(
                f"the fronts must have the same {what}, got {', '.join(getattr(first, what)[:5])} "
                f"and {', '.join(getattr(second, what)[:5])}"
            )


class _Column(Content):
    """Means and standard errors of the points at ``index`` (None: of every point)."""

    index: tuple[int, ...] | None = None
    mean: tuple[float, ...]
    stderr: tuple[float, ...]


class _FrontContent(Content):
    """A front in columns; an assignment is its scheme indices, space-separated."""

    names: tuple[str, ...]
    schemes: tuple[str, ...]
    groups: tuple[str, ...]
    method: str
    certificate: str
    assignments: tuple[str, ...]
    methods: tuple[str, ...]
    predicted: dict[str, _Column]
    measured: dict[str, _Column]
    bounds: tuple[float | None, ...]
    gaps: tuple[float | None, ...]
    history: tuple[tuple[float, ...], ...] = ()


def write_front(front: Front, path: Path, inputs: Mapping[str, str] = {}) -> str:
    """Write ``front`` to ``path`` and return its digest; ``inputs`` are digests it was made from."""
    return write_artifact(
        path,
        "front",
        _FrontContent(
            names=front.names,
            schemes=front.schemes,
            groups=front.groups,
            method=front.method,
            certificate=front.certificate,
            assignments=tuple(" ".join(map(str, point.assignment)) for point in front.points),
            methods=tuple(point.method for point in front.points),
            predicted=_columns([point.predicted for point in front.points]),
            measured=_columns([point.measured for point in front.points]),
            bounds=tuple(point.bound for point in front.points),
            gaps=tuple(point.gap for point in front.points),
            history=tuple((step.spent, *step.values) for step in front.history),
        ),
        inputs=inputs,
    )


def read_front(path: Path) -> Front:
    """Read a front that :func:`write_front` wrote.

    Raises:
        ArtifactError: The file is missing, damaged, of another kind, or contradicts itself.
    """
    content = read_artifact(path, "front", _FrontContent)
    n, G, S = len(content.assignments), len(content.groups), len(content.schemes)
    try:
        rows = [tuple(int(part) for part in text.split()) for text in content.assignments]
        if any(len(row) != G or not all(0 <= s < S for s in row) for row in rows):
            raise ValueError("an assignment does not fit groups and schemes")
        predicted, measured = _rows(content.predicted, n), _rows(content.measured, n)
        points = tuple(
            Point(*parts)
            for parts in zip(
                rows,
                predicted,
                measured,
                content.methods,
                content.bounds,
                content.gaps,
                strict=True,
            )
        )
        for point in points:
            for name in content.names:
                point.value(name)
    except (ValueError, KeyError, IndexError) as error:
        raise ArtifactError(f"{path.name}: the front contradicts itself: {error}") from None
    return Front(
        points,
        content.names,
        content.schemes,
        content.groups,
        content.method,
        content.certificate,
        tuple(Step(row[0], row[1:]) for row in content.history),
    )


def _columns(rows: Sequence[Mapping[str, Estimate]]) -> dict[str, _Column]:
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, _Column] = {}
    for name in names:
        index = [i for i, row in enumerate(rows) if name in row]
        values = [rows[i][name] for i in index]
        columns[name] = _Column(
            index=None if len(index) == len(rows) else tuple(index),
            mean=tuple(float(value.mean) for value in values),
            stderr=tuple(float(value.stderr) for value in values),
        )
    return columns


def _rows(columns: Mapping[str, _Column], n: int) -> list[dict[str, Estimate]]:
    rows: list[dict[str, Estimate]] = [{} for _ in range(n)]
    for name, column in columns.items():
        index = range(n) if column.index is None else column.index
        for i, mean, stderr in zip(index, column.mean, column.stderr, strict=True):
            rows[i][name] = Estimate(mean, stderr)
    return rows
