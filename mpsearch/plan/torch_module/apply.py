"""A plan put onto the torch module that it was made for."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from mpsearch.errors import MpsearchError, PlanError
from mpsearch.graph.layers.traversal import all_nodes
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.torch_export import import_torch
from mpsearch.numerics.range import Range
from mpsearch.numerics.ranges import make_range
from mpsearch.plan.changes import changes_of
from mpsearch.plan.match import check_weights, plan_schemes
from mpsearch.plan.plan import Plan, site_of
from mpsearch.plan.restore import WEIGHT_SHARE
from mpsearch.plan.torch_module.live import LiveWeights
from mpsearch.plan.torch_module.torch_calls import LayerCalls
from mpsearch.plan.torch_module.trained import named_tensors, run_once, watch_parameters
from mpsearch.program.compile import compile_graph
from mpsearch.program.memory_of_machine import default_memory
from mpsearch.program.tensors import to_tensor
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.changes import Changes, change_constants, constant_source
from mpsearch.simulate.layer_weight import quantize_layer_weight
from mpsearch.simulate.observation import static_ranges
from mpsearch.simulate.scheme_run import SchemeRun, find_ports
from mpsearch.simulate.weight_cache import WeightStore


@dataclass(slots=True)
class Applied:
    """A plan on a module, until it is removed.

    Attributes:
        plan: What is simulated.
        graph: The exported module, its layers called as the plan calls them.
        trained: Returns what the parameters have changed of it; None where they are not trainable.
    """

    plan: Plan
    graph: ModelGraph = field(repr=False)
    trained: Callable[[], Changes] | None = field(default=None, repr=False)
    _undo: list[Callable[[], object]] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Give the module its own forward back; a second call does nothing."""
        while self._undo:
            self._undo.pop()()


