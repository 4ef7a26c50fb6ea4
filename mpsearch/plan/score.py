"""The loss of a plan on any data, as its file says: its schemes, its ranges, its weights; nothing is calibrated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpsearch.data.batches import Batches
from mpsearch.data.fit import check_batches
from mpsearch.errors import DataError, check_argument
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.match import import_planned, plan_assignment
from mpsearch.plan.plan import Plan
from mpsearch.plan.recalibrate import recalibrate_plan
from mpsearch.plan.restore import restore
from mpsearch.simulate.loss_store import MemoryLosses
from mpsearch.simulate.memory_budget import make_budget
from mpsearch.simulate.reference import measure_reference
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Estimate, Floats, estimate_mean


@dataclass(frozen=True, slots=True)
class PlanScore:
    """What a plan scores on some data.

    Attributes:
        loss: Mean loss against the fp32 model, and its standard error.
        unit: Unit of the loss.
        samples: Samples that it was measured on.
        scores: With labels ``nll`` (or the squared error) and ``accuracy`` of the plan.
        reference: The same of the fp32 model.
        losses: [n] loss of each sample.
    """

    loss: Estimate
    unit: str
    samples: int
    scores: Mapping[str, Estimate]
    reference: Mapping[str, Estimate]
    losses: Floats = field(compare=False, repr=False)


def score_plan(
    plan: Plan,
    model: str | Path,
    batches: Batches,
    *,
    loss: str | None = None,
    recalibrate: bool = False,
) -> Estimate:
    """Return the mean loss of ``plan`` on ``batches`` with its standard error.

    Args:
        plan: Made for the model.
        model: The user's ONNX file.
        batches: Any data that fit the model; those that the plan was made with flatter it.
        loss: As :class:`mpsearch.simulate.simulator.Simulator` takes it.
        recalibrate: The model may have other weights of the same structure: the plan's decisions are kept, and its ranges
            and weights made anew from these data (see :func:`mpsearch.plan.recalibrate.recalibrate_plan`).

    Raises:
        ModelError: The model cannot be read.
        PlanError: The plan is for another model or other weights, or its own are missing or have changed.
        DataError: The data do not fit the model, or the loss does not fit both.
        NumericsError: An output is not finite; the message names the first layer that is not.
    """
    return measure_plan(plan, model, batches, loss=loss, recalibrate=recalibrate).loss


def measure_plan(
    plan: Plan,
    model: str | Path,
    batches: Batches,
    *,
    loss: str | None = None,
    recalibrate: bool = False,
) -> PlanScore:
    """Return what :func:`score_plan` does, with what labels say of the plan and of the fp32 model."""
    check_argument("plan", plan, Plan, "as read_plan or make_plan returns it")
    check_argument("batches", batches, Batches, "as read_batches returns them")
    if recalibrate:
        plan = recalibrate_plan(plan, model, batches)
    graph = import_planned(plan, model)
    simulator = simulate_plan(plan, graph, batches, loss=loss)
    assignment = plan_assignment(plan, graph, simulator.space)
    losses = simulator.losses(assignment)
    scores: Mapping[str, Floats] = {}
    reference: Mapping[str, Floats] = {}
    if simulator.batches.labels is not None:
        try:
            scores, reference = simulator.scores(assignment), simulator.scores(None)
        except DataError:
            if loss is None:
                raise
            # whoever names a loss may hold labels that this output has no use for
    return PlanScore(
        simulator.estimate(losses),
        simulator.unit,
        simulator.n_samples,
        {name: estimate_mean(values) for name, values in scores.items()},
        {name: estimate_mean(values) for name, values in reference.items()},
        np.asarray(losses),
    )


def simulate_plan(
    plan: Plan, graph: ModelGraph, batches: Batches, *, loss: str | None = None
) -> Simulator:
    """Return ``graph`` simulated on ``batches`` with the plan's schemes, ranges and weights."""
    calibrated = restore(plan, graph)
    plain = calibrated.unchanged
    reference, _ = measure_reference(
        plain.graph, plain.program, check_batches(batches, graph), loss, make_budget(None)
    )
    return Simulator.of(calibrated, reference, 0, MemoryLosses())
