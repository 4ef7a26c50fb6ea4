"""A plan's model made ready to be simulated as its file says: its ranges, its weights, no calibration."""

from collections.abc import Mapping

import numpy as np

from mpsearch.data.batches import Batches
from mpsearch.errors import PlanError
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.range import Range
from mpsearch.plan.changes import changes_of, hold_changes, with_weights
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan, plan_space
from mpsearch.plan.weights import Array, Place, PlanWeights, hold_weights
from mpsearch.program.compile import compile_graph
from mpsearch.program.memory_of_machine import default_memory
from mpsearch.program.program import Program
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.calibrated import Calibrated, apply_changes, calibrate
from mpsearch.simulate.scheme_run import find_ports
from mpsearch.simulate.weight_cache import WeightStore

WEIGHT_SHARE = 4
"""Inverse of the share of free memory that simulated weights may take."""


def restore(plan: Plan, graph: ModelGraph, program: Program | None = None) -> Calibrated:
    """Return ``graph`` with the plan's schemes, ranges and tensors; every group may take each scheme.

    Args:
        plan: Made for the graph.
        graph: The model.
        program: The model compiled, on a device; None compiles it for the CPU.

    Raises:
        PlanError: The plan is for another model, or its weights are not to be had.
        UnsupportedOperatorError: The graph holds operators that cannot be executed.
    """
    space = plan_space(plan)
    program = compile_graph(graph) if program is None else program
    ranges: dict[tuple[str, Spec], Range] = {(r.value, r.spec): r.range for r in plan.ranges}
    changes = changes_of(plan, graph)
    unchanged = Calibrated(
        graph,
        space,
        program,
        None,
        ranges,
        np.ones((len(graph.groups), len(space.schemes)), np.bool_),
        {},
        WeightStore(graph, program, default_memory() // WEIGHT_SHARE),
        find_ports(graph),
        program.find_layers(),
        None,
    )
    return apply_changes(unchanged, changes)


def collect_weights(calibrated: Calibrated, chosen: Mapping[int, Scheme]) -> PlanWeights | None:
    """Return what recovery makes of the weights of layers in the schemes ``chosen``, and all else that is changed.

    None: nothing is.
    """
    graph, changes = calibrated.graph, calibrated.changes
    tensors: dict[Place, Array] = dict(hold_changes(changes, graph).tensors)
    for layer, scheme in chosen.items():
        for index, gemm in enumerate(graph.layers[layer].gemms):
            if (
                scheme.recovery == "none"
                or not gemm.has_weight
                or (layer, index) in changes.weights
            ):
                continue
            recovered = calibrated.weights.recovered(layer, scheme, index)
            tensors[graph.layers[layer].name, gemm.right.source] = recovered.cpu().numpy()
    return hold_weights(tensors) if tensors else None


def rebuild_weights(plan: Plan, graph: ModelGraph, batches: Batches | None) -> Plan:
    """Return ``plan`` with its weights: one of an earlier version, which lacks them, is recovered anew.

    Args:
        plan: Made for the graph.
        graph: The model.
        batches: The calibration data, in the same batches; not needed where the plan lacks nothing.

    Raises:
        PlanError: The plan lacks its weights, and there are no data.
    """
    chosen = dict(enumerate(plan_schemes(plan, graph)))
    if plan.weights is not None or all(s.recovery == "none" for s in chosen.values()):
        return plan
    if batches is None:
        raise PlanError(
            "a plan of an earlier version, with recovered weights that it does not bring, must be exported and "
            "verified with the calibration data that it was made with; give them as `batches`"
        )
    calibrated = calibrate(graph, plan_space(plan), batches, device="cpu")
    return with_weights(plan, collect_weights(calibrated, chosen))
