"""Rules of plans for any target. What holds for one runtime stands in its file under ``search_spaces/targets``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpsearch.errors import PlanError
from mpsearch.export.takes import find_refused
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.plan.weights import check_file
from mpsearch.schemes import SCHEMES, Scheme
from mpsearch.simulate.observation import static_ranges
from mpsearch.space.stored import find_kept, keeps_type
from mpsearch.space.targets import Severity, Target, fused_layers, names_like

FEW = 0.5
"""Share of parameters below which what a plan leaves out is worth a warning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a target, or anybody who deploys the plan, should know of it.

    Attributes:
        severity: ``error``: it is refused or computes something else; ``warning``: it runs, at a loss; ``note``.
        rule: Id of the rule.
        says: What was found.
        source: Where the rule was read.
        todo: What to do.
        layer: Name of the layer; "" of the whole plan.
        scheme: Name of the layer's scheme.
    """

    severity: Severity
    rule: str
    says: str
    source: str
    todo: str = ""
    layer: str = ""
    scheme: str = ""

    def __str__(self) -> str:
        where = f"{self.layer!r} in {self.scheme}: " if self.layer else ""
        todo = f"; do: {self.todo}" if self.todo else ""
        return f"{self.severity} {self.rule}: {where}{self.says} [{self.source}]{todo}"


@dataclass(frozen=True, slots=True)
class Linted:
    """What rules read.

    Attributes:
        plan: The plan.
        exporter: What would write it.
        target: The runtime's facts; None where only an exporter was named.
        graph: The model, where it was given and fits.
        path: The plan's file, where it has one.
        can_export: Whether the exporter is registered.
    """

    plan: Plan
    exporter: str
    target: Target | None
    graph: ModelGraph | None
    path: Path | None
    can_export: bool


Rule = Callable[[Linted], Iterator[Finding]]


def target_rules(linted: Linted) -> Iterator[Finding]:
    """Yield what the target's file and its exporter's limits say of each layer."""
    graph, plan = linted.graph, linted.plan
    if graph is None:
        yield from _by_scheme_alone(linted)
        return
    schemes = plan_schemes(plan, graph)
    for refused in find_refused(graph, schemes, linted.exporter, linted.target, plan.base):
        refusal = refused.refusal
        near = f"nearest scheme that it takes: {refused.nearest}" if refused.nearest else ""
        says = refusal.reason.removeprefix(f"{refused.layer!r}: ")
        yield Finding(
            refusal.severity,
            refusal.rule,
            says.removeprefix(f"{refused.layer!r} in {refused.scheme}: "),
            refusal.source or f"limits of the exporter {linted.exporter}",
            "; ".join(filter(None, (refusal.todo, near))),
            refused.layer,
            refused.scheme,
        )


def _by_scheme_alone(linted: Linted) -> Iterator[Finding]:
    """Rules that speak of schemes whatever the layer."""
    todo = "give --model"
    says = "rules on sizes, operators, groups and the exporter's limits were not checked without the model"
    yield Finding("note", "no-model", says, "mpsearch", todo)
    target = linted.target
    if target is None:
        return
    for decision in linted.plan.decisions:
        names = names_like(linted.plan.schemes[decision.scheme])
        said = [rule for rule in target.rules if rule.is_of_schemes and rule.forbids(*names)]
        specific = [rule for rule in said if rule.id != "scheme" and rule.severity == "error"]
        for rule in said:
            if rule.id != "scheme" or not specific:
                yield Finding(
                    rule.severity, rule.id, rule.reason, rule.source, rule.todo,
                    decision.site.node, decision.scheme,
                )  # fmt: skip


def proof(linted: Linted) -> Iterator[Finding]:
    """Yield that nothing here proves an export for the target, or that nothing writes one."""
    target = linted.target
    if target is not None and target.unproven:
        says = f"{target.name} is unproven here: {target.unproven}"
        todo = "run its own check of accuracy on the device before it serves"
        yield Finding("note", "unproven", says, target.sources[0] if target.sources else "", todo)
    if not linted.can_export:
        says = f"the exporter {linted.exporter!r} is not installed"
        yield Finding("error", "no-exporter", says, "mpsearch list exporters", "install it")


def base(linted: Linted) -> Iterator[Finding]:
    """Yield that layers cannot stay in the plan's base."""
    target, name = linted.target, linted.plan.base
    if target is not None and name not in target.bases:
        says = f"layers stay in {', '.join(target.bases)}, but the plan's base is {name}"
        todo = f"search with --base {target.bases[-1]}"
        yield Finding("error", "base", says, target.sources[0] if target.sources else "", todo)


