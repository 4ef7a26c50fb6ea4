"""A plan's model as a checkpoint names it: which module each layer is, and the tensors that stay as they are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.errors import PlanError
from mpsearch.export.checkpoint.fused import check_fused
from mpsearch.export.checkpoint.modules import module_of, refuse_linear
from mpsearch.export.checkpoint.source import Source, find_name
from mpsearch.export.planned import PlannedWeights
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.constants import Constants, load_checked
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.changes import changes_of
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.program.tensors import to_tensor
from mpsearch.schemes import Scheme
from mpsearch.simulate.changes import constant_source

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Base format to the type of what is not quantised."""

_COMPUTED = "rotary_emb.inv_freq"
"""End of the name of what a graph holds and no checkpoint does: models compute it."""

_SAME = 0.02
"""Largest relative difference of a checkpoint's weight and the graph's; a 16-bit format rounds by less."""


@dataclass(frozen=True, slots=True)
class Named:
    """A plan's layers by the names of the checkpoint.

    Attributes:
        graph: The model, with the constants that the plan changes.
        weights: What each layer stores.
        source: What the user has of the model.
        dtype: Type of what is not quantised.
        modules: Layer to module, of layers with a weight; the first of those that run one module.
        schemes: [L] scheme of each layer.
        biases: Layer to what the plan adds to its output.
    """

    graph: ModelGraph
    weights: PlannedWeights
    source: Source
    dtype: torch.dtype
    modules: Mapping[int, str]
    schemes: tuple[Scheme, ...]
    biases: Mapping[int, Tensor]

    @property
    def quantized(self) -> dict[int, str]:
        """Layer to module, of those whose weights have scales."""
        found = self.modules.items()
        return {i: module for i, module in found if not self.schemes[i].weight.is_cast}

    @property
    def plain(self) -> tuple[str, ...]:
        """Modules with a matrix that is not quantised: what a configuration has to leave out."""
        quantized = set(self.quantized.values())
        names = [module for module in self.modules.values() if module not in quantized]
        for name in _names(self):
            owner, _, kind = name.rpartition(".")
            is_plain = kind == "weight" and owner not in quantized
            if is_plain and len(_shape(self, name)) == 2:
                names.append(owner)
        return tuple(dict.fromkeys(names))

    def stored(self, layer: int) -> QuantizedTensor:
        """Return the weight of a layer as its scheme stores it; ``codes`` are [out, 1, in].

        Raises:
            PlanError: The checkpoint has another weight under its name.
        """
        _check_same(self, layer)
        return self.weights(layer, 0, self.schemes[layer])


def name_layers(
    plan: Plan, graph: ModelGraph, weights: PlannedWeights, source: Source, target: str
) -> Named:
    """Return the plan's layers by the names of the checkpoint.

    Raises:
        PlanError: The plan does not fit, one module or modules that run as one would run in two ways, or the base has no
            type in a checkpoint.
    """
    if plan.base not in DTYPES:
        raise PlanError(
            f"the base of a checkpoint must be one of {', '.join(DTYPES)}, got {plan.base}"
        )
    schemes = plan_schemes(plan, graph)
    check_fused(graph, schemes)
    known = {name.removesuffix(".weight") for name in source.files}
    modules: dict[int, str] = {}
    firsts: dict[str, int] = {}
    for i, layer in enumerate(graph.layers):
        if schemes[i].weight.is_cast and schemes[i].weight.format != plan.base:
            raise PlanError(
                f"{layer.name!r} in {schemes[i].name}: a checkpoint for {target} has one type for all that is not "
                f"quantised, and the plan's base is {plan.base}"
            )
        module = find_name(module_of(layer), known) if layer.has_weight else ""
        if not module:
            continue
        first = firsts.setdefault(module, i)
        if first == i:
            modules[i] = module
        elif not _run_alike(plan, graph, schemes, first, i):
            raise PlanError(
                f"{module!r} runs in {graph.layers[first].name!r} and {layer.name!r}, which must have one scheme and "
                "one activation range to be one module of a checkpoint"
            )
    biases = changes_of(plan, graph).biases
    return Named(graph, weights, source, DTYPES[plan.base], modules, schemes, biases)


