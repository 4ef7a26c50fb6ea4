"""Predicted beside measured values of one objective."""

from dataclasses import dataclass

from mpsearch.figures.shown.scale import Scale, choose_scale
from mpsearch.problem.front import Front
from mpsearch.stats.estimates import Estimate


@dataclass(frozen=True, slots=True)
class ShownTrust:
    """Points of a front that have both values.

    Attributes:
        predicted: [P] what the tables say.
        measured: [P] what running the model gave.
        assignments: [P][G] their plans.
        scale: Of both axes.
    """

    predicted: tuple[Estimate, ...]
    measured: tuple[Estimate, ...]
    assignments: tuple[tuple[int, ...], ...]
    scale: Scale

    @property
    def ends(self) -> tuple[float, float] | None:
        """Least and greatest value, between which the diagonal runs; None without points."""
        values = [e.mean for e in (*self.predicted, *self.measured)]
        return (min(values), max(values)) if values else None


def show_trust(front: Front, objective: str = "loss") -> ShownTrust:
    """Return what the figure of trust shows."""
    both = [p for p in front.points if objective in p.predicted and objective in p.measured]
    predicted = tuple(p.predicted[objective] for p in both)
    measured = tuple(p.measured[objective] for p in both)
    scale = choose_scale([e.mean for e in predicted + measured], [e.stderr for e in measured])
    return ShownTrust(predicted, measured, tuple(p.assignment for p in both), scale)
