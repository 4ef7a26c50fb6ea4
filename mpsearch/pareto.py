"""Dominance: fronts of assignments, their hypervolume, their knee, and their file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import ArtifactError, ProblemError
from mpsearch.tables import Bools, Estimate, Floats, Ints


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


def non_dominated(values: ArrayLike) -> Bools:
    """Return which rows of ``values`` [P, O] no other row dominates; of equal rows the first."""
    array = _matrix(values)
    keep = np.zeros(len(array), np.bool_)
    if not len(array):
        return keep
    order = np.lexsort(array.T[::-1])  # by the first objective, then the second, ...; stable
    ranked = array[order]
    if array.shape[1] == 1:
        keep[order[0]] = True
        return keep
    if array.shape[1] == 2:
        best = np.minimum.accumulate(ranked[:, 1])
        keep[order] = np.concatenate([[True], ranked[1:, 1] < best[:-1]])
        return keep
    left = np.arange(len(array))
    while left.size:
        first, left = left[0], left[1:]
        keep[order[first]] = True  # nothing before it in the order is left to dominate it
        left = left[(ranked[left] < ranked[first]).any(axis=1)]
    return keep


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume between ``values`` [P, O] and ``reference`` [O] that they dominate.

    Exact to 4 objectives by slicing; above that through pymoo. Rows beyond the reference count nothing.
    """
    array, corner = _matrix(values), np.asarray(reference, np.float64)
    if corner.shape != (array.shape[1],):
        raise ProblemError(
            f"the reference must have {array.shape[1]} values, got {list(corner.shape)}"
        )
    array = array[(array < corner).all(axis=1)]
    if not len(array):
        return 0.0
    array = array[non_dominated(array)]
    if array.shape[1] > 4:
        from pymoo.indicators.hv import HV

        return float(HV(ref_point=corner)(array))
    return _volume(array, corner)


def _volume(array: Floats, corner: Floats) -> float:
    if array.shape[1] == 1:
        return float(corner[0] - array.min())
    if array.shape[1] == 2:
        order = np.lexsort((array[:, 1], array[:, 0]))
        x, y = array[order].T
        floor = np.minimum.accumulate(np.concatenate([corner[1:], y]))
        return math.fsum((corner[0] - x) * (floor[:-1] - floor[1:]))
    order = np.argsort(array[:, -1], kind="stable")
    array = array[order]
    levels = np.append(array[:, -1], corner[-1])
    slices: list[float] = []
    kept = array[:0, :-1]
    for row, (low, high) in zip(array, pairwise(levels), strict=True):
        kept = np.concatenate([kept, row[None, :-1]])
        kept = kept[non_dominated(kept)]
        if high > low:
            slices.append((high - low) * _volume(kept, corner[:-1]))
    return math.fsum(slices)


def knee(values: ArrayLike) -> int:
    """Return the row of ``values`` [P, O] farthest below the plane through the extremes.

    With every objective scaled to [0, 1] over the rows, that is the least sum; of equals the first.
    """
    array = _matrix(values)
    if not len(array):
        raise ProblemError("the knee of an empty front was asked for")
    return int(_scaled(array).sum(axis=1).argmin())


def thin(values: ArrayLike, n: int) -> Ints:
    """Return ``n`` rows of ``values`` [P, O], ascending, so that every row has a kept one nearby.

    The best of each objective come first, then always the row that is farthest (largest difference of
    a scaled objective) from all kept ones: at most twice the least possible distance (Gonzalez 1985).
    """
    array = _scaled(_matrix(values))
    if n < 1:
        raise ProblemError(f"`n >= 1` must hold for thinning, got {n}")
    if len(array) <= n:
        return np.arange(len(array))
    kept: list[int] = []
    distance = np.full(len(array), np.inf)
    starts = list(dict.fromkeys(array.argmin(axis=0).tolist()))
    while len(kept) < n:
        new = starts[len(kept)] if len(kept) < len(starts) else int(distance.argmax())
        kept.append(new)
        distance = np.minimum(distance, np.abs(array - array[new]).max(axis=1))
    return np.array(sorted(set(kept)), np.int64)


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


def _matrix(values: ArrayLike) -> Floats:
    array = np.asarray(values, np.float64)
    if array.ndim != 2:
        raise ProblemError(f"values must be [points, objectives], got shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ProblemError("values must be finite; infeasible points are left out, never inf")
    return array


def _scaled(array: Floats) -> Floats:
    low = array.min(axis=0, initial=np.inf)
    span = array.max(axis=0, initial=-np.inf) - low
    return (array - low) / np.where(span > 0, span, 1.0)


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
