"""Plans: a chosen assignment, self-contained, in the words of the user's own model file.

A plan names layers by node and initialiser of the file that the user has, brings its scheme definitions and
calibrated ranges with it, and says which model it is for by digests. So it outlives the search, the space
file and this version's defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mpsearch.graph.model import Layer
from mpsearch.numerics.range import Range
from mpsearch.plan.weights import PlanWeights
from mpsearch.schemes import Scheme, Spec
from mpsearch.shown import html_table, say
from mpsearch.space.space import SearchSpace
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Estimate

VERSION = 1
KNOWN_FEATURES = frozenset({"weights", "recovery"})
"""What a plan may require of whoever reads it: ``weights`` lie beside it; those of ``recovery``, in plans of earlier
versions, are rebuilt from the calibration data."""
KNOWN_TRANSFORMS = frozenset({"smooth", "awq", "rotate"})
"""Equivalent transforms whose results a plan may bring: weights and constants that were changed before rounding."""

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
class Change:
    """What was done to a layer, and what it bought.

    Attributes:
        site: The layer.
        methods: Names of recoveries and transforms, in the order that they were applied.
        error_before: Squared error of the layer's output relative to the fp32 model's, plainly rounded.
        error_after: The same with what the plan brings.
    """

    site: Site
    methods: tuple[str, ...]
    error_before: float
    error_after: float


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
        transforms: Equivalent transforms of weights and constants before rounding: ``smooth``, ``awq``, ``rotate``.
        requires: Features that a reader must know.
        fallback: File name of a safer plan beside this one; "" without.
        weights: The tensors that the plan changes; None if it changes none.
        extensions: Fields of others.
        batch_axes: Input name to the axis that samples run over (None: none), where it is not the first free one.
        recovery: What its weights were recovered by, in order: ``gptq``, ``bias``, ``train``, …
        changes: What was done to each layer that was changed, where that is known.
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
    weights: PlanWeights | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict)
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)
    recovery: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    def __repr__(self) -> str:
        """What it decides, in a line; its fields tell plans apart."""
        bits = f"{number(self.coverage.effective_bits)} bits a weight"
        return say(
            "Plan", f"for {self.model}", *self._counts(), bits, *self._figures(), self.device
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: figures, then the first decisions."""
        cells = [[d.site.node, ", ".join(d.site.weights), d.scheme] for d in self.decisions]
        facts = "; ".join((*self._counts(), *self._figures()))
        return html_table(f"Plan for {self.model}: {facts}", ("layer", "weights", "scheme"), cells)

    def _counts(self) -> list[str]:
        chosen = [decision.scheme for decision in self.decisions]
        return [f"{chosen.count(name)} {name}" for name in dict.fromkeys(chosen)]

    def _figures(self) -> list[str]:
        return [
            f"{word} {name} {with_error(value)}"
            for word, values in (("predicted", self.predicted), ("measured", self.measured))
            for name, value in values.items()
            if name != "effective_bits"
        ]

    def find_range(self, value: str, spec: Spec) -> Range | None:
        """Return what ``value`` was calibrated to for ``spec``, or None."""
        found = (r.range for r in self.ranges if r.value == value and r.spec == spec)
        return next(found, None)


def site_of(layer: Layer) -> Site:
    """Return how plans name ``layer``."""
    sources = (gemm.right.source for gemm in layer.gemms if gemm.has_weight)
    return Site(layer.name, tuple(dict.fromkeys(sources)))


def plan_space(plan: Plan) -> SearchSpace:
    """Return a space of the plan's own schemes, so that its model can be simulated again."""
    return SearchSpace(name="plan", schemes=tuple(plan.schemes.values()), base=plan.base)
