"""A plan on a model: its schemes as a space, its decisions as an assignment, its weights checked."""

from pathlib import Path

import numpy as np

from mpsearch.errors import ModelError, PlanError
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.digests import digest_weights
from mpsearch.plan.plan import Plan, site_of
from mpsearch.schemes import Scheme
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Ints


def plan_schemes(plan: Plan, graph: ModelGraph) -> tuple[Scheme, ...]:
    """Return the scheme of each layer of ``graph``, in order.

    Raises:
        PlanError: The plan is for another model, or does not fit it.
    """
    if plan.structure_digest != graph.structure_digest:
        raise PlanError(
            f"the plan must be used with the model that it was made for, {plan.model} "
            f"(structure {plan.structure_digest[:12]}), got {graph.name} ({graph.structure_digest[:12]})"
        )
    decided = {decision.site.node: decision for decision in plan.decisions}
    unknown = sorted(decided.keys() - {layer.name for layer in graph.layers})
    if unknown:
        raise PlanError(f"the plan decides {unknown[0]!r}, which is no layer of {graph.name}")
    found = []
    for layer in graph.layers:
        decision = decided.get(layer.name)
        if decision is None:
            found.append(plan.schemes[plan.base])
            continue
        if decision.kind != "gemm":
            raise PlanError(
                f"{layer.name!r}: decisions of kind gemm are known, but the plan's is {decision.kind}"
            )
        if decision.site.weights and decision.site.weights != site_of(layer).weights:
            raise PlanError(
                f"{layer.name!r} must multiply with {', '.join(map(repr, decision.site.weights))} as the plan says, "
                f"got {', '.join(site_of(layer).weights) or 'no weight'}"
            )
        found.append(plan.schemes[decision.scheme])
    return tuple(found)


def plan_assignment(plan: Plan, graph: ModelGraph, space: SearchSpace) -> Ints:
    """Return the plan as [G] scheme indices of ``space``.

    Raises:
        PlanError: The plan is for another model, splits a group, or a scheme of the same name
            is another one in ``space``.
        UnknownNameError: The space lacks a scheme.
    """
    schemes = plan_schemes(plan, graph)
    assignment = np.zeros(len(graph.groups), np.int64)
    for g, group in enumerate(graph.groups):
        names = sorted({schemes[i].name for i in group.layers})
        if len(names) > 1:
            raise PlanError(
                f"layers of one group ({group.reason}) must share one scheme, "
                f"but {group.name!r} has {', '.join(names)}"
            )
        index = space.index(names[0])
        if space.schemes[index] != schemes[group.layers[0]]:
            raise PlanError(
                f"scheme {names[0]!r} of the plan is another one in space {space.name!r}"
            )
        assignment[g] = index
    return assignment


def check_weights(plan: Plan, graph: ModelGraph) -> None:
    """Check that ``graph`` has the weights that the plan was made for.

    Raises:
        PlanError: It has others: ranges and measured losses would not hold.
    """
    found = digest_weights(graph)
    if found != plan.weights_digest:
        raise PlanError(
            f"the plan must be used with the weights that it was made for ({plan.weights_digest[:12]}), "
            f"got {graph.name} with others ({found[:12]}); --recalibrate (recalibrate=True in Python) makes ranges and "
            "weights anew from calibration data"
        )


def import_planned(plan: Plan, model: str | Path | ModelGraph) -> ModelGraph:
    """Return the model of ``plan``, its free axes bound as the plan's ranges and figures hold for.

    Args:
        plan: Made for the model.
        model: The user's ONNX file, or the graph that the plan was made from.

    Raises:
        ModelError: The file cannot be read.
        PlanError: It is another model, or has other weights.
    """
    graph = import_structure(plan, model)
    check_weights(plan, graph)
    return graph


def import_structure(plan: Plan, model: str | Path | ModelGraph) -> ModelGraph:
    """Return a model of the structure that ``plan`` is for, whatever its weights; see :func:`import_planned`.

    Raises:
        ModelError: The file cannot be read.
        PlanError: It is another model.
    """
    if isinstance(model, ModelGraph):
        plan_schemes(plan, model)
        return model
    try:
        graph = import_onnx(model, shapes=plan.shapes or None, batch_axes=plan.batch_axes or None)
    except ModelError:
        plan_schemes(plan, import_onnx(model))  # another model is the likelier reason
        raise
    plan_schemes(plan, graph)
    return graph
