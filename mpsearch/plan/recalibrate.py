"""A plan on a model with other weights of the same structure: ranges and weights made anew, decisions kept."""

from dataclasses import replace
from pathlib import Path

from mpsearch.data.batches import Batches
from mpsearch.errors import PlanError, check_argument
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.digests import digest_weights
from mpsearch.plan.make import make_plan
from mpsearch.plan.match import import_structure, plan_assignment
from mpsearch.plan.plan import Plan, plan_space
from mpsearch.plan.recover import recover_plan
from mpsearch.problem.front import Point
from mpsearch.registry import list_names
from mpsearch.simulate.simulator import Simulator


def recalibrate_plan(plan: Plan, model: str | Path | ModelGraph, batches: Batches) -> Plan:
    """Return ``plan`` for ``model``, whose weights may be others: its decisions, with ranges and weights of its own.

    What recovered the plan's weights is run again on the data. The loss is measured on them; losses of the earlier weights
    are dropped, predicted ones too, and so is the safer plan that it named.

    Args:
        plan: Made for a model of the same structure.
        model: The user's ONNX file, or the graph that ``import_torch`` made.
        batches: Calibration data.

    Raises:
        ModelError: The model cannot be read.
        PlanError: It is of another structure; a layer overflows in its scheme; or the plan's weights were trained, which only
            training makes anew.
        DataError: The data do not fit the model.
    """
    check_argument("plan", plan, Plan, "as read_plan or make_plan returns it")
    check_argument("batches", batches, Batches, "as read_batches returns them")
    known = set(list_names("recovery_methods"))
    unknown = [name for name in plan.recovery if name not in known]
    if unknown:
        raise PlanError(
            f"{', '.join(unknown)} of the plan must be done anew on other weights, which calibration data cannot; "
            "recalibrate the plan before it was, and run that again"
        )
    graph = import_structure(plan, model)
    simulator = Simulator(graph, plan_space(plan), batches, device="cpu")
    assignment = plan_assignment(plan, simulator.graph, simulator.space)
    predicted = {name: value for name, value in plan.predicted.items() if name != "loss"}
    measured = {"loss": simulator.loss(assignment)}
    point = Point(tuple(assignment.tolist()), predicted, measured, plan.method)
    made = make_plan(point, simulator)
    made = replace(
        made,
        device=plan.device,
        batch=plan.batch,
        extensions=plan.extensions,
        fingerprint={
            **made.fingerprint,
            "calibration": batches.digest,
            "calibration_samples": str(len(batches)),
            "recalibrated_from": plan.weights_digest,
        },
    )
    names = [*plan.transforms, *plan.recovery]
    if not names:
        return made
    return recover_plan(made, simulator, methods=",".join(names))


def has_other_weights(plan: Plan, model: str | Path | ModelGraph) -> bool:
    """Return whether ``model`` is of the plan's structure and has other weights.

    Raises:
        ModelError: The model cannot be read.
        PlanError: It is of another structure.
    """
    return digest_weights(import_structure(plan, model)) != plan.weights_digest
