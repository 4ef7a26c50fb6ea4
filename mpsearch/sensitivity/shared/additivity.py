"""How far sums over a table explain what whole plans lose."""

import numpy as np

from mpsearch.problem.tables import Table
from mpsearch.sensitivity.self_test_file import SelfTest
from mpsearch.stats.estimates import Floats

SUFFICIENT = 0.1
"""Share of the loss that sums may leave unexplained where one adds up losses instead of measuring plans."""
_LEAST_PLANS = 3


def additive_residual(table: Table, found: SelfTest, unit: str) -> float | None:
    """Return how much of measured plans' loss the sums of ``table`` leave unexplained.

    Over the random plans of a self-test that are not saturated:
    √(Σ (measured − predicted)² / Σ measured²), predicted with pair terms where there are some.

    Args:
        table: What was tested.
        found: How it came out; nothing more is measured.
        unit: Unit of the measured losses.

    Returns:
        The share; None where the table speaks of something else than the loss, or of fewer than 3 plans.
    """
    some = ~found.along_front & ~found.saturated
    if table.unit != unit or some.sum() < _LEAST_PLANS:
        return None
    return unexplained(found.predicted[some], found.measured[some])


def say_residual(residual: float, what: str = "the plans'") -> str:
    """Return in a sentence whether adding up suffices: it leaves at most :data:`SUFFICIENT` unexplained.

    Args:
        residual: Share of the loss.
        what: Whose loss, as a genitive.
    """
    said = f"dding up leaves {residual:.0%} of {what} loss unexplained"
    if residual <= SUFFICIENT:
        return f"Additive is sufficient here: a{said}."
    return f"A{said}: choose by measured points."


def unexplained(predicted: Floats, measured: Floats) -> float:
    """The root of Σ (measured − predicted)² / Σ measured²; 0 where nothing was lost."""
    power = float(np.square(measured).sum())
    return float(np.square(measured - predicted).sum() / power) ** 0.5 if power else 0.0
