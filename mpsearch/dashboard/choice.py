"""Which plan is looked at: chosen by hand, by limits, or the knee; and what is said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpsearch.dashboard.opened import Shown, key_of
from mpsearch.errors import MpsearchError
from mpsearch.figures.shown.front import ShownFront, show_front
from mpsearch.figures.theme import plain_objective_title
from mpsearch.problem.front import Point
from mpsearch.search.choose_point import choose_point
from mpsearch.shown import shorten, spread
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Estimate

LIMITS = ("latency_us", "weight_bytes", "effective_bits", "energy_uj", "loss")
"""What can be limited, in the order of the page's fields."""
_MOST_OPTIONS = 160


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a wish.

    Attributes:
        key: The plan; "" keeps the one before.
        said: Why there is none, or by what it was chosen.
    """

    key: str
    said: str


def first_key(shown: Shown) -> str:
    """Return the plan that is looked at first: the run's own choice, else the knee, else none."""
    if shown.report is not None and shown.report.chosen is not None:
        return key_of(shown.report.chosen.assignment)
    if shown.front is None or not shown.front.points:
        return ""
    return best_within(shown, {}, knee=True).key


def best_within(shown: Shown, limits: Mapping[str, float], *, knee: bool = False) -> Decision:
    """Return the best plan within ``limits``, as :func:`mpsearch.choose_point` judges."""
    if shown.front is None or not shown.points:
        return Decision("", "there is nothing to choose from yet")
    pool = replace(shown.front, points=tuple(shown.points.values()))
    try:
        found = choose_point(pool, limits=limits, knee=knee or not limits)
    except MpsearchError as error:
        return Decision("", str(error))
    asked = " and ".join(f"{plain_objective_title(n)} ≤ {number(v, 4)}" for n, v in limits.items())
    by = ("the knee within " if limits else "the knee") if knee or not limits else "the best with "
    return Decision(key_of(found.assignment), f"chosen: {by}{asked}")


def given_limits(values: Sequence[Any]) -> dict[str, float]:
    """Return the limits that are filled in, in the order of :data:`LIMITS`."""
    numbers = {n: v for n, v in zip(LIMITS, values, strict=True) if isinstance(v, int | float)}
    return {name: float(value) for name, value in numbers.items()}


def options_of(shown: Shown, keep: str = "") -> list[dict[str, str]]:
    """Return what can be picked by name: compared plans, measured points, some predicted ones."""
    named = [key for key in shown.labels if key in shown.points]
    measured = [k for k, p in shown.points.items() if p.measured and k not in shown.labels]
    rest = [k for k, p in shown.points.items() if not p.measured and k not in shown.labels]
    kept = [rest[i] for i in spread(len(rest), max(12, _MOST_OPTIONS - len(named) - len(measured)))]
    keys = [*named, *measured[:_MOST_OPTIONS], *kept]
    if keep in shown.points and keep not in keys:
        keys.append(keep)
    return [{"value": key, "label": name_of(shown, key)} for key in keys]


def name_of(shown: Shown, key: str) -> str:
    """Return what a plan is called: its own name, or its figures."""
    point = shown.points[key]
    figures = [
        f"{short} {number(point.value(name).mean, 3)}"
        for name, short in (("latency_us", "µs"), ("effective_bits", "bits"))
        if name in point.predicted
    ]
    loss = point.measured.get("loss", point.predicted.get("loss"))
    if loss is not None:
        word = "measured" if "loss" in point.measured else "predicted"
        figures.append(f"{word} loss {with_error(loss)}")
    label = shown.labels.get(key, "")
    return f"{shorten(label, 60)}: {', '.join(figures)}" if label else ", ".join(figures)


def figures_of(point: Point, unit: str) -> list[tuple[str, str, str]]:
    """Return (quantity, predicted, measured) of a point, as texts; – where there is none."""
    names = dict.fromkeys([*point.predicted, *point.measured])
    return [
        (
            plain_objective_title(name, unit),
            _said(point.predicted.get(name)),
            _said(point.measured.get(name)),
        )
        for name in names
    ]


def _said(value: Estimate | None) -> str:
    return "–" if value is None else with_error(value)


def axes_of(shown: Shown) -> list[str]:
    """Return the objectives that every point of the front has."""
    if shown.front is None or not shown.front.points:
        return []
    first = shown.front.points[0]
    names = dict.fromkeys([*shown.front.names, *first.predicted])
    return [
        n for n in names if all(n in p.predicted or n in p.measured for p in shown.front.points)
    ]


def show(shown: Shown, x: str, y: str, chosen: str = "") -> ShownFront:
    """Return what the figure of a run's front shows."""
    return show_front(
        shown.front_in(x, y),
        rows=marked_rows(shown, chosen),
        chosen=shown.points.get(chosen),
        unit=shown.unit,
        objectives=(x, y),
    )


def marked_rows(shown: Shown, chosen: str) -> list[Any]:
    """Return the plans that a front is compared with, each once, without the chosen one."""
    first = {row.assignment: row for row in shown.rows if row.assignment is not None}
    return [row for assignment, row in first.items() if key_of(assignment) != chosen]
