"""Targets: what a runtime takes of a plan, with the source of each fact, read from TOML."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from mpsearch.artifacts import Content, read_toml
from mpsearch.errors import SpaceError, UnknownNameError
from mpsearch.graph.layers.traversal import all_nodes, bodies
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.registry import data_file, data_folder, list_names
from mpsearch.schemes import SCHEMES, Scheme, Spec
from mpsearch.space.rules import DEFAULT_FUSING, Fusing, Rule
from mpsearch.space.storage import CANONICAL, Storage

CASTS = ("fp32", "bf16", "fp16")
Severity = Literal["error", "warning", "note"]


class TargetRule(Rule):
    """What a runtime does not take, or takes at a loss.

    Attributes:
        id: Short name, unique in the target.
        source: Where it was read.
        severity: ``error``: refused, or computed wrongly; ``warning``: it runs and gains nothing, so search does not offer
            it; ``note``: what to know of it, for `plan lint` alone.
        todo: What to do instead; "": take the nearest scheme that the target takes.
        module: Pattern of the layer's module or, where it has none, of its name.
        other_than: Patterns of operators that the rule does not speak of.
        inside: Whether the layer stands in the body of an If, Loop or Scan; None is either.
        misaligned_n: Applies where the output channels are not divisible by this.
        reused: Whether another layer multiplies with the same weight; None is either.
        rows_below: Applies where a product has fewer rows than this, at the graph's own batch.
    """

    id: str
    source: str
    severity: Severity = "error"
    todo: str = ""
    module: str = "*"
    other_than: tuple[str, ...] = ()
    inside: bool | None = None
    misaligned_n: int = 1
    reused: bool | None = None
    rows_below: int = 0

    @property
    def is_of_schemes(self) -> bool:
        """Whether the rule speaks of every layer."""
        said = {"id", "source", "severity", "todo", "reason", "allow", "forbid", "extensions"}
        fields = TargetRule.model_fields
        return all(
            getattr(self, name) == fields[name].default for name in fields if name not in said
        )

    def matches(self, graph: ModelGraph, index: int) -> bool:
        """Whether the rule speaks of layer ``index``."""
        layer = graph.layers[index]
        return (
            Rule.matches(self, graph, index)
            and fnmatchcase(module_of(layer), self.module)
            and not any(fnmatchcase(layer.op_type, pattern) for pattern in self.other_than)
            and (self.inside is None or self.inside == is_inside(graph, layer))
            and (
                self.misaligned_n == 1
                or any(gemm.n // gemm.groups % self.misaligned_n for gemm in layer.gemms)
            )
            and (self.reused is None or self.reused == is_reused(graph, index))
            and (not self.rows_below or any(0 < g.m < self.rows_below for g in layer.gemms))
        )


class Fused(Content):
    """Layers that a runtime runs as one, so that they must share a scheme.

    Attributes:
        id: Short name, unique in the target.
        reason: Why.
        source: Where it was read.
        pattern: Regular expression of a whole module name whose first group is the parent: layers with one parent
            belong together.
        one_input: Whether only layers belong together that read the same tensor.
        one_scale: Whether they also share one nvfp4 tensor scale.
    """

    id: str
    reason: str
    source: str
    pattern: str
    one_input: bool = False
    one_scale: bool = False

    @field_validator("pattern")
    @classmethod
    def _has_a_parent(cls, text: str) -> str:
        try:
            groups = re.compile(text).groups
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        if groups < 1:
            raise ValueError("must have a group that is the parent of the fused layers")
        return text

    def parent(self, layer: Layer) -> tuple[str, str] | None:
        """Return what ``layer`` shares with those that it is fused with; None where it is not."""
        found = re.fullmatch(self.pattern, module_of(layer))
        value = layer.gemms[0].left.value if self.one_input else ""
        return None if found is None else (found[1] or "", value)


class Target(Content):
    """A runtime's facts.

    Attributes:
        name: The file's name.
        description: What it is.
        version: The runtime and the version that the facts hold for.
        exporter: What writes a plan for it (`mpsearch list exporters`).
        proven: Runtimes that prove the exporter's files here, on a machine without an accelerator.
        unproven: What a proof in the target itself would need, where there is none here.
        opset: The newest ONNX opset that it reads; None: it reads no ONNX, or knows no limit.
        sources: Where the facts were read.
        schemes: Names or patterns of built-in schemes that it takes; one that stores the same is taken too, whatever its
            name and however its ranges and block scales are chosen.
        bases: Formats that layers can stay in.
        one_base: Whether all layers that are not quantised must be in one of them, the plan's base.
        layers: Patterns of operators of layers that it takes in more than a base.
        bodies: Whether it takes layers in bodies of If, Loop and Scan in more than a base.
        rules: What it does not take; once it is read, what follows from the other fields too.
        keep: What must stay in a base.
        changes: What of a plan's own tensors it takes: ``all``; ``weights``: no bias for layers that have none; ``none``.
        groups: What it fuses, so that it must share one scheme.
        fusing: What its kernels take in.
        storage: How its weights are stored.
    """

    name: str = ""
    description: str = ""
    version: str = ""
    exporter: str = "onnx"
    proven: tuple[str, ...] = ()
    unproven: str = ""
    opset: int | None = None
    sources: tuple[str, ...] = ()
    schemes: tuple[str, ...]
    bases: tuple[str, ...] = CASTS
    one_base: bool = False
    layers: tuple[str, ...] = ("*",)
    bodies: bool = True
    rules: tuple[TargetRule, ...] = ()
    keep: tuple[TargetRule, ...] = ()
    changes: Literal["all", "weights", "none"] = "all"
    groups: tuple[Fused, ...] = ()
    fusing: Fusing = DEFAULT_FUSING
    storage: Storage = CANONICAL

    @property
    def proof(self) -> str:
        """What proves an export here, or that nothing does and why."""
        said = f"its files are proven in {', '.join(self.proven)}" if self.proven else ""
        if not said or self.unproven:
            why = self.unproven or "no runtime of it is at hand"
            said += (
                f"; {self.name} itself is unproven here: {why}" if said else f"unproven here: {why}"
            )
        return said


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a layer cannot take a scheme.

    Attributes:
        rule: Id of the rule.
        reason: In words, with the layer's name.
        source: Where it was read; "" of the exporter's own limits.
        severity: As the rule says.
        todo: What to do instead; "": take another scheme.
    """

    rule: str
    reason: str
    source: str = ""
    severity: Severity = "error"
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.source})" if self.source else self.reason


