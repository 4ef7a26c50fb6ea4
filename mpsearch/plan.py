"""Plans: a chosen assignment, self-contained, in the words of the user's own model file.

A plan names layers by node and initialiser of the file that the user has, brings its scheme definitions and
calibrated ranges with it, and says which model it is for by digests. So it outlives the search, the space
file and this version's defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import NumericsError, PlanError
from mpsearch.execute.calibration import static_ranges
from mpsearch.graph.digests import digest_weights
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.numerics.ranges import Range
from mpsearch.pareto import Point
from mpsearch.schemes import Scheme, Spec, stored_bits
from mpsearch.space import SearchSpace
from mpsearch.tables import Costs, Estimate, Ints

if TYPE_CHECKING:
    from mpsearch.execute.simulator import Simulator

VERSION = 1
KNOWN_FEATURES = frozenset({"recovery"})
"""What a plan may require of whoever reads it: ``recovery`` needs the calibration data to rebuild weights."""

Kind = Literal["gemm", "kv_cache", "state"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a decision applies, by the names of the user's file.

    Attributes:
        node: The node's name, or its first output if it has none; a path in a subgraph.
        weights: Initialisers (or Constants' outputs) that it multiplies with.
    """

    node: str
    weights: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """One site and the name of the scheme it runs in."""

    site: Site
    scheme: str
    kind: Kind = "gemm"


@dataclass(frozen=True, slots=True)
class CalibratedRange:
    """What calibration found about one activation, for one spec."""

    value: str
    spec: Spec
    range: Range


@dataclass(frozen=True, slots=True)
class Covered:
    """What a plan decides of its model.

    Attributes:
        parameters: Decided parameters.
        total_parameters: All floating-point parameters.
        flops: FLOPs of the decided layers, at the graph's batch size.
        total_flops: FLOPs of all that multiplies.
        effective_bits: Stored bits of the decided weights, scales and metadata included, a weight.
        undecided: Names of what is left out, and why.
    """

    parameters: int
    total_parameters: int
    flops: int
    total_flops: int
    effective_bits: float
    undecided: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A chosen assignment, for deployment.

    Attributes:
        model: File name of the model.
        structure_digest: SHA-256 of the model's graph without weights.
        weights_digest: SHA-256 of its weights.
        shapes: Input name to the sizes that ranges and costs hold for; None is a free axis.
        base: Scheme of what no decision covers; layers' outputs are rounded to its format.
        schemes: Name to definition of every scheme that a decision names, and the base.
        decisions: One a layer, in schedule order.
        ranges: What static activation specs were calibrated to.
        coverage: What the plan decides.
        predicted: Quantity to its value from the tables.
        measured: Quantity to its value from running the quantised model.
        unit: Unit of ``loss``.
        device: Device that latencies are for; "" without a cost model.
        batch: Samples that one latency is for; 0 without a cost model.
        method: What found the assignment.
        fingerprint: What computed the measured values.
        transforms: Reserved; empty.
        requires: Features that a reader must know.
        fallback: File name of a safer plan beside this one; "" without.
        extensions: Fields of others.
    """

    model: str
    structure_digest: str
    weights_digest: str
    shapes: Mapping[str, tuple[int | None, ...]]
    base: str
    schemes: Mapping[str, Scheme]
    decisions: tuple[Decision, ...]
    ranges: tuple[CalibratedRange, ...]
    coverage: Covered
    predicted: Mapping[str, Estimate] = field(default_factory=dict)
    measured: Mapping[str, Estimate] = field(default_factory=dict)
    unit: str = ""
    device: str = ""
    batch: int = 0
    method: str = ""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    fallback: str = ""
    extensions: Mapping[str, Any] = field(default_factory=dict)

    def find_range(self, value: str, spec: Spec) -> Range | None:
        """Return what ``value`` was calibrated to for ``spec``, or None."""
        found = (r.range for r in self.ranges if r.value == value and r.spec == spec)
        return next(found, None)


def make_plan(point: Point, simulator: "Simulator", *, costs: Costs | None = None) -> Plan:
    """Return the plan of ``point`` for the simulator's model, with the ranges that it calibrated.

    Args:
        point: A point of a front over the simulator's space.
        simulator: Holds graph, space and ranges.
        costs: Says which device and batch the latencies are for.

    Raises:
        PlanError: The point is not one of this model and space, or takes what is not allowed.
    """
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
    recovers = any(scheme.recovery != "none" for scheme in schemes.values())
    return Plan(
        model=graph.name,
        structure_digest=graph.structure_digest,
        weights_digest=digest_weights(graph),
        shapes={v.name: tuple(v.shape) for v in graph.inputs if v.shape is not None},
        base=space.base,
        schemes={name: schemes[name] for name in sorted(schemes)},
        decisions=decisions,
        ranges=_used_ranges(graph, chosen, simulator),
        coverage=_coverage(graph, chosen),
        predicted=dict(point.predicted),
        measured=dict(point.measured),
        unit=simulator.unit,
        device=costs.device if costs else "",
        batch=costs.batch if costs else 0,
        method=point.method,
        fingerprint={key: str(value) for key, value in simulator.fingerprint.items()},
        requires=("recovery",) if recovers else (),
    )


def site_of(layer: Layer) -> Site:
    """Return how plans name ``layer``."""
    sources = (gemm.right.source for gemm in layer.gemms if gemm.has_weight)
    return Site(layer.name, tuple(dict.fromkeys(sources)))


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
                f"{layer.name!r} must multiply with {', '.join(decision.site.weights)} as the plan says, "
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


def plan_space(plan: Plan) -> SearchSpace:
    """Return a space of the plan's own schemes, so that its model can be simulated again."""
    return SearchSpace(name="plan", schemes=tuple(plan.schemes.values()), base=plan.base)


