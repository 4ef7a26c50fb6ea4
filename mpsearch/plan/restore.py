"""A plan's model made ready to be simulated as its file says: its ranges, its weights, no calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.errors import PlanError
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.range import Range
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan, Site, plan_space, site_of
from mpsearch.plan.weights import Place, PlanWeights, hold_weights, load_weights
from mpsearch.program.compile import compile_graph
from mpsearch.program.memory_of_machine import default_memory
from mpsearch.program.program import Program
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.calibrated import Calibrated, calibrate
from mpsearch.simulate.scheme_run import find_ports
from mpsearch.simulate.weight_cache import Recover, WeightStore

_WEIGHT_SHARE = 4  # of free memory, its inverse: what simulated weights may take


def restore(plan: Plan, graph: ModelGraph) -> Calibrated:
    """Return ``graph`` on the CPU with the plan's schemes, ranges and weights; every group may take each scheme.

    Raises:
        PlanError: The plan is for another model, or its weights are not to be had.
        UnsupportedOperatorError: The graph holds operators that cannot be executed.
    """
    space, program = plan_space(plan), compile_graph(graph)
    ranges: dict[tuple[str, Spec], Range] = {(r.value, r.spec): r.range for r in plan.ranges}
    schemes = plan_schemes(plan, graph)
    changed = changed_weights(plan, graph, schemes)
    return Calibrated(
        graph,
        space,
        program,
        None,
        ranges,
        np.ones((len(graph.groups), len(space.schemes)), np.bool_),
        {},
        store_weights(graph, program, schemes, changed),
        find_ports(graph),
        program.find_layers(),
        None,
    )


def store_weights(
    graph: ModelGraph,
    program: Program,
    schemes: Sequence[Scheme],
    changed: Mapping[tuple[int, int], Tensor],
) -> WeightStore:
    """Return the weights of ``graph``, on the program's device; those that ``schemes`` [L] recover as in ``changed``."""

    def recover(layer: int, gemm: int, weight: Tensor, scheme: Scheme) -> Tensor:
        del scheme  # a layer has one
        return changed[layer, gemm].to(weight.device)

    recoverers: dict[str, Recover] = {
        scheme.recovery: recover for scheme in schemes if scheme.recovery != "none"
    }
    return WeightStore(graph, program, default_memory() // _WEIGHT_SHARE, recoverers)


def changed_weights(
    plan: Plan,
    graph: ModelGraph,
    schemes: Sequence[Scheme],
    sites: Sequence[Site] | None = None,
) -> dict[tuple[int, int], Tensor]:
    """Return (layer, gemm) to the fp32 weight that the plan puts in the place of the model's.

    Args:
        plan: Made for the graph.
        graph: The model.
        schemes: [L] the scheme of each layer.
        sites: [L] what the plan calls each layer; None: as the graph does.

    Raises:
        PlanError: The plan's weights are missing, have changed, or do not fit the model.
    """
    sites = [site_of(layer) for layer in graph.layers] if sites is None else sites
    places = _changed_places(graph, sites, dict(enumerate(schemes)))
    if not places and plan.weights is None:
        return {}
    if plan.weights is None:
        raise PlanError(
            "the plan recovers pruned weights on its calibration data and does not bring them; export it "
            "once with these, and take the plan in the export"
        )
    shapes = {
        place: tuple(graph.constants[graph.layers[layer].gemms[gemm].right.value].shape)
        for (layer, gemm), place in places.items()
    }
    tensors = load_weights(plan.weights, shapes)
    return {at: torch.from_numpy(tensors[place]) for at, place in places.items()}


def collect_weights(calibrated: Calibrated, chosen: Mapping[int, Scheme]) -> PlanWeights | None:
    """Return what recovery makes of the weights of layers in the schemes ``chosen``; None if it changes none."""
    graph = calibrated.graph
    places = _changed_places(graph, [site_of(layer) for layer in graph.layers], chosen)
    if not places:
        return None
    recovered = calibrated.weights.recovered
    return hold_weights(
        {
            place: recovered(layer, chosen[layer], gemm).cpu().numpy()
            for (layer, gemm), place in places.items()
        }
    )


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


def with_weights(plan: Plan, weights: PlanWeights | None) -> Plan:
    """Return ``plan`` with ``weights``, and with what it then requires of its readers."""
    others = tuple(name for name in plan.requires if name not in ("weights", "recovery"))
    return replace(
        plan, weights=weights, requires=others if weights is None else (*others, "weights")
    )


def _changed_places(
    graph: ModelGraph, sites: Sequence[Site], chosen: Mapping[int, Scheme]
) -> dict[tuple[int, int], Place]:
    """(layer, gemm) to (node, initialiser) of the weights that recovery changes."""
    return {
        (layer, index): (sites[layer].node, gemm.right.source)
        for layer, scheme in chosen.items()
        if scheme.recovery != "none"
        for index, gemm in enumerate(graph.layers[layer].gemms)
        if gemm.has_weight
    }