def read_target(name_or_path: str | Path) -> Target:
    """Read the facts of a runtime that ships with mpsearch, or a file of the user's.

    Raises:
        UnknownNameError: There is no such file.
        SpaceError: It is malformed.
    """
    path = data_file("search_spaces/targets", name_or_path, "target")
    found = read_toml(path, Target, SpaceError).model_copy(update={"name": path.stem})
    rules = _all_rules(found)
    ids = [rule.id for rule in rules] + [fused.id for fused in found.groups]
    twice = {name for name in ids if ids.count(name) > 1}
    if twice:
        raise SpaceError(f"{path.name}: a rule's id must be given once, got {min(twice)!r} twice")
    return found.model_copy(update={"rules": rules})


def list_targets() -> list[str]:
    """Return the names of the targets that ship."""
    return sorted(path.stem for path in data_folder("search_spaces/targets").glob("*.toml"))


def find_target(name: str) -> tuple[str, Target | None]:
    """Return the exporter that ``name`` asks for, and the facts of the runtime where ``name`` is a target's.

    Args:
        name: A target's name, or the path of its file, or else the name of an exporter.

    Raises:
        UnknownNameError: It is neither.
        SpaceError: The target's file is malformed.
    """
    if name in list_targets() or name.endswith(".toml"):
        target = read_target(name)
        return target.exporter, target
    exporters = list_names("exporters")
    if name in exporters:
        return name, None
    others = [other for other in exporters if other not in list_targets()]
    raise UnknownNameError(
        f"export target must be one of {', '.join(list_targets())}, the name of an exporter, such as "
        f"{', '.join(others)}, or the path of a .toml file that exists; got {name!r}"
    )