def check_weights(plan: Plan, graph: ModelGraph) -> None:
    """Check that ``graph`` has the weights that the plan was made for.

    Raises:
        PlanError: It has others: ranges and measured losses would not hold.
    """
    found = digest_weights(graph)
    if found != plan.weights_digest:
        raise PlanError(
            f"the plan must be used with the weights that it was made for ({plan.weights_digest[:12]}), "
            f"got {graph.name} with others ({found[:12]})"
        )


def write_plan(plan: Plan, path: Path) -> str:
    """Write ``plan`` as JSON, atomically, and return its digest.

    Raises:
        NumericsError: A figure is NaN or Inf.
    """
    for name, value in (*plan.predicted.items(), *plan.measured.items()):
        if not (isfinite(value.mean) and isfinite(value.stderr)):
            raise NumericsError(f"figures of a plan must be finite, but {name} is {value.mean}")
    inputs = {"structure": plan.structure_digest, "weights": plan.weights_digest}
    return write_artifact(Path(path), "plan", _to_content(plan), version=VERSION, inputs=inputs)


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        ArtifactError: The file is missing, damaged, of another version, or has unknown fields.
        PlanError: It requires a feature that this version lacks, or contradicts itself.
    """
    path = Path(path)
    plan = _from_content(read_artifact(path, "plan", PlanContent, version=VERSION))
    unknown = sorted(set(plan.requires) - KNOWN_FEATURES)
    if unknown:
        raise PlanError(
            f"{path.name}: the plan requires {', '.join(unknown)}, which this version does not know"
        )
    if plan.transforms:
        raise PlanError(
            f"{path.name}: this version knows no transforms, got {plan.transforms[0]!r}"
        )
    for decision in plan.decisions:
        if decision.scheme not in plan.schemes:
            raise PlanError(
                f"{path.name}: {decision.site.node!r} has scheme {decision.scheme!r}, which the plan "
                f"must define; it defines {', '.join(plan.schemes)}"
            )
    names = [decision.site.node for decision in plan.decisions if decision.kind == "gemm"]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise PlanError(f"{path.name}: a site must be decided once, got {min(twice)!r} twice")
    plan_space(plan)  # checks the base
    return plan


def plan_schema() -> dict[str, Any]:
    """Return the JSON Schema of plan files, as it ships in ``plan.schema.json``."""
    content = PlanContent.model_json_schema(ref_template="#/$defs/{model}")
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    definitions = content.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mpsearch plan",
        "description": "A chosen mixed-precision assignment, self-contained, for deployment.",
        "type": "object",
        "properties": {
            "schema": {"const": "mpsearch.plan"},
            "version": {"const": VERSION},
            "digest": digest | {"description": "SHA-256 of content as canonical JSON."},
            "inputs": {"type": "object", "additionalProperties": {"type": "string"}},
            "content": {"$ref": "#/$defs/PlanContent"},
        },
        "required": ["schema", "version", "digest", "inputs", "content"],
        "$defs": {"PlanContent": content, **definitions},
    }


def _plain_name(name: str) -> str:
    """A file's name, never a path: a plan must not reach outside the folder that it lies in."""
    if name in (".", "..") or any(c in name for c in "/\\:\0"):
        raise ValueError(f"must be the name of a file without a folder, got {name!r}")
    return name


