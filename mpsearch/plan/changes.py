"""What a plan changes of its model, between memory and the file: every code, scale, bias and constant of it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from mpsearch.errors import PlanError
from mpsearch.graph.model import ModelGraph, Node, Operand
from mpsearch.numerics.layout import Layout, find_layout
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Change, Plan, Site, site_of
from mpsearch.plan.stored_weight import from_parts, part_types, to_parts
from mpsearch.plan.weights import (
    Array,
    Expected,
    Place,
    PlanWeights,
    hold_weights,
    load_weights,
)
from mpsearch.program.tensors import to_array, to_tensor
from mpsearch.schemes import Scheme
from mpsearch.simulate.changes import (
    Changes,
    Product,
    constant_source,
    constant_type,
    output_channels,
)
from mpsearch.simulate.layer_weight import quantize_layer_weight
from mpsearch.space.stored import count_parameters, weight_bits, weight_key

_FLOATS = ("float32", "float16", "bfloat16", "float64")
_CARRIED = {"bfloat16": "uint16"}
"""numpy's types that the file has no name for, by their bits."""


def changes_of(
    plan: Plan,
    graph: ModelGraph,
    schemes: Sequence[Scheme] | None = None,
    sites: Sequence[Site] | None = None,
) -> Changes:
    """Return what ``plan`` changes of ``graph``'s tensors.

    Args:
        plan: Made for the graph.
        graph: The model.
        schemes: [L] scheme of each layer; None: as the plan decides.
        sites: [L] what the plan calls each layer; None: as the graph does.

    Raises:
        PlanError: The plan is for another model; its tensors are missing, have changed, or do not fit the model.
    """
    schemes = plan_schemes(plan, graph) if schemes is None else schemes
    sites = _own_sites(graph) if sites is None else sites
    recovered = [s.recovery != "none" for s in schemes]
    products = list(_products(graph))
    if plan.weights is None:
        if any(recovered[layer] for layer, _ in products):
            raise PlanError(
                "the plan recovers pruned weights on its calibration data and does not bring them; export it "
                "once with these, and take the plan in the export"
            )
        return Changes()
    places = {at: (sites[at[0]].node, _right(graph, at).source) for at in products}
    constants = _constants(graph)
    expected = _expected(graph, schemes, sites, places, constants)
    found = load_weights(plan.weights, expected)
    weights: dict[Product, QuantizedTensor] = {}
    for at, place in places.items():
        scheme, layout = schemes[at[0]], _layout(graph, at)
        parts = {part: found[part, *place] for part in _PARTS if (part, *place) in found}
        if parts:
            name = "::".join(place)
            weights[at] = from_parts(parts, scheme.weight, scheme.sparsity, layout, name)
        elif recovered[at[0]]:
            if place not in found:
                raise PlanError(f"the plan's weights must hold {'::'.join(place)!r}, but lack it")
            weight = torch.from_numpy(found[place])
            weights[at] = quantize_layer_weight(graph.layers[at[0]], at[1], scheme, weight)
    changed = {
        value: _from_carrier(found["constant", name], constant_type(graph, value)[1])
        for name, value in constants.items()
        if ("constant", name) in found
    }
    return Changes(
        weights,
        {
            layer: to_tensor(found["bias", site.node])
            for layer, site in enumerate(sites)
            if ("bias", site.node) in found
        },
        changed,
        {(r.value, r.spec): r.range for r in plan.ranges} if changed else {},
    )


def hold_changes(changes: Changes, graph: ModelGraph) -> PlanWeights:
    """Return ``changes`` of ``graph``'s tensors as what a plan brings.

    Raises:
        PlanError: They are of no layer or constant of the graph, or names collide.
        SchemeError: A code or scale is none of its format's.
    """
    sites, tensors = _own_sites(graph), dict[Place, Array]()
    for at, weight in changes.weights.items():
        place = sites[at[0]].node, _right(graph, at).source
        for part, array in to_parts(weight).items():
            tensors[part, *place] = array
    for layer, bias in changes.biases.items():
        tensors["bias", sites[layer].node] = to_array(bias.float())
    names = {value: name for name, value in _constants(graph).items()}
    for value, array in changes.constants.items():
        if value not in names:
            raise PlanError(f"{value!r} must be a constant of {graph.name} in floating point")
        tensors["constant", names[value]] = _to_carrier(array)
    return hold_weights(tensors)