def _all_rules(target: Target) -> tuple[TargetRule, ...]:
    """Every rule of a file, those included that follow from its lists; what takes schemes away one by one is last."""
    source = target.sources[0] if target.sources else ""
    bases, takes = ", ".join(target.bases), ", ".join(target.schemes)

    def rule(name: str, reason: str, allow: Sequence[str], **more: object) -> TargetRule:
        fields = {"id": name, "source": source, "reason": reason, "allow": tuple(allow), **more}
        return TargetRule.model_validate(fields)

    found = []
    if target.layers != ("*",):
        reason = f"{target.name} takes only {', '.join(target.layers)} in more than {bases}"
        found.append(rule("layer-kind", reason, target.bases, other_than=target.layers))
    if not target.bodies:
        reason = f"{target.name} takes layers in bodies of If, Loop and Scan only in {bases}"
        found.append(rule("body", reason, target.bases, inside=True))
    kept = (r.model_copy(update={"allow": r.allow or target.bases}) for r in target.keep)
    every = tuple(dict.fromkeys((*target.bases, *target.schemes)))
    last = rule("scheme", f"{target.name} takes only {takes}", every)
    return (*found, *kept, *target.rules, last)


def target_refusals(
    target: Target, graph: ModelGraph, index: int, scheme: Scheme, base: str = ""
) -> Iterator[Refusal]:
    """Yield what rules of ``target`` say against ``scheme`` for layer ``index``, notes included.

    Args:
        target: The runtime's facts.
        graph: The model.
        index: Of the layer.
        scheme: What it would run in.
        base: Format of what is not lowered; "" is not known.
    """
    names = names_like(scheme)
    if target.one_base and base and scheme.name != base and set(names) & set(target.bases):
        reason = f"{graph.layers[index].name!r}: all that is not quantised must be in one type, the base {base}"
        yield Refusal("one-base", reason, target.sources[0] if target.sources else "", todo=base)
    for rule in target.rules:
        if rule.forbids(*names) and rule.matches(graph, index):
            reason = f"{graph.layers[index].name!r}: {rule.reason}"
            yield Refusal(rule.id, reason, rule.source, rule.severity, rule.todo)


def fused_layers(target: Target | None, graph: ModelGraph) -> list[tuple[Fused, list[int]]]:
    """Return the sets of two layers or more that ``target`` runs as one, each with the rule that says so."""
    found: list[tuple[Fused, list[int]]] = []
    for rule in () if target is None else target.groups:
        by_parent: dict[tuple[str, str], list[int]] = {}
        for i, layer in enumerate(graph.layers):
            parent = rule.parent(layer)
            if parent is not None and layer.has_weight:
                by_parent.setdefault(parent, []).append(i)
        found += [(rule, layers) for layers in by_parent.values() if len(layers) > 1]
    return found


@lru_cache(maxsize=1024)
def names_like(scheme: Scheme) -> tuple[str, ...]:
    """Return the names of ``scheme`` and of the built-in schemes that store and compute the same.

    How ranges and the scales of blocks are chosen makes no difference to what runs a plan.
    """
    alike = (name for name, other in SCHEMES.items() if _encoding(other) == _encoding(scheme))
    return tuple(dict.fromkeys((scheme.name, *alike)))


def _encoding(scheme: Scheme) -> tuple[object, ...]:
    weight, activation = map(_plain, (scheme.weight, scheme.activation))
    return weight, activation, scheme.sparsity, scheme.accumulate


def _plain(spec: Spec) -> Spec:
    return replace(spec, estimator="amax", block_scale="amax")


def module_of(layer: Layer) -> str:
    """Return the qualified name of a layer's module: as its exporter noted it, or as its weight or else it is called."""
    if layer.fqn:
        return layer.fqn
    source = layer.gemms[0].right.source
    own = layer.name.strip("/").replace("/", ".")
    return source.removesuffix(".weight") if source.endswith(".weight") else own


def is_inside(graph: ModelGraph, layer: Layer) -> bool:
    """Return whether ``layer`` stands in the body of an If, Loop or Scan."""
    return any(
        inner.name == layer.name
        for node in graph.nodes
        for body in bodies(node)
        for inner in all_nodes(body.nodes)
    )


def is_reused(graph: ModelGraph, index: int) -> bool:
    """Return whether another layer multiplies with a weight of layer ``index``."""

    def weights(layer: Layer) -> set[str]:
        return {gemm.right.source or gemm.right.value for gemm in layer.gemms if gemm.has_weight}

    own = weights(graph.layers[index])
    return any(own & weights(layer) for i, layer in enumerate(graph.layers) if i != index)
