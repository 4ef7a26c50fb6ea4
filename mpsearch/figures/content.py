"""What a report is made of: plain values that the stages before it returned."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mpsearch.figures.plan_row import PlanRow
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.front import Front, Point
from mpsearch.problem.tables import Costs, Table
from mpsearch.sensitivity.self_test_file import SelfTest
from mpsearch.simulate.ranges_file import Magnitudes
from mpsearch.stats.estimates import Bools, Estimate


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
        run: Name of the run's folder; "" leaves out what one can do with it.
        plan: The chosen plan's file in it.
        data: File name of the calibration data.
        by_output: Part of the outputs to what the chosen plan loses there.
        by_slice: Slice of the data to what it loses there.
        ranges: Magnitudes of layers' inputs; empty where nobody looked at them.
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
    run: str = ""
    plan: str = ""
    data: str = ""
    by_output: Mapping[str, Estimate] = field(default_factory=dict)
    by_slice: Mapping[str, Estimate] = field(default_factory=dict)
    ranges: tuple[Magnitudes, ...] = ()

    @property
    def allowed(self) -> Bools:
        """[G, S]: allowed by the device, the space and the data."""
        return np.asarray(self.table.allowed & self.costs.allowed)

    @property
    def reasons(self) -> dict[tuple[str, str], str]:
        """(group, scheme) name to why it is not allowed."""
        return {**self.table.reasons, **self.costs.reasons}
