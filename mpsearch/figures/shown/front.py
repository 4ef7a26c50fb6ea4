"""The front and the plans beside it: what is predicted, what was measured, and where it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpsearch.figures.plan_row import PlanRow, predicted_line, row_value
from mpsearch.figures.shown.labels import Place, place_labels
from mpsearch.figures.shown.scale import Scale, choose_scale, padded
from mpsearch.problem.front import Front, Point
from mpsearch.stats.estimates import Estimate

_MOST_POINTS = 300  # more cannot be told apart on a screen, and weigh in the file
_MOST_MEASURED = 800
_LETTER = 6.8  # pixels


@dataclass(frozen=True, slots=True)
class Mark:
    """One plan in the figure.

    Attributes:
        x: Its cost.
        y: Its loss.
        word: ``measured`` or ``predicted``: what ``y`` is.
        assignment: [G] scheme indices.
        values: Every figure of it.
        label: What stands beside it; "" for nothing.
    """

    x: float
    y: Estimate
    word: str
    assignment: tuple[int, ...]
    values: Mapping[str, Estimate]
    label: str = ""


@dataclass(frozen=True, slots=True)
class ShownFront:
    """What the figure of a front shows.

    Attributes:
        x: Objective along the horizontal axis.
        y: Objective along the vertical axis.
        unit: Unit of ``loss``.
        predicted: The predicted front, along ``x``.
        measured: Points that were measured.
        shifts: (x, predicted y, measured y) of points that have both.
        rows: Plans to compare.
        chosen: The chosen plan.
        scale: Of the vertical axis.
    """

    x: str
    y: str
    unit: str
    predicted: tuple[Mark, ...]
    measured: tuple[Mark, ...]
    shifts: tuple[tuple[float, float, float], ...]
    rows: tuple[Mark, ...]
    chosen: Mark | None
    scale: Scale

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Everything that has a place."""
        chosen = (self.chosen,) if self.chosen is not None else ()
        return (*self.predicted, *self.measured, *self.rows, *chosen)

    @property
    def x_range(self) -> tuple[float, float]:
        """Ends of the horizontal axis."""
        return padded(mark.x for mark in self.marks)

    @property
    def y_range(self) -> tuple[float, float]:
        """Ends of the vertical axis, in coordinates of its scale."""
        return padded((self.scale.place(mark.y.mean) for mark in self.marks), 0.08)

    def label_offsets(
        self, width: float, height: float, texts: Sequence[str]
    ) -> list[Place | None]:
        """Return the offset in pixels of each row's label on an area of ``width`` × ``height``."""
        (left, right), (low, high) = self.x_range, self.y_range

        def pixel(mark: Mark) -> Place:
            up = (self.scale.place(mark.y.mean) - low) / (high - low)
            return width * (mark.x - left) / (right - left), height * up

        named = set(map(id, self.rows))
        return place_labels(
            [pixel(mark) for mark in self.rows],
            [_LETTER * len(text) for text in texts],
            (width, height),
            obstacles=[pixel(mark) for mark in self.marks if id(mark) not in named],
        )


def show_front(
    front: Front,
    *,
    rows: Sequence[PlanRow] = (),
    chosen: Point | None = None,
    unit: str = "",
    objectives: tuple[str, str] | None = None,
) -> ShownFront:
    """Return what the figure of ``front`` shows; see :func:`mpsearch.figures.front.plot_front`."""
    x, y = objectives or _axes(front)
    points = sorted(
        (p for p in front.points if x in _all(p)), key=lambda p: (_all(p)[x].mean, _all(p)[y].mean)
    )
    predicted = [
        Mark(_all(p)[x].mean, p.predicted[y], "predicted", p.assignment, p.predicted)
        for p in _spread(predicted_line(points, x, y), _MOST_POINTS)
    ]
    known = [p for p in points if y in p.measured]
    measured = [_mark(p, x, y) for p in _spread(known, _MOST_MEASURED)]
    shifts = [
        (_all(p)[x].mean, p.predicted[y].mean, p.measured[y].mean)
        for p in points
        if y in p.measured and y in p.predicted
    ]
    marked = []
    for row in rows:
        at, value = row_value(row, x), row.measured.get(y, row.predicted.get(y))
        if row.assignment is not None and at is not None and value is not None:
            word = "measured" if y in row.measured else "predicted"
            values = {**row.predicted, **row.measured}
            marked.append(Mark(at, value, word, row.assignment, values, row.label))
    star = _mark(chosen, x, y) if chosen is not None and {x, y} <= _all(chosen).keys() else None
    seen = [*predicted, *measured, *marked, *([star] if star is not None else [])]
    errors = [mark.y.stderr for mark in seen if mark.word == "measured"]
    return ShownFront(
        x,
        y,
        unit,
        tuple(predicted),
        tuple(measured),
        tuple(shifts),
        tuple(marked),
        star,
        choose_scale([mark.y.mean for mark in seen], errors),
    )


def _mark(point: Point, x: str, y: str) -> Mark:
    values = _all(point)
    word = "measured" if y in point.measured else "predicted"
    return Mark(values[x].mean, values[y], word, point.assignment, values)


def _axes(front: Front) -> tuple[str, str]:
    y = "loss" if "loss" in front.names else front.names[-1]
    costs = [name for name in front.names if name != y]
    return (costs[0] if costs else y), y


def _all(point: Point) -> dict[str, Estimate]:
    """The point's values: measured where measured."""
    return {**point.predicted, **point.measured}


def _spread(points: list[Point], most: int) -> list[Point]:
    """At most ``most`` points, evenly spread, both ends kept."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
