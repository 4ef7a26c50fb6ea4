"""What a report is made of: plain values that the stages before it returned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpsearch.graph.model import ModelGraph
from mpsearch.pareto import Front, Point, non_dominated
from mpsearch.sensitivity.selftest import SelfTest
from mpsearch.tables import Bools, Costs, Estimate, Table


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One line of the table of plans: the fp32 model, a uniform plan or a mixed one.

    Attributes:
        label: What people call it: ``fp32``, ``uniform fp8``, ``mixed``.
        assignment: [G] scheme indices; None is the fp32 model, which nothing was decided for.
        predicted: Objective to what the tables add up to.
        measured: Objective to what running the quantised model gave.
        scores: Name to score on held-out data: ``nll``, ``accuracy``, and the user's own.
        effective_bits: Stored bits of all decided weights over their number.
        latency_us: Modelled latency of one batch, microseconds.
        weight_bytes: Stored bytes of all decided weights.
    """

    label: str
    assignment: tuple[int, ...] | None
    predicted: Mapping[str, Estimate] = field(default_factory=dict)
    measured: Mapping[str, Estimate] = field(default_factory=dict)
    scores: Mapping[str, Estimate] = field(default_factory=dict)
    effective_bits: float | None = None
    latency_us: float | None = None
    weight_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report says.

    Attributes:
        title: Heading; usually the model's name without its suffix.
        model: The model's file name.
        device: Name of the device that latencies are modelled for.
        space: Name of the search space.
        batch: Samples that one latency is for.
        seed: Seed of the run.
        fingerprint: What computed the losses: versions, instruction set, threads, batch size.
        front: The front that was found.
        table: Sensitivities of the run.
        costs: Costs on the device.
        graph: The model.
        rows: Plans to compare: fp32, uniform ones, mixed ones; the order is kept.
        chosen: The point whose plan was written; None when nobody chose yet.
        rank_correlation: Spearman of predicted and measured losses, and how many points it is over.
        notes: What a reader must know: honest sentences, one a note.
        facts: More about how the run was made: ``calibration samples`` to ``250``, …
        self_test: How the table ranks random plans that were measured; None where that was not asked for.
        unit: Unit of measured losses; "" where none were measured.
    """

    title: str
    model: str
    device: str
    space: str
    batch: int
    seed: int
    fingerprint: Mapping[str, str]
    front: Front
    table: Table
    costs: Costs
    graph: ModelGraph
    rows: tuple[PlanRow, ...] = ()
    chosen: Point | None = None
    rank_correlation: tuple[float, int] | None = None
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    self_test: SelfTest | None = None
    unit: str = ""

    @property
    def allowed(self) -> Bools:
        """[G, S]: allowed by the device, the space and the data."""
        return np.asarray(self.table.allowed & self.costs.allowed)

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """(group, scheme) name to why it is not allowed."""
        return {**self.table.reasons, **self.costs.reasons}


def row_value(row: PlanRow, name: str) -> float | None:
    """Return an objective of a row: measured where measured, else predicted, else its cost."""
    for values in (row.measured, row.predicted):
        if name in values:
            return values[name].mean
    costs = {
        "latency_us": row.latency_us,
        "weight_bytes": row.weight_bytes,
        "effective_bits": row.effective_bits,
    }
    return costs.get(name)


def predicted_line(points: Sequence[Point], x: str, y: str) -> list[Point]:
    """Return those of ``points`` that none is predicted to dominate in ``x`` and ``y``, along ``x``.

    A front also holds points for what they measured; a line through them would not be the predicted front.
    """
    both = [p for p in points if x in p.predicted and y in p.predicted]
    if not both:
        return []
    values = np.array([[p.predicted[x].mean, p.predicted[y].mean] for p in both])
    kept = np.flatnonzero(non_dominated(values))
    return [both[i] for i in kept[np.argsort(values[kept, 0], kind="stable")]]


def uniform_scheme(assignment: tuple[int, ...], allowed: Bools) -> int | None:
    """Return the scheme that ``assignment`` is uniform in, or None if it is mixed.

    Uniform X means X wherever X is allowed and one other scheme, the base, elsewhere. Where two
    schemes fit, the one of more groups is meant.

    Args:
        assignment: [G] scheme indices.
        allowed: [G, S].
    """
    chosen = np.asarray(assignment)
    schemes, counts = np.unique(chosen, return_counts=True)
    if len(schemes) > 2:
        return None
    for scheme in schemes[np.argsort(-counts, kind="stable")]:
        if not allowed[chosen != scheme, scheme].any():
            return int(scheme)
    return None