def apply_plan(
    plan: Plan, module: Any, example_inputs: Any = None, *, trainable: bool = False
) -> Any:
    """Return ``module``, its forward now simulating ``plan``: the user's own code, in low precision.

    Products run as the plan's layers do in the simulator: inputs quantised with the calibrated
    ranges, simulated weights, outputs rounded to the base format; normalisations that were merged
    into a layer are skipped. Gradients pass straight through the rounding of activations. Parameters
    are not changed, and ``module.mpsearch_plan.remove()`` undoes it all.

    Where it is ``trainable``, weights are rounded anew from the parameters in each forward, at the plan's own scales if it
    brings any, so that gradients reach the parameters straight through the rounding and what an optimizer makes of these
    counts; :func:`mpsearch.plan.torch_module.trained.read_trained` returns it for the plan.

    Args:
        plan: Made from ``import_torch`` of this module.
        module: A ``torch.nn.Module``; put into evaluation mode.
        example_inputs: What it was imported with, as ``import_torch`` takes it; None makes inputs of the
            plan's shapes, which serves for modules that take tensors alone.
        trainable: Whether the parameters are to be trained under the plan.

    Raises:
        PlanError: The plan is for another module, or brings no weights that it recovered. Also when
            the module runs: a layer of the plan that it does not reach is named.
        ModelError: torch cannot export the module.
    """
    own = named_tensors(module)
    for decision in plan.decisions:
        for name in decision.site.weights:
            if name not in own:
                raise PlanError(
                    f"the plan decides {name!r} (of {decision.site.node!r}), which "
                    f"{type(module).__name__} lacks; plans are applied to the module that import_torch read"
                )
    before = module.__dict__.get("mpsearch_plan")
    if isinstance(before, Applied):
        before.remove()
    if example_inputs is None:
        example_inputs = _make_inputs(plan, module)
    graph = import_torch(module, example_inputs)
    schemes, ranges = _schemes_and_ranges(plan, graph)
    module.eval()
    device = next((tensor.device for tensor in own.values()), torch.device("cpu"))
    same = plan.structure_digest == graph.structure_digest
    sites = None if same else [decision.site for decision in plan.decisions]
    changes = _store_constants(changes_of(plan, graph, schemes, sites), graph, schemes)
    own_changes = _changes_outside(graph, changes, own)
    if trainable and own_changes:
        raise PlanError(
            "the plan changes tensors that no layer of it multiplies with, such as gains of normalisations, which "
            "would be trained for nothing; take trainable=False"
        )
    graph = change_constants(graph, changes)
    program = compile_graph(graph, device)
    weights = WeightStore(graph, program, default_memory() // WEIGHT_SHARE, changed=changes.weights)
    folded = _folded_means(graph, module)
    live = LiveWeights(graph, weights) if trainable else None
    base, layers = plan.schemes[plan.base], range(len(graph.layers))
    ports = find_ports(graph)
    forward, scopes = module.forward, list[str]()

    def simulated(*args: Any, **kwargs: Any) -> Any:
        run = SchemeRun(
            graph, schemes, base, ranges, live or weights, layers, ports, changes.biases
        )
        scopes.clear()
        calls = LayerCalls(graph, program, run, own, folded, scopes, live)
        with _put_in(own_changes), calls:
            result = forward(*args, **kwargs)
        calls.check_complete()
        if live is not None and not live.forms:
            live.begin(schemes, calls.norms)
        return result

    named = (
        replace(layer, name=decision.site.node)
        for layer, decision in zip(graph.layers, plan.decisions, strict=True)
    )
    applied = Applied(plan, replace(graph, layers=tuple(named)))
    applied._undo += _follow_scopes(module, scopes)
    applied._undo.append(_replace_forward(module, simulated))
    module.mpsearch_plan = applied
    applied._undo.append(lambda: module.__dict__.pop("mpsearch_plan", None))
    if live is not None:

        def run() -> None:
            with torch.enable_grad():  # for what the weights follow from
                run_once(module, example_inputs)

        run()
        applied.trained = watch_parameters(module, live, program, schemes, run, changes)
    return module


def _schemes_and_ranges(
    plan: Plan, graph: ModelGraph
) -> tuple[tuple[Scheme, ...], dict[tuple[str, Spec], Range]]:
    """Return the scheme of each layer, and the plan's ranges by the names of ``graph``.

    Torch's exporter numbers nodes and values anew in each export, so layers are matched in order.

    Raises:
        PlanError: The plan is for another module.
    """
    schemes: tuple[Scheme, ...]
    if plan.structure_digest == graph.structure_digest:
        schemes = plan_schemes(plan, graph)
        check_weights(plan, graph)
    else:
        sites, layers = [decision.site for decision in plan.decisions], graph.layers
        for site, layer in zip(sites, layers, strict=False):
            if site.weights != site_of(layer).weights:
                raise PlanError(
                    f"{layer.fqn or layer.name!r} must multiply with {', '.join(site.weights) or 'no weight'}"
                    f" as {site.node!r} of the plan does, got {', '.join(site_of(layer).weights) or 'none'}"
                )
        if len(sites) != len(layers):
            raise PlanError(
                f"the plan decides {len(sites)} layers, but the module has {len(layers)}: {graph.name} "
                f"must be the module that the plan was made for"
            )
        schemes = tuple(plan.schemes[decision.scheme] for decision in plan.decisions)
    used = list(static_ranges(graph, dict(enumerate(schemes))))
    if [spec for _, spec in used] != [found.spec for found in plan.ranges]:
        raise PlanError(f"the plan's ranges must be those of {graph.name}'s layers, got others")
    ranges = {key: found.range for key, found in zip(used, plan.ranges, strict=True)}
    for spec in {scheme.activation for scheme in schemes}:
        if not spec.is_cast and spec.range == "static":
            ranges["", spec] = make_range(-1.0, 1.0, spec)
    return schemes, ranges


def _store_constants(changes: Changes, graph: ModelGraph, schemes: Sequence[Scheme]) -> Changes:
    """Return ``changes`` with layers' weights among the constants as what is stored of them, by layer."""
    weights, held = dict(changes.weights), set[str]()
    for i, layer in enumerate(graph.layers):
        for j, gemm in enumerate(layer.gemms):
            name = gemm.right.value
            if gemm.has_weight and name in changes.constants:
                held.add(name)
                if (i, j) not in weights:
                    value = to_tensor(changes.constants[name])
                    weights[i, j] = quantize_layer_weight(layer, j, schemes[i], value)
    layers = {layer.name for layer in graph.layers}
    others = {n for x in all_nodes(graph.nodes) if x.name not in layers for n in x.inputs}
    constants = {n: v for n, v in changes.constants.items() if n not in held or n in others}
    return Changes(weights, changes.biases, constants)


def _changes_outside(
    graph: ModelGraph, changes: Changes, own: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Return the module's own tensors that a plan changes and that other code than its layers reads, and their values.

    Raises:
        PlanError: One of them is no tensor of the module's own.
    """
    layers = {layer.name for layer in graph.layers}
    read = {
        name
        for node in all_nodes(graph.nodes)
        if node.name not in layers
        for name in node.inputs
        if name in changes.constants
    }
    found = []
    for name in sorted(read):
        tensor = own.get(constant_source(graph, name))
        value = to_tensor(changes.constants[name])
        if tensor is None or tensor.shape != value.shape:
            raise PlanError(
                f"the plan changes {name!r}, which must be a parameter or buffer of the module, but is none"
            )
        found.append((tensor, value.to(tensor.device, tensor.dtype)))
    return found


@contextmanager
def _put_in(changed: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Give tensors other values while a module runs."""
    before = [tensor.data for tensor, _ in changed]
    try:
        for tensor, value in changed:
            tensor.data = value
        yield
    finally:
        for (tensor, _), data in zip(changed, before, strict=True):
            tensor.data = data


def _follow_scopes(module: nn.Module, scopes: list[str]) -> Iterator[Callable[[], object]]:
    """Keep ``scopes`` at the names of the submodules that run; yield what ends it."""
    for name, inner in module.named_modules():
        if inner is module:
            continue
        enter = inner.register_forward_pre_hook(lambda *_, name=name: scopes.append(name))
        leave = inner.register_forward_hook(lambda *_: _leave(scopes), always_call=True)
        yield enter.remove
        yield leave.remove


def _leave(scopes: list[str]) -> None:
    scopes.pop()


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], object]:
    held = module.__dict__.get("forward")
    module.forward = forward

    def restore() -> None:
        if held is None:
            del module.forward
        else:
            module.forward = held

    return restore