_FileName = Annotated[str, AfterValidator(_plain_name)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean and its standard error."""

    mean: float
    stderr: float


class PlanContent(Content):
    """What a plan file says; see the package's documentation of plans for the meaning of each field."""

    model: _FileName
    structure_digest: _Digest
    weights_digest: _Digest
    shapes: dict[str, tuple[Annotated[int, Field(ge=0)] | None, ...]]
    base: str
    schemes: dict[str, Scheme]
    decisions: tuple[Decision, ...]
    ranges: tuple[CalibratedRange, ...]
    coverage: Covered
    predicted: dict[str, Figure]
    measured: dict[str, Figure]
    unit: str = ""
    device: str = ""
    batch: Annotated[int, Field(ge=0)] = 0
    method: str = ""
    fingerprint: dict[str, str] = Field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    fallback: _FileName = ""


def _to_content(plan: Plan) -> PlanContent:
    own = {f.name: getattr(plan, f.name) for f in fields(plan)}
    figures = {
        name: {key: Figure(*map(float, value)) for key, value in own[name].items()}
        for name in ("predicted", "measured")
    }
    return PlanContent(**(own | figures))


def _from_content(content: PlanContent) -> Plan:
    own = {f.name: getattr(content, f.name) for f in fields(Plan)}
    estimates = {
        name: {key: Estimate(value.mean, value.stderr) for key, value in own[name].items()}
        for name in ("predicted", "measured")
    }
    return Plan(**(own | estimates))


def _coverage(graph: ModelGraph, chosen: Mapping[int, Scheme]) -> Covered:
    """What the decisions reach; a weight that several layers share is counted once."""
    bits, weights = 0, 0
    seen: set[str] = set()
    for i, scheme in chosen.items():
        for gemm in graph.layers[i].gemms:
            if not gemm.has_weight or gemm.right.value in seen:
                continue
            seen.add(gemm.right.value)
            channels = gemm.k // gemm.positions
            bits += stored_bits(
                scheme.weight, gemm.n, gemm.positions, channels, sparsity=scheme.sparsity
            )
            weights += gemm.parameters
    covered = graph.coverage
    return Covered(
        covered.parameters,
        covered.total_parameters,
        covered.flops,
        covered.total_flops,
        bits / weights if weights else 0.0,
        {left.name: left.reason for left in covered.undecided},
    )


def _used_ranges(
    graph: ModelGraph, chosen: Mapping[int, Scheme], simulator: "Simulator"
) -> tuple[CalibratedRange, ...]:
    """The ranges of static specs that the chosen schemes read, each once."""
    return tuple(
        CalibratedRange(value, spec, simulator.ranges[value, spec])
        for value, spec in static_ranges(graph, chosen)
    )