def plain_tensors(named: Named) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of all that is not quantised, in the base's type.

    Raises:
        PlanError: The plan changes what the checkpoint has no name for.
    """
    names = list(_names(named))
    quantized = {f"{module}.weight" for module in named.quantized.values()}
    layers = {
        f"{module}.weight": i
        for i, module in named.modules.items()
        if named.schemes[i].weight.is_cast
    }
    biases = {f"{named.modules.get(i, '')}.bias": i for i in named.biases}
    missing = sorted(biases.keys() - set(names))
    if missing:
        raise PlanError(
            f"the plan adds {missing[0]!r}, which the model does not have; recover it without `bias`"
        )
    changed = _changed_constants(named, names)
    for name in names:
        if name in quantized:
            continue
        if name in layers and (_is_changed(named, layers[name]) or not _is_own(named, name)):
            tensor = named.stored(layers[name]).codes.flatten(1)
        elif name in changed:
            tensor = to_tensor(named.graph.constants[changed[name]])
        else:
            tensor = _own(named, name)
        if name in biases:
            tensor = tensor.float() + named.biases[biases[name]].float()
        yield name, _typed(tensor, named.dtype)


def _typed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()


def _names(named: Named) -> Iterator[str]:
    """Names of the checkpoint's tensors: those of the user's, else of the graph's parameters."""
    if named.source.files:
        yield from named.source.files
    else:
        own = [n for n in _originals(named.graph) if "." in n and not n.endswith(_COMPUTED)]
        matrices = (
            f"{module}.weight"
            for i, module in named.modules.items()
            if not refuse_linear(named.graph, named.graph.layers[i])
        )
        yield from dict.fromkeys((*own, *matrices))


def _originals(graph: ModelGraph) -> Mapping[str, object]:
    known = graph.constants
    return known.originals if isinstance(known, Constants) else known


def _is_own(named: Named, name: str) -> bool:
    """Whether a tensor has its name in the user's files or graph; exporters to ONNX may rename weights."""
    return name in (named.source.files or _originals(named.graph))


def _shape(named: Named, name: str) -> tuple[int, ...]:
    if named.source.files:
        return named.source.shape(name)
    if not _is_own(named, name):
        return (0, 0)  # a layer's weight, whatever its sizes
    known = named.graph.constants
    return known.originals[name].shape if isinstance(known, Constants) else known[name].shape


def _own(named: Named, name: str) -> Tensor:
    """The user's own tensor."""
    if named.source.files:
        return named.source.load(name)
    known = named.graph.constants
    if isinstance(known, Constants):
        return to_tensor(load_checked(name, known.originals[name]))
    return to_tensor(known[name])


def _is_changed(named: Named, layer: int) -> bool:
    """Whether a layer that is not quantised multiplies with another weight than the user's, rounded to the base."""
    changes = named.weights.changes
    value = named.graph.layers[layer].gemms[0].right.value
    has_own = (layer, 0) in changes.weights or value in changes.constants
    return has_own or named.schemes[layer].sparsity is not None


def _changed_constants(named: Named, names: list[str]) -> dict[str, str]:
    """Checkpoint's name to value of each constant that the plan changes and that is no layer's weight."""
    weights = {g.right.value for layer in named.graph.layers for g in layer.gemms if g.has_weight}
    found, known = {}, set(names)
    for value in named.weights.changes.constants:
        if value in weights:
            continue
        name = find_name(constant_source(named.graph, value), known)
        if name not in known or _shape(named, name) != named.graph.constants[value].shape:
            raise PlanError(
                f"the plan changes {value!r}, which must be a parameter of the model as it is, but is none"
            )
        found[name] = value
    return found


def _run_alike(
    plan: Plan, graph: ModelGraph, schemes: tuple[Scheme, ...], first: int, second: int
) -> bool:
    found = [
        plan.find_range(graph.layers[i].gemms[0].left.value, schemes[i].activation)
        for i in (first, second)
    ]
    return schemes[first] == schemes[second] and found[0] == found[1]


def _check_same(named: Named, layer: int) -> None:
    """Check that the checkpoint's weight is the graph's, [out, in].

    Raises:
        PlanError: It is another, or is stored the other way round.
    """
    name = f"{named.modules[layer]}.weight"
    if name not in named.source.files or named.weights.changes.constants:
        return
    right = named.graph.layers[layer].gemms[0].right
    own, graphs = named.source.load(name).double(), to_tensor(named.graph.constants[right.value])
    rows = (graphs if right.reduction_axis % 2 == 1 else graphs.T).double()
    if own.shape != rows.shape or (own - rows).norm() > _SAME * own.norm():
        raise PlanError(
            f"{name!r} of the checkpoint must be the weight [out, in] that {named.graph.layers[layer].name!r} multiplies "
            f"with, {list(rows.shape)}, but is another one, {list(own.shape)}"
        )
