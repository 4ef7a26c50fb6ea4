"""Which scheme each group may take: rules, targets and what the shapes themselves forbid."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import ceil

import numpy as np

from mpsearch.errors import SpaceError
from mpsearch.graph.layers.groups import untie_layers
from mpsearch.graph.model import Gemm, Group, Layer, ModelGraph
from mpsearch.registry import find, list_names
from mpsearch.schemes import Scheme, find_scheme, parse_sparsity
from mpsearch.space.rules import reduction_channels
from mpsearch.space.space import SearchSpace
from mpsearch.space.targets import fused_layers, target_refusals
from mpsearch.stats.estimates import Bools, Ints

ACCUMULATES = ("Conv", "Gemm", "MatMul")
"""Operators whose partial sums may be kept in a narrow format."""


def allowed(space: SearchSpace, graph: ModelGraph) -> tuple[Bools, dict[tuple[str, str], str]]:
    """Return what each group may take, and why not the rest.

    The base is always allowed; any other scheme only where every layer of the group may take it and the
    exporter can write it.

    Returns:
        [G, S] mask, and (group, scheme) names to the reason of each False.

    Raises:
        SpaceError: The space ties groups that ``graph`` keeps apart (see :func:`tie_groups`), a layer's
            reduction depends on an axis that nobody bound, or a layer cannot be exported in the base.
    """
    _check_sizes(graph)
    if ties_anything(space) and tie_groups(graph, space).groups != graph.groups:
        raise SpaceError(
            f"groups that {space.name!r} ties or unties must be joined or split first: use tie_groups"
        )
    can_write = find_export_limits(space)
    _check_base(space, graph, can_write)
    mask = np.ones((len(graph.groups), len(space.schemes)), np.bool_)
    reasons = {}
    for g, group in enumerate(graph.groups):
        for s, scheme in enumerate(space.schemes):
            if scheme.name == space.base:
                continue
            refusals = (
                own_refusal(space, graph, i, scheme)
                or _refusal_of_target(space, graph, i, scheme)
                or can_write(graph, graph.layers[i], scheme)
                for i in group.layers
            )
            reason = next(filter(None, refusals), "")
            if reason:
                mask[g, s] = False
                reasons[group.name, scheme.name] = reason
    return mask, reasons


_BASES = ("fp32", "bf16", "fp16")

CanWrite = Callable[[ModelGraph, Layer, Scheme], str]
"""Why an exporter cannot write a layer in a scheme; "" where it can."""


def export_limits_of(exporter: str) -> CanWrite:
    """Return what ``exporter`` says of layers and schemes; of one without limits of its own, that it writes all.

    Raises:
        UnknownNameError: There is no such exporter.
    """
    if exporter in list_names("export_limits"):
        found: CanWrite = find("export_limits", exporter)
        return found
    if exporter not in list_names("exporters"):
        find("exporters", exporter)  # raises and lists the choices
    return lambda graph, layer, scheme: ""


def find_export_limits(space: SearchSpace) -> CanWrite:
    """Return what the exporter of the space's target cannot write; without one, what plain ONNX cannot.

    Raises:
        UnknownNameError: There is no such exporter.
    """
    if space.runtime is not None:
        return export_limits_of(space.runtime.exporter)
    return export_limits_of(space.target if space.target in list_names("export_limits") else "onnx")


def _check_base(space: SearchSpace, graph: ModelGraph, can_write: CanWrite) -> None:
    """Check that every layer can be exported in the base, in which all are that nothing else is chosen for."""

    def refusal_of(name: str) -> str:
        scheme = space.schemes[space.index(name)] if name == space.base else find_scheme(name)
        reasons = (can_write(graph, layer, scheme) for layer in graph.layers)
        return next(filter(None, reasons), "")

    if reason := refusal_of(space.base):
        others = [name for name in _BASES if not refusal_of(name)]
        raise SpaceError(
            f"every layer must be exportable in the base, but {reason}; choose another base: "
            f"{', '.join(others) or 'none can be exported'}"
        )


def _check_sizes(graph: ModelGraph) -> None:
    """Check that there is something to decide, and that every reduction has a size that is known."""
    if not graph.layers:
        found = Counter(
            u.op_type for u in graph.coverage.undecided if u.reason.startswith("already")
        )
        why = ", ".join(f"{n} tensors of {op}" for op, n in found.items())
        raise SpaceError(
            f"{graph.name}: there must be a matrix product or convolution to decide, got only "
            f"{_operators(graph)}" + (f"; its weights are quantised already: {why}" if why else "")
        )
    if not graph.unbound:
        return
    for layer in graph.layers:
        if any(gemm.k < 1 for gemm in layer.gemms):
            axes = ", ".join(graph.unbound)
            raise SpaceError(
                f"the reduction of {layer.name!r} must have a size, but it depends on axes that nobody "
                f"bound: {axes}; give sizes for every ? with {shape_option(graph)} (shapes= in Python)"
            )


def shape_option(graph: ModelGraph) -> str:
    """Return the option that binds the first input with an unbound axis, a ? for each size to give."""
    name = graph.unbound[0].partition("[")[0]
    shape = next(value.shape for value in graph.inputs if value.name == name) or ()
    sizes = ",".join("?" if size is None else str(size) for size in shape)
    return f"--shape {name}={sizes}"


def uniform(space: SearchSpace, graph: ModelGraph, scheme_name: str, allowed: Bools) -> Ints:
    """Return the [G] assignment of ``scheme_name`` where ``allowed`` [G, S], the base elsewhere.

    Raises:
        UnknownNameError: The space has no such scheme.
    """
    index = space.index(scheme_name)
    return np.where(allowed[:, index], index, space.index(space.base)).astype(np.int64)


def tie_groups(graph: ModelGraph, space: SearchSpace) -> ModelGraph:
    """Return ``graph`` with the groups split that the space unties, and then those joined that it or its target ties.

    Raises:
        SpaceError: A tie matches fewer than two layers, or a pattern to untie none.
    """
    if space.untie:
        graph = _untied(graph, space)
    owner = list(range(len(graph.groups)))
    of_layer = {i: g for g, group in enumerate(graph.groups) for i in group.layers}
    for tie in space.ties:
        layers = [
            i
            for i, layer in enumerate(graph.layers)
            if any(fnmatchcase(layer.name, pattern) for pattern in tie)
        ]
        if len(layers) < 2:
            raise SpaceError(
                f"{space.name}: a tie must match two layers or more; {', '.join(tie)} "
                f"matches {len(layers)} of {graph.name}"
            )
        roots = {owner[of_layer[i]] for i in layers}
        owner = [min(roots) if root in roots else root for root in owner]
    for _, layers in fused_layers(space.runtime, graph):
        roots = {owner[of_layer[i]] for i in layers}
        owner = [min(roots) if root in roots else root for root in owner]
    return replace(graph, groups=tuple(_joined(graph, owner)))


def ties_anything(space: SearchSpace) -> bool:
    """Return whether a space may join or split the groups that a graph has."""
    fused = space.runtime is not None and space.runtime.groups
    return bool(space.ties or space.untie or fused)


def _untied(graph: ModelGraph, space: SearchSpace) -> ModelGraph:
    free: set[int] = set()
    for pattern in space.untie:
        found = {i for i, layer in enumerate(graph.layers) if fnmatchcase(layer.name, pattern)}
        if not found:
            raise SpaceError(
                f"{space.name}: a pattern to untie must match a layer; {pattern} matches none of {graph.name}"
            )
        free |= found
    return replace(graph, groups=untie_layers(graph.layers, graph.groups, free))


def _joined(graph: ModelGraph, owner: Sequence[int]) -> Iterator[Group]:
    for root, group in enumerate(graph.groups):
        members = [graph.groups[g] for g, o in enumerate(owner) if o == root]
        if len(members) == 1:
            yield group
        elif members:
            layers = tuple(sorted(i for member in members for i in member.layers))
            yield Group(graph.layers[layers[0]].name, layers, "tied by the space or its target")


def _refusal_of_target(space: SearchSpace, graph: ModelGraph, index: int, scheme: Scheme) -> str:
    if space.runtime is None:
        return ""
    found = target_refusals(space.runtime, graph, index, scheme, space.base)
    return next((str(refusal) for refusal in found if refusal.severity != "note"), "")


def own_refusal(space: SearchSpace, graph: ModelGraph, index: int, scheme: Scheme) -> str:
    """Return why the space itself gives layer ``index`` no ``scheme``, whatever takes the plan; "" where it may."""
    layer = graph.layers[index]
    for gemm in layer.gemms:
        reason = structural_refusal(layer, gemm, scheme)
        if reason:
            return reason
        fill = _block_fill(gemm, scheme)
        if fill < space.min_block_fill:
            return (
                f"blocks of {scheme.name} must be filled to {space.min_block_fill:g} on average, but "
                f"{layer.name!r} has {reduction_channels(gemm)} channels, which fill {fill:.2g}"
            )
    for rule in space.rules:
        if rule.forbids(scheme.name) and rule.matches(graph, index):
            return f"{layer.name!r}: {rule.reason}"
    return ""


def structural_refusal(layer: Layer, gemm: Gemm, scheme: Scheme) -> str:
    """Return what the scheme itself needs of a matrix product that ``gemm`` is not; "" where it is all of it."""
    if scheme.accumulate != "fp32" and layer.op_type not in ACCUMULATES:
        return (
            f"sums in {scheme.accumulate} are known for {', '.join(ACCUMULATES)}, but {layer.name!r} is a "
            f"{layer.op_type}"
        )
    if gemm.batch_in_k and scheme.activation.block_shape is not None:
        return (
            f"{scheme.name} has blocks along the reduction, and that of {layer.name!r} is as long as the "
            "batch: its blocks have no fixed number"
        )
    if not gemm.has_weight and scheme.sparsity is not None:
        return f"{scheme.name} prunes weights, and {layer.name!r} multiplies two activations"
    if not gemm.has_weight and scheme.is_weight_only:
        return f"{scheme.name} is weight-only, and {layer.name!r} multiplies two activations"
    if scheme.sparsity is not None:
        group = parse_sparsity(scheme.sparsity).group
        if reduction_channels(gemm) % group:
            return (
                f"`channels % {group} == 0` must hold for {scheme.sparsity}, "
                f"but {layer.name!r} has {reduction_channels(gemm)}"
            )
    return ""


def _block_fill(gemm: Gemm, scheme: Scheme) -> float:
    shape = scheme.weight.block_shape
    if shape is None:
        return 1.0
    channels = reduction_channels(gemm)
    if channels < 1:  # only the data know
        return 1.0
    return channels / (ceil(channels / shape[1]) * shape[1])


def _operators(graph: ModelGraph) -> str:
    """The operators of a model without layers, and what is out of scope where that is why."""
    named = ", ".join(dict.fromkeys(node.op_type for node in graph.nodes)) or "no operators"
    if any(node.domain == "ai.onnx.ml" for node in graph.nodes):
        return f"{named}; trees and linear models of ai.onnx.ml are out of scope"
    return named