def bring_changes(
    plan: Plan,
    graph: ModelGraph,
    changes: Changes,
    *,
    recovery: Sequence[str] = (),
    transforms: Sequence[str] = (),
    done: Sequence[Change] = (),
) -> Plan:
    """Return ``plan`` with ``changes`` in the place of what it brought, and with what that makes of its size.

    Args:
        plan: Made for the graph.
        graph: The model.
        changes: All that is to be changed, what the plan brought before included.
        recovery: Names of what recovered weights, in order; behind those that the plan names.
        transforms: Names of equivalent transforms, likewise.
        done: What was done to each layer; methods go behind those that the plan names.

    Raises:
        PlanError: The plan is for another model, or a weight is stored in another way than its scheme says.
    """
    schemes = plan_schemes(plan, graph)
    for (layer, gemm), weight in changes.weights.items():
        scheme, layout = schemes[layer], _layout(graph, (layer, gemm))
        if not weight.is_stored_as(scheme) or weight.layout != layout:
            raise PlanError(
                f"{graph.layers[layer].name!r}: the changed weight must be stored as {scheme.name} says, "
                f"got {weight.spec}"
            )
    made = with_weights(plan, hold_changes(changes, graph) if changes else None)
    made = replace(
        made,
        ranges=tuple(
            replace(r, range=changes.ranges.get((r.value, r.spec), r.range)) for r in made.ranges
        ),
        recovery=tuple(dict.fromkeys((*plan.recovery, *recovery))) if changes else (),
        transforms=tuple(dict.fromkeys((*plan.transforms, *transforms))) if changes else (),
        changes=_continue(plan.changes, done) if changes else (),
    )
    earlier = Changes() if plan.weights is None else changes_of(plan, graph)
    added = added_bytes(graph, schemes, changes) - added_bytes(graph, schemes, earlier)
    return _resize(made, graph, added)


def added_bytes(graph: ModelGraph, schemes: Sequence[Scheme], changes: Changes) -> int:
    """Return the bytes that ``changes`` add to what the model stores.

    These are biases of layers that have none to add them to, and weights that layers share no more.

    Args:
        graph: The model.
        schemes: [L] scheme of each layer.
        changes: What is changed.
    """
    nodes = {node.name: node for node in graph.nodes}
    added = 0
    for index, bias in changes.biases.items():
        layer = graph.layers[index]
        node = nodes.get(layer.name)
        if node is None or bias_of(graph, node, bias.numel()) is None:
            known = graph.values.get(layer.output)
            is_half = known is not None and known.dtype in ("float16", "bfloat16")
            added += (2 if is_half else 4) * bias.numel()
    owners, versions = own_weights(graph, changes), dict[object, set[int]]()
    for at in _products(graph):
        scheme = schemes[at[0]]
        by_itself = at[0] if scheme.recovery != "none" else -1
        key = weight_key(_right(graph, at), scheme, by_itself)
        owner = owners.get(at, -1)
        known_versions = versions.setdefault(key, set())
        if known_versions and owner not in known_versions:
            added += weight_bits(scheme, graph.layers[at[0]].gemms[at[1]]) // 8
        known_versions.add(owner)
    return added


def own_weights(graph: ModelGraph, changes: Changes) -> dict[Product, int]:
    """Return (layer, product) of each changed weight to the first layer that stores the same of the same tensor."""
    firsts: dict[Operand, list[Product]] = {}
    found: dict[Product, int] = {}
    for at in sorted(changes.weights):
        alike = firsts.setdefault(_right(graph, at), [])
        weight = changes.weights[at]
        first = next((one for one in alike if changes.weights[one].is_same(weight)), None)
        if first is None:
            alike.append(at)
        found[at] = (first or at)[0]
    return found


def bias_of(graph: ModelGraph, node: Node, channels: int) -> str | None:
    """Return the fp32 constant [channels] that ``node`` adds to its product as it is; None where there is none."""
    name = node.inputs[2] if len(node.inputs) > 2 and takes_bias(node) else ""
    if not name or name not in graph.constants:
        return None
    return name if constant_type(graph, name) == ((channels,), "float32") else None


