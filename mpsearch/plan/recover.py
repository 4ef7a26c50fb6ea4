"""A plan with what recovery makes of its weights, on data of its model."""

from dataclasses import dataclass, replace

from mpsearch.deadline import Deadline
from mpsearch.errors import check_argument
from mpsearch.plan.changes import bring_changes
from mpsearch.plan.match import check_weights, plan_assignment
from mpsearch.plan.plan import Change, Plan, site_of
from mpsearch.plan.restore import restore
from mpsearch.recovery.recover import RecoveryResult, recover
from mpsearch.recovery.task import Told, find_methods, parse_methods
from mpsearch.simulate.loss_store import MemoryLosses
from mpsearch.simulate.simulator import Simulator


@dataclass(frozen=True, slots=True)
class RecoveredPlan:
    """A plan, and what recovering it showed.

    Attributes:
        plan: The plan with all that it changes.
        result: Losses on the samples that judged.
    """

    plan: Plan
    result: RecoveryResult


def recover_plan(plan: Plan, simulator: Simulator, *, methods: str = "auto", seed: int = 0) -> Plan:
    """Return ``plan`` with weights and biases that lose less, made from the simulator's data without training.

    A quarter of the samples takes no part but judges: what does not lower the loss there is not done.

    Args:
        plan: Made for the simulator's model; its ranges stay, and what it changes already is built upon.
        simulator: Holds the model and the data.
        methods: ``auto`` tries what there is; ``none``; or names joined by commas, such as ``gptq,bias``.
        seed: Seed of the split and of what methods draw.

    Raises:
        PlanError: The plan is for another model or other weights.
        UnknownNameError: There is no such method.
        NumericsError: An output is not finite; the message names the first layer that is not.
    """
    return measure_recovery(plan, simulator, methods=methods, seed=seed).plan


def measure_recovery(
    plan: Plan,
    simulator: Simulator,
    *,
    methods: str = "auto",
    seed: int = 0,
    progress: Told | None = None,
    deadline: Deadline | None = None,
) -> RecoveredPlan:
    """Return what :func:`recover_plan` does, with the losses before and after.

    Args:
        plan: The plan.
        simulator: Holds the model and the data.
        methods: As :func:`recover_plan` takes them.
        seed: Seed of the split and of what methods draw.
        progress: Told how many steps are done.
        deadline: From then on nothing more is begun; of what was tried the best is taken.
    """
    check_argument("plan", plan, Plan, "as read_plan or make_plan returns it")
    check_argument("simulator", simulator, Simulator, "made from the plan's model and data")
    names = None if methods == "auto" else parse_methods(methods)
    graph = simulator.calibrated.unchanged.graph
    calibrated = restore(plan, graph, simulator.calibrated.unchanged.program)
    check_weights(plan, graph)
    own = Simulator.of(calibrated, simulator.reference, seed, MemoryLosses())
    assignment = plan_assignment(plan, graph, own.space)
    result = recover(own, assignment, names, seed=seed, progress=progress, deadline=deadline)
    if not result.methods:
        return RecoveredPlan(plan, result)
    kinds = {name: method.kind for name, method in find_methods(result.methods).items()}
    done = tuple(
        Change(site_of(graph.layers[layer]), tuple(kinds), before, after)
        for layer, (before, after) in sorted(result.recovered.errors.items())
    )
    made = bring_changes(
        plan,
        graph,
        result.recovered.changes,
        recovery=[name for name, kind in kinds.items() if kind != "transform"],
        transforms=[name for name, kind in kinds.items() if kind == "transform"],
        done=done,
    )
    measured = {} if result.after is None else {"loss": result.after}
    return RecoveredPlan(replace(made, measured=measured, unit=own.unit), result)
