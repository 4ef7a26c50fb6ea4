"""Search spaces: which schemes a layer may take, and why not the others."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mpsearch.artifacts import Content, read_toml
from mpsearch.errors import SchemeError, SpaceError, UnknownNameError
from mpsearch.graph.model import Gemm, Group, Layer, ModelGraph
from mpsearch.registry import data_file
from mpsearch.schemes import SCHEMES, Scheme, Spec, find_scheme, parse_sparsity
from mpsearch.tables import Bools, Ints

RecoveryName = Literal["none", "obs"]
Reasons = Mapping[tuple[str, str], str]


class Rule(Content):
    """What the layers that match every given condition may not take.

    Attributes:
        reason: Why, in the words that reports repeat.
        allow: Names or patterns of the only schemes that are left; None does not limit.
        forbid: Names or patterns of schemes that are taken away.
        role: Pattern of the layer's role: ``depthwise``, ``attention.*``.
        op: Pattern of the operator: ``Conv``.
        name: Pattern of the layer's name.
        has_weight: Whether the layer multiplies by a weight; None is either.
        position: ``first`` or ``last`` layer of the schedule; None is any.
        misaligned: Applies where the channels of the reduction are not divisible by this.
    """

    reason: str
    allow: tuple[str, ...] | None = None
    forbid: tuple[str, ...] = ()
    role: str = "*"
    op: str = "*"
    name: str = "*"
    has_weight: bool | None = None
    position: Literal["first", "last"] | None = None
    misaligned: int = 1

    def matches(self, graph: ModelGraph, index: int) -> bool:
        """Whether the rule speaks of layer ``index``."""
        layer = graph.layers[index]
        positions = {"first": 0, "last": len(graph.layers) - 1}
        return (
            fnmatchcase(layer.role, self.role)
            and fnmatchcase(layer.op_type, self.op)
            and fnmatchcase(layer.name, self.name)
            and self.has_weight in (None, layer.has_weight)
            and (self.position is None or positions[self.position] == index)
            and (
                self.misaligned == 1
                or any(_channels(gemm) % self.misaligned for gemm in layer.gemms)
            )
        )

    def forbids(self, scheme: str) -> bool:
        """Whether the rule takes ``scheme`` away from a layer that it matches."""
        kept = self.allow is None or any(fnmatchcase(scheme, pattern) for pattern in self.allow)
        return not kept or any(fnmatchcase(scheme, pattern) for pattern in self.forbid)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The schemes that are searched, and the rules that take some away from some layers.

    Attributes:
        name: Name of the space.
        schemes: [S]; the base format is one of them.
        base: Name of the scheme that every layer may always take.
        rules: What matching layers may not take.
        ties: Patterns of layer names whose groups must share one scheme, one set a tie.
        min_block_fill: Share of a block's elements that channels must fill, on average: 0.5 forbids
            block formats to layers of fewer than 8 channels where blocks are 16 long.
        target: Name of the runtime whose rules are included; "" without.
    """

    name: str
    schemes: tuple[Scheme, ...]
    base: str = "fp16"
    rules: tuple[Rule, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()
    min_block_fill: float = 0.0
    target: str = ""

    def __post_init__(self) -> None:
        names = [scheme.name for scheme in self.schemes]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise SpaceError(f"{self.name}: a scheme must be given once, got {min(twice)!r} twice")
        if self.base not in names:
            raise SpaceError(
                f"{self.name}: the base must be one of the schemes {', '.join(names)}; "
                f"got {self.base!r}"
            )
        base = self.schemes[names.index(self.base)]
        if not (base.weight.is_cast and base.activation.is_cast and base.sparsity is None):
            raise SpaceError(
                f"{self.name}: the base must be a dense float format without scales, such as fp16, "
                f"bf16 or fp32; got {self.base!r}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the schemes, in order."""
        return tuple(scheme.name for scheme in self.schemes)

    def index(self, name: str) -> int:
        """Return the position of scheme ``name``.

        Raises:
            UnknownNameError: The space has no such scheme.
        """
        if name not in self.names:
            raise UnknownNameError(
                f"scheme must be one of {', '.join(self.names)} in space {self.name!r}; got {name!r}"
            )
        return self.names.index(name)


class _SpaceFile(Content):
    description: str = ""
    base: str = "fp16"
    schemes: tuple[str, ...]
    recovery: RecoveryName = "none"
    min_block_fill: float = 0.0
    ties: tuple[tuple[str, ...], ...] = ()
    rules: tuple[Rule, ...] = ()
    scheme: tuple[dict[str, Any], ...] = ()


class _TargetFile(Content):
    description: str = ""
    sources: tuple[str, ...] = ()
    schemes: tuple[str, ...]
    rules: tuple[Rule, ...] = ()


def read_space(
    name_or_path: str | Path,
    *,
    target: str | None = None,
    base: str | None = None,
    recovery: RecoveryName | None = None,
) -> SearchSpace:
    """Read a search space that ships with mpsearch, or a file of the user's.

    Args:
        name_or_path: Name of a space, or path of a ``.toml`` file.
        target: Name or path of a runtime's file, whose rules are added.
        base: Format of what is not lowered; None takes the file's own (fp16 where it says none).
        recovery: How sparse schemes recover what pruning lost: ``none``, or ``obs``, which needs
            calibration data. None takes the file's own. A scheme that the file defines with a
            recovery keeps it.

    Raises:
        UnknownNameError: No such space, target, scheme or format.
        SpaceError: The file is malformed or contradicts itself.
    """
    path = data_file("search_spaces", name_or_path, "space")
    file = read_toml(path, _SpaceFile, SpaceError)
    own = {}
    settled = set()
    for entry in file.scheme:
        scheme = _custom_scheme(path.name, entry)
        own[scheme.name] = scheme
        if "recovery" in entry:
            settled.add(scheme.name)
    names = list(dict.fromkeys(file.schemes))
    chosen = base or file.base
    if base is not None and file.base != base:
        names = [name for name in names if name != file.base]
    if chosen not in names:
        names.insert(0, chosen)
    try:
        schemes = tuple(own.get(name) or find_scheme(name) for name in names)
    except UnknownNameError as error:
        raise UnknownNameError(f"{path.name}: {error}") from None
    schemes = tuple(
        scheme
        if scheme.sparsity is None or scheme.name in settled
        else replace(scheme, recovery=recovery or file.recovery)
        for scheme in schemes
    )
    unused = own.keys() - set(names)
    if unused:
        raise SpaceError(
            f"{path.name}: every [[scheme]] must be listed in schemes, but {min(unused)!r} is not"
        )
    rules = file.rules + (_target_rules(target, names) if target is not None else ())
    return SearchSpace(
        path.stem,
        schemes,
        chosen,
        rules,
        file.ties,
        file.min_block_fill,
        Path(target).stem if target is not None else "",
    )


def allowed(space: SearchSpace, graph: ModelGraph) -> tuple[Bools, dict[tuple[str, str], str]]:
    """Return what each group may take, and why not the rest.

    The base is always allowed; any other scheme only where every layer of the group may take it.

    Returns:
        [G, S] mask, and (group, scheme) names to the reason of each False.

    Raises:
        SpaceError: The space ties groups that ``graph`` keeps apart (see :func:`tie_groups`), or a
            layer's reduction depends on an axis that nobody bound.
    """
    _check_sizes(graph)
    if space.ties and tie_groups(graph, space).groups != graph.groups:
        raise SpaceError(f"groups that {space.name!r} ties must be joined first: use tie_groups")
    mask = np.ones((len(graph.groups), len(space.schemes)), np.bool_)
    reasons = {}
    for g, group in enumerate(graph.groups):
        for s, scheme in enumerate(space.schemes):
            if scheme.name == space.base:
                continue
            reason = next(
                filter(None, (_refusal(space, graph, i, scheme) for i in group.layers)), ""
            )
            if reason:
                mask[g, s] = False
                reasons[group.name, scheme.name] = reason
    return mask, reasons


def _check_sizes(graph: ModelGraph) -> None:
    """Check that there is something to decide, and that every reduction has a size that is known."""
    if not graph.layers:
        found = Counter(
            u.op_type for u in graph.coverage.undecided if u.reason.startswith("already")
        )
        why = ", ".join(f"{n} tensors of {op}" for op, n in found.items())
        raise SpaceError(
            f"{graph.name}: there must be layers to decide, got none"
            + (f"; its weights are quantised already: {why}" if why else "")
        )
    if not graph.unbound:
        return
    for layer in graph.layers:
        if any(gemm.k < 1 for gemm in layer.gemms):
            axes = ", ".join(graph.unbound)
            name = graph.unbound[0].partition("[")[0]
            shape = next(value.shape for value in graph.inputs if value.name == name) or ()
            sizes = ",".join("?" if size is None else str(size) for size in shape)
            raise SpaceError(
                f"the reduction of {layer.name!r} must have a size, but it depends on axes that nobody "
                f"bound: {axes}; give sizes for every ? with --shape {name}={sizes} (shapes= in Python)"
            )


def uniform(space: SearchSpace, graph: ModelGraph, scheme_name: str, allowed: Bools) -> Ints:
    """Return the [G] assignment of ``scheme_name`` where ``allowed`` [G, S], the base elsewhere.

    Raises:
        UnknownNameError: The space has no such scheme.
    """
    index = space.index(scheme_name)
    return np.where(allowed[:, index], index, space.index(space.base)).astype(np.int64)


def tie_groups(graph: ModelGraph, space: SearchSpace) -> ModelGraph:
    """Return ``graph`` with the groups joined that the space ties.

    Raises:
        SpaceError: A tie matches fewer than two layers.
    """
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
    return replace(graph, groups=tuple(_joined(graph, owner)))


def _joined(graph: ModelGraph, owner: Sequence[int]) -> Iterator[Group]:
    for root, group in enumerate(graph.groups):
        members = [graph.groups[g] for g, o in enumerate(owner) if o == root]
        if len(members) == 1:
            yield group
        elif members:
            layers = tuple(sorted(i for member in members for i in member.layers))
            yield Group(graph.layers[layers[0]].name, layers, "tied by the space")


def _refusal(space: SearchSpace, graph: ModelGraph, index: int, scheme: Scheme) -> str:
    """Why layer ``index`` may not take ``scheme``; "" where it may."""
    layer = graph.layers[index]
    for gemm in layer.gemms:
        reason = _structural_refusal(layer, gemm, scheme)
        if reason:
            return reason
        fill = _block_fill(gemm, scheme)
        if fill < space.min_block_fill:
            return (
                f"blocks of {scheme.name} must be filled to {space.min_block_fill:g} on average, but "
                f"{layer.name!r} has {_channels(gemm)} channels, which fill {fill:.2g}"
            )
    for rule in space.rules:
        if rule.forbids(scheme.name) and rule.matches(graph, index):
            return f"{layer.name!r}: {rule.reason}"
    return ""


def _structural_refusal(layer: Layer, gemm: Gemm, scheme: Scheme) -> str:
    """What the scheme itself needs of a matrix product."""
    if not gemm.has_weight and scheme.sparsity is not None:
        return f"{scheme.name} prunes weights, and {layer.name!r} multiplies two activations"
    if not gemm.has_weight and scheme.is_weight_only:
        return f"{scheme.name} is weight-only, and {layer.name!r} multiplies two activations"
    if scheme.sparsity is not None:
        group = parse_sparsity(scheme.sparsity).group
        if _channels(gemm) % group:
            return (
                f"`channels % {group} == 0` must hold for {scheme.sparsity}, "
                f"but {layer.name!r} has {_channels(gemm)}"
            )
    return ""


def _channels(gemm: Gemm) -> int:
    """Elements along the reduction at one kernel position of one convolution group."""
    return gemm.k // gemm.positions


def _block_fill(gemm: Gemm, scheme: Scheme) -> float:
    shape = scheme.weight.block_shape
    if shape is None:
        return 1.0
    channels = _channels(gemm)
    if channels < 1:  # only the data know
        return 1.0
    return channels / (ceil(channels / shape[1]) * shape[1])


def _custom_scheme(file: str, entry: Mapping[str, Any]) -> Scheme:
    """A scheme from specs; ``like`` names a built-in one whose other fields it keeps."""
    entry = dict(entry)
    like = entry.pop("like", None)
    label = entry.get("name", "without a name")
    try:
        _check_keys(Scheme, entry)
        merged = (
            {f.name: getattr(find_scheme(like), f.name) for f in fields(Scheme)} if like else {}
        )
        for part in ("weight", "activation"):
            if isinstance(entry.get(part), dict):
                _check_keys(Spec, entry[part])
                old = merged.get(part)
                kept = {f.name: getattr(old, f.name) for f in fields(Spec)} if old else {}
                entry[part] = TypeAdapter(Spec).validate_python(kept | entry[part])
        scheme = TypeAdapter(Scheme).validate_python(merged | entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpaceError(f"{file}: scheme {label!r}: {where}: {first['msg']}") from None
    except (SchemeError, UnknownNameError) as error:
        raise SpaceError(f"{file}: scheme {label!r}: {error}") from None
    if scheme.name in SCHEMES:
        raise SpaceError(f"{file}: scheme {label!r} is built in; give yours another name")
    return scheme


def _check_keys(kind: type[Scheme] | type[Spec], entry: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(kind)]
    for key in entry:
        if key not in known:
            raise SchemeError(f"keys must be of {', '.join(known)}; got {key!r}")


def _target_rules(target: str, names: Sequence[str]) -> tuple[Rule, ...]:
    file = read_toml(data_file("search_spaces/targets", target, "target"), _TargetFile, SpaceError)
    label = Path(target).stem
    outside = tuple(
        name for name in names if not any(fnmatchcase(name, pattern) for pattern in file.schemes)
    )
    takes = f"{label} takes only {', '.join(file.schemes)}"
    return (Rule(reason=takes, forbid=outside), *file.rules) if outside else file.rules