def takes_bias(node: Node) -> bool:
    """Whether ``node``'s operator adds its third input, a bias, to its product as it is."""
    if node.op_type == "Gemm":
        return node.attributes.get("beta", 1.0) == 1.0
    return node.op_type in ("Conv", "ConvTranspose") and node.domain == ""


def with_weights(plan: Plan, weights: PlanWeights | None) -> Plan:
    """Return ``plan`` with ``weights``, and with what it then requires of its readers."""
    others = tuple(name for name in plan.requires if name not in ("weights", "recovery"))
    return replace(
        plan, weights=weights, requires=others if weights is None else (*others, "weights")
    )


def _continue(before: Sequence[Change], done: Sequence[Change]) -> tuple[Change, ...]:
    """``done``, of each layer behind what was done to it before."""
    earlier = {change.site: change for change in before}
    found = []
    for change in done:
        first = earlier.get(change.site)
        if first is not None:
            methods = tuple(dict.fromkeys((*first.methods, *change.methods)))
            change = replace(change, methods=methods, error_before=first.error_before)
        found.append(change)
    return tuple(found)


def _resize(plan: Plan, graph: ModelGraph, added: int) -> Plan:
    """``plan`` with ``added`` bytes in its coverage and in its predicted size."""
    if not added:
        return plan
    bits = 8 * added / max(count_parameters(graph, range(len(graph.layers))), 1)
    coverage = replace(plan.coverage, effective_bits=plan.coverage.effective_bits + bits)
    more = {"weight_bytes": float(added), "effective_bits": bits}
    predicted = {
        name: value._replace(mean=value.mean + more.get(name, 0.0))
        for name, value in plan.predicted.items()
    }
    return replace(plan, coverage=coverage, predicted=predicted)


_PARTS = ("codes", "scales", "zeros", "tensor_scale", "mask")


def _expected(
    graph: ModelGraph,
    schemes: Sequence[Scheme],
    sites: Sequence[Site],
    places: Mapping[Product, tuple[str, str]],
    constants: Mapping[str, str],
) -> dict[Place, Expected]:
    """All that the file may hold."""
    expected: dict[Place, Expected] = {}
    for at, place in places.items():
        scheme, layout = schemes[at[0]], _layout(graph, at)
        if scheme.recovery != "none":
            expected[place] = Expected(layout.shape)
        for part, one in part_types(scheme.weight, scheme.sparsity, layout).items():
            expected[part, *place] = one
    for layer, site in enumerate(sites):
        channels = output_channels(graph, layer)
        if channels is not None:
            expected["bias", site.node] = Expected((channels,))
    for name, value in constants.items():
        shape, dtype = constant_type(graph, value)
        expected["constant", name] = Expected(shape, _CARRIED.get(dtype, dtype))
    return expected


def _own_sites(graph: ModelGraph) -> list[Site]:
    return [site_of(layer) for layer in graph.layers]


def _products(graph: ModelGraph) -> Iterator[Product]:
    """(layer, gemm) of all that multiply with a weight of the graph."""
    for i, layer in enumerate(graph.layers):
        for j, gemm in enumerate(layer.gemms):
            if gemm.has_weight and gemm.right.value in graph.constants:
                yield i, j


def _right(graph: ModelGraph, at: Product) -> Operand:
    return graph.layers[at[0]].gemms[at[1]].right


def _layout(graph: ModelGraph, at: Product) -> Layout:
    right = _right(graph, at)
    return find_layout(
        constant_type(graph, right.value)[0],
        reduction_axis=right.reduction_axis,
        channel_axes=right.channel_axes,
        groups=right.groups,
    )


def _constants(graph: ModelGraph) -> dict[str, str]:
    """Name in the file to value of each constant in floating point: the initialiser that it alone stems from, or its own."""
    values = [name for name in graph.constants if constant_type(graph, name)[1] in _FLOATS]
    sources = {name: constant_source(graph, name) for name in values}
    count = Counter(sources.values())
    return {
        source
        if count[source] == 1 and (source == name or source not in graph.constants)
        else name: name
        for name, source in sources.items()
    }


def _to_carrier(array: NDArray[np.generic]) -> Array:
    carrier = _CARRIED.get(array.dtype.name)
    return np.asarray(array) if carrier is None else array.view(carrier)


def _from_carrier(array: Array, dtype: str) -> NDArray[np.generic]:
    return array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array
