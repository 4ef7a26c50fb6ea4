"""From a chosen point to the plan that deploys it: decisions, ranges that they read, coverage."""

from collections.abc import Mapping

from mpsearch.errors import PlanError, check_argument
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.digests import digest_weights
from mpsearch.plan.changes import with_weights
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import CalibratedRange, Covered, Decision, Plan, site_of
from mpsearch.plan.restore import collect_weights
from mpsearch.problem.front import Point
from mpsearch.problem.tables import Costs
from mpsearch.schemes import Scheme
from mpsearch.simulate.observation import static_ranges
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.storage import Storage
from mpsearch.space.stored import count_parameters, find_kept, total_weight_bytes


def make_plan(point: Point, simulator: Simulator, *, costs: Costs | None = None) -> Plan:
    """Return the plan of ``point`` for the simulator's model, with its ranges and the weights that it changes.

    Args:
        point: A point of a front over the simulator's space.
        simulator: Holds graph, space, ranges and weights.
        costs: Says which device and batch the latencies are for.

    Raises:
        PlanError: The point is not one of this model and space, or takes what is not allowed.
    """
    return add_weights(decide_plan(point, simulator, costs=costs), simulator)


def add_weights(plan: Plan, simulator: Simulator) -> Plan:
    """Return ``plan`` with what recovery makes of its weights on the simulator's calibration data."""
    chosen = dict(enumerate(plan_schemes(plan, simulator.graph)))
    return with_weights(plan, collect_weights(simulator.calibrated, chosen))


def decide_plan(point: Point, simulator: Simulator, *, costs: Costs | None = None) -> Plan:
    """Return the plan of ``point`` without the weights that it changes; see :func:`make_plan`."""
    check_argument("point", point, Point, "as choose_point returns it")
    graph, space = simulator.graph, simulator.space
    if len(point.assignment) != len(graph.groups):
        raise PlanError(
            f"a point of {graph.name} must assign {len(graph.groups)} groups, got {len(point.assignment)}"
        )
    for g, s in enumerate(point.assignment):
        if not 0 <= s < len(space.schemes):
            raise PlanError(
                f"a point must choose among the {len(space.schemes)} schemes of {space.name}, got {s}"
            )
        if not simulator.allowed[g, s]:
            key = simulator.groups[g], space.names[s]
            reason = simulator.reasons.get(key, "the space forbids it")
            raise PlanError(f"{key[0]!r} may not take {key[1]}: {reason}")
    chosen = {
        layer: space.schemes[s]
        for group, s in zip(graph.groups, point.assignment, strict=True)
        for layer in group.layers
    }
    schemes = {s.name: s for s in chosen.values()} | {
        space.base: space.schemes[space.index(space.base)]
    }
    layers = enumerate(graph.layers)
    decisions = tuple(Decision(site_of(layer), chosen[i].name) for i, layer in layers)
    return Plan(
        model=graph.name,
        structure_digest=graph.structure_digest,
        weights_digest=digest_weights(graph),
        shapes={v.name: tuple(v.shape) for v in graph.inputs if v.shape is not None},
        batch_axes=dict(graph.batch_axes),
        base=space.base,
        schemes={name: schemes[name] for name in sorted(schemes)},
        decisions=decisions,
        ranges=_used_ranges(graph, chosen, simulator),
        coverage=_coverage(graph, chosen, space.storage, space.base),
        predicted=dict(point.predicted),
        measured=dict(point.measured),
        unit=simulator.unit,
        device=costs.device if costs else "",
        batch=costs.batch if costs else 0,
        method=point.method,
        fingerprint={key: str(value) for key, value in simulator.fingerprint.items()},
    )


def _coverage(
    graph: ModelGraph, chosen: Mapping[int, Scheme], storage: Storage, base: str
) -> Covered:
    """What the decisions reach, and what an export of them stores."""
    kept = find_kept(graph, base if storage.kept == "base" else "")
    stored = total_weight_bytes(graph, chosen, kept, storage)
    weights = count_parameters(graph, chosen)
    covered = graph.coverage
    return Covered(
        covered.parameters,
        covered.total_parameters,
        covered.flops,
        covered.total_flops,
        8 * stored / weights if weights else 0.0,
        {left.name: left.reason for left in covered.undecided},
    )


def _used_ranges(
    graph: ModelGraph, chosen: Mapping[int, Scheme], simulator: Simulator
) -> tuple[CalibratedRange, ...]:
    """The ranges of static specs that the chosen schemes read, each once."""
    return tuple(
        CalibratedRange(value, spec, simulator.ranges[value, spec])
        for value, spec in static_ranges(graph, chosen)
    )