def _folded_means(graph: ModelGraph, module: nn.Module) -> set[str]:
    """Return the running means of normalisations that layers of ``graph`` include."""
    left = {
        node.inputs[3] for node in all_nodes(graph.nodes) if node.op_type == "BatchNormalization"
    }
    means = {name for name, _ in module.named_buffers() if name.endswith("running_mean")}
    return means - left


def _make_inputs(plan: Plan, module: nn.Module) -> Any:
    """Return inputs of the plan's shapes, of the first element types that the module takes.

    Raises:
        PlanError: It takes none of those that are tried.
    """
    known = inspect.signature(module.forward).parameters
    by_name = all(name in known for name in plan.shapes)
    failure: Exception | None = None
    for kinds in product((torch.float32, torch.int64, torch.bool), repeat=min(len(plan.shapes), 3)):
        kinds = (*kinds, *[kinds[-1]] * (len(plan.shapes) - len(kinds)))
        inputs = {
            name: torch.ones([size or 2 for size in shape], dtype=kind)
            for (name, shape), kind in zip(plan.shapes.items(), kinds, strict=True)
        }
        given: Mapping[str, Tensor] | tuple[Tensor, ...] = (
            inputs if by_name else tuple(inputs.values())
        )
        try:
            with torch.no_grad():
                run_once(module, given)
        except MpsearchError:
            raise
        except Exception as error:
            failure = failure or error
            continue
        return given
    raise PlanError(
        f"{type(module).__name__} must take tensors of the plan's shapes, give example_inputs: {failure}"
    )