def own_tensors(linted: Linted) -> Iterator[Finding]:
    """Yield that the target takes no weights but the model's own, or no bias for layers that have none."""
    target, plan = linted.target, linted.plan
    if target is None or plan.weights is None:
        return
    source = target.sources[0] if target.sources else ""
    if target.changes == "none":
        says = f"{target.name} rounds the model's own weights, and the plan brings others"
        todo = "make it without recovery, transforms and training"
        yield Finding("error", "changed-weights", says, source, todo)
    elif target.changes == "weights" and "bias" in plan.recovery:
        says = f"the plan changes biases; {target.name} takes none for layers that have none"
        yield Finding("warning", "added-bias", says, source, "recover it without `bias`")


def opset(linted: Linted) -> Iterator[Finding]:
    """Yield that the target reads no ONNX as new as the export must be."""
    target, graph = linted.target, linted.graph
    if target is None or target.opset is None:
        return
    needs = max(23, graph.opset if graph is not None else 0)
    if any("e8m0" in _scale_formats(scheme) for scheme in linted.plan.schemes.values()):
        needs = max(needs, 24)
    if needs > target.opset:
        says = f"{target.name} reads ONNX up to opset {target.opset}, and the export needs {needs}"
        todo = "no MX formats, or a model of an earlier opset"
        yield Finding("error", "opset", says, target.version, todo)


def _scale_formats(scheme: Scheme) -> tuple[str | None, str | None]:
    return scheme.weight.scale_format, scheme.activation.scale_format


def files(linted: Linted) -> Iterator[Finding]:
    """Yield what must lie beside the plan and does not."""
    weights, path = linted.plan.weights, linted.path
    if weights is not None and weights.path is not None:
        try:
            check_file(weights)
        except PlanError as error:
            todo = "move both files together"
            yield Finding("error", "weights-file", str(error), "plan format", todo)
    if (
        linted.plan.fallback
        and path is not None
        and not (path.parent / linted.plan.fallback).is_file()
    ):
        says = f"the safer plan {linted.plan.fallback!r} that it names is not beside it"
        yield Finding("warning", "fallback", says, "plan format", "move both files together")


def ranges(linted: Linted) -> Iterator[Finding]:
    """Yield ranges that layers need and the plan lacks, and those that hold nothing."""
    plan, graph = linted.plan, linted.graph
    if graph is not None:
        known = {(r.value, r.spec) for r in plan.ranges}
        chosen = dict(enumerate(plan_schemes(plan, graph)))
        for value, spec in static_ranges(graph, chosen):
            if (value, spec) not in known:
                says = f"the range of {value!r} in {spec.format} is not in the plan"
                todo = "make the plan anew from its run, or use --recalibrate"
                yield Finding("error", "range-missing", says, "plan format", todo)
    for one in plan.ranges:
        if not np.isfinite(one.range.amax):
            says = f"the range of {one.value!r} is not finite"
            yield Finding("error", "range-infinite", says, "plan format", "calibrate anew")
        elif one.range.amax == 0:
            says = f"{one.value!r} was 0 on all calibration samples: any other value saturates"
            todo = "calibrate on data like those that will come"
            yield Finding("warning", "range-zero", says, "calibration", todo)


def coverage(linted: Linted) -> Iterator[Finding]:
    """Yield that a plan leaves most of the model as it is."""
    covered = linted.plan.coverage
    share = covered.parameters / covered.total_parameters if covered.total_parameters else 1.0
    if share < FEW:
        names = ", ".join(list(covered.undecided)[:3]) or "nothing by name"
        says = f"it decides {share:.0%} of the parameters; left out: {names}"
        source = "one tool left 91 % of a model in bf16 without a word"
        yield Finding("warning", "coverage", says, source, "look why: `mpsearch inspect`")


def measured(linted: Linted) -> Iterator[Finding]:
    """Yield that nobody measured what the plan loses."""
    if "loss" not in linted.plan.measured:
        says = "its loss was predicted and never measured"
        todo = "`mpsearch score` it on held-out data"
        yield Finding("warning", "not-measured", says, "predicted is not measured", todo)


def hardware(linted: Linted) -> Iterator[Finding]:
    """Yield which device the figures hold for."""
    plan = linted.plan
    if plan.device and linted.target is not None:
        says = f"its latencies are for {plan.device} at batch {plan.batch}; on other hardware another plan is better"
        source = (
            "a plan searched for one accelerator was 33 % slower on another than that one's own"
        )
        yield Finding("note", "device", says, source, "search for the device that it will run on")


def live_ranges(linted: Linted) -> Iterator[Finding]:
    """Yield ranges of whole live tensors, which change with the batch."""
    for decision in linted.plan.decisions:
        scheme = linted.plan.schemes[decision.scheme]
        spec = scheme.activation
        if not spec.is_cast and spec.range == "dynamic" and spec.granularity == "tensor":
            says = (
                "one live range for the whole tensor: results depend on what else is in the batch"
            )
            source = "a dynamic range per tensor changed logits by .11 between batch 1 and 32"
            todo = "a static range, or one a token"
            yield Finding(
                "warning", "batch-dependent", says, source, todo, decision.site.node, scheme.name
            )


def definitions(linted: Linted) -> Iterator[Finding]:
    """Yield schemes with the name of a built-in one and another definition."""
    for name, scheme in linted.plan.schemes.items():
        if name in SCHEMES and not set(names_like(SCHEMES[name])) & _built_in_like(scheme):
            says = f"{name!r} is not defined as the built-in scheme of that name"
            todo = "give it a name of its own, or read its definition in the plan"
            yield Finding("warning", "redefined", says, "plan format: schemes", todo)


def _built_in_like(scheme: Scheme) -> set[str]:
    """Names of built-in schemes that store and compute what ``scheme`` does."""
    return set(names_like(replace(scheme, name="")))


def shared_inputs(linted: Linted) -> Iterator[Finding]:
    """Yield tensors that are quantised more than once, since layers read them in different specs."""
    graph = linted.graph
    if graph is None:
        return
    schemes = plan_schemes(linted.plan, graph)
    readers: dict[str, dict[object, list[int]]] = {}
    for i, layer in enumerate(graph.layers):
        spec = schemes[i].activation
        for gemm in layer.gemms:
            if gemm.left.value and not spec.is_cast:
                readers.setdefault(gemm.left.value, {}).setdefault(spec, []).append(i)
    for value, by_spec in readers.items():
        if len(by_spec) > 1:
            first = next(iter(by_spec.values()))[0]
            names = ", ".join(
                f"{graph.layers[i].name!r} in {schemes[i].name}"
                for ids in by_spec.values()
                for i in ids
            )
            says = f"{value!r} is quantised {len(by_spec)} times, for {names}"
            source = "quantising activations costs a pass over the tensor, which its readers share"
            todo = "one scheme for its readers: `ties` in the space"
            name = graph.layers[first].name
            yield Finding(
                "warning", "quantised-twice", says, source, todo, name, schemes[first].name
            )


def tied_tables(linted: Linted) -> Iterator[Finding]:
    """Yield weights that are stored twice, because an operator that is no layer reads them too."""
    graph = linted.graph
    if graph is None:
        return
    kept = find_kept(graph)
    for layer, scheme in zip(graph.layers, plan_schemes(linted.plan, graph), strict=True):
        for gemm in layer.gemms:
            source = gemm.right.source or gemm.right.value
            if not gemm.has_weight or source not in kept.sizes:
                continue
            if not keeps_type(graph, gemm.right.value, scheme):
                says = (
                    f"{source!r} is read elsewhere too and stays beside its copy in {scheme.name}"
                )
                why = "a tied head and embedding is one decision"
                todo = "leave the layer in the model's own type where size matters"
                yield Finding("warning", "tied", says, why, todo, layer.name, scheme.name)


def lonely(linted: Linted) -> Iterator[Finding]:
    """Yield layers in int8 or fp8 between layers that are in neither."""
    graph = linted.graph
    if graph is None or linted.target is None or linted.target.fusing.quantisation == "never":
        return
    schemes = plan_schemes(linted.plan, graph)
    near: dict[int, set[int]] = {}
    for edge in graph.edges:
        near.setdefault(edge.source, set()).add(edge.target)
        near.setdefault(edge.target, set()).add(edge.source)
    for i, scheme in enumerate(schemes):
        spec, others = scheme.activation, near.get(i, set())
        static = spec.is_calibrated and spec.granularity == "tensor"
        if static and others and all(schemes[j].activation != spec for j in others):
            says = "no neighbour reads or writes its format: its conversions are not fused away"
            source = "badly placed Q/DQ breaks fusions and adds reformats"
            todo = "the same scheme for a neighbour, or the base here"
            yield Finding("note", "lonely", says, source, todo, graph.layers[i].name, scheme.name)


def tensor_scales(linted: Linted) -> Iterator[Finding]:
    """Yield fused layers whose nvfp4 tensor scales differ, where the runtime has one for all."""
    graph = linted.graph
    if graph is None:
        return
    schemes = plan_schemes(linted.plan, graph)
    for rule, layers in fused_layers(linted.target, graph):
        if not rule.one_scale or not all(schemes[i].weight.tensor_scale for i in layers):
            continue
        largest = [
            float(np.abs(np.asarray(graph.constants[g.right.value], np.float32)).max())
            for i in layers
            for g in graph.layers[i].gemms
            if g.has_weight
        ]
        if max(largest) > min(largest):
            names = ", ".join(repr(graph.layers[i].name) for i in layers)
            says = (
                f"{names} share one tensor scale there, but their largest weights are {min(largest):.3g} to "
                f"{max(largest):.3g}: their blocks' scales are rounded anew"
            )
            todo = "`mpsearch verify` the export, whose copy of the plan has the shared scale"
            first = layers[0]
            yield Finding(
                "note", "one-tensor-scale", says, rule.source, todo, graph.layers[first].name, schemes[first].name
            )  # fmt: skip


def key_value_cache(linted: Linted) -> Iterator[Finding]:
    """Yield that a plan for a server of language models says nothing of its cache."""
    target = linted.target
    if target is None or not target.groups:
        return
    if not any(decision.kind == "kv_cache" for decision in linted.plan.decisions):
        says = "it does not decide the format of the key-value cache, which interacts with the weights'"
        source = "Mistral-24B: time to first token 1010 to 660 ms by the cache alone"
        yield Finding("note", "kv-cache", says, source, "choose it in the server's own options")


RULES: tuple[Rule, ...] = (
    target_rules,
    proof,
    base,
    own_tensors,
    opset,
    files,
    ranges,
    coverage,
    measured,
    hardware,
    live_ranges,
    definitions,
    shared_inputs,
    tied_tables,
    lonely,
    tensor_scales,
    key_value_cache,
)
