"""BatchNormalization folded into the Conv, ConvTranspose or Gemm before it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpsearch.graph.folding.state import Draft
from mpsearch.graph.folding.types_of_outputs import constant_type
from mpsearch.graph.layers.traversal import all_nodes, bodies
from mpsearch.graph.model import Node, Subgraph
from mpsearch.graph.onnx_file.constants import Array, Constant, load_checked

_HOSTS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def fold_batchnorms(nodes: Sequence[Node], outputs: set[str], draft: Draft) -> list[Node]:
    """Return ``nodes`` with each normalisation merged into the layer that alone feeds it.

    A merged layer keeps its name and produces the normalisation's output; its weight and bias are
    new constants whose source stays the user's tensor. A weight that several nodes read, and a
    normalisation that trains, are left as they are.
    """
    uses: Counter[str] = Counter(outputs)
    for node in all_nodes(nodes):
        uses.update(name for name in node.inputs if name)
        for body in bodies(node):
            uses.update(value.name for value in body.outputs)
    return _fold(nodes, uses, draft)


def _fold(nodes: Sequence[Node], uses: Counter[str], draft: Draft) -> list[Node]:
    made: dict[str, int] = {}
    result: list[Node | None] = []
    for node in nodes:
        node = _inside(node, uses, draft)
        host = made.get(node.inputs[0]) if node.inputs else None
        layer = None if host is None else result[host]
        if layer is not None and host is not None and _is_plain(node):
            merged = _merged(layer, node, uses, draft)
            if merged is not None:
                result[host] = merged
                made[merged.outputs[0]] = host
                continue
        if node.op_type in _HOSTS and node.domain == "":
            made[node.outputs[0]] = len(result)
        result.append(node)
    return [node for node in result if node is not None]


def _inside(node: Node, uses: Counter[str], draft: Draft) -> Node:
    changed = {
        name: replace(body, nodes=tuple(_fold(body.nodes, uses, draft)))
        for name, body in node.attributes.items()
        if isinstance(body, Subgraph)
    }
    return replace(node, attributes={**node.attributes, **changed}) if changed else node


def _is_plain(node: Node) -> bool:
    """Return whether ``node`` is a normalisation by fixed statistics, channel by channel."""
    return (
        node.op_type == "BatchNormalization"
        and node.domain == ""
        and len(node.inputs) == 5
        and not any(node.outputs[1:])
        and not node.attributes.get("training_mode", 0)
        and node.attributes.get("spatial", 1) == 1
    )


@dataclass(frozen=True, slots=True)
class _Affine:
    """Scale and shift of each channel, computed in double precision."""

    scale: Constant
    bias: Constant
    mean: Constant
    variance: Constant
    epsilon: float

    def load(self) -> tuple[Any, Any]:
        gamma, beta, mean, variance = (
            load_checked(c.source, c).astype(np.float64)
            for c in (self.scale, self.bias, self.mean, self.variance)
        )
        scale = gamma / np.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale


def _merged(layer: Node, norm: Node, uses: Counter[str], draft: Draft) -> Node | None:
    weight = draft.constants.get(layer.inputs[1]) if len(layer.inputs) > 1 else None
    bias_name = layer.inputs[2] if len(layer.inputs) > 2 else ""
    bias = draft.constants.get(bias_name)
    found = [draft.constants.get(name) for name in norm.inputs[1:]]
    given = [constant for constant in found if constant is not None]
    if weight is None or len(given) < 4 or (bias_name and bias is None):
        return None
    if uses[layer.outputs[0]] != 1 or uses[layer.inputs[1]] != 1 or not weight.is_float:
        return None
    axis, channels = _channels(layer, weight)
    if channels <= 0 or any(c.shape != (channels,) for c in given):
        return None
    if bias is not None and bias.shape != (channels,):
        return None
    epsilon = norm.attributes.get("epsilon", 1e-5)
    scale, shift, mean, variance = given
    affine = _Affine(
        scale, shift, mean, variance, float(epsilon) if isinstance(epsilon, float | int) else 1e-5
    )
    groups = layer.attributes.get("group", 1) if layer.op_type == "ConvTranspose" else 1
    new_weight = draft.fresh_value(f"{layer.inputs[1]}.folded")
    new_bias = draft.fresh_value(f"{bias_name or layer.name + '.bias'}.folded")
    n_groups = groups if isinstance(groups, int) else 1
    _enter(draft, new_weight, replace(weight, load=_weight(weight, affine, axis, n_groups)))
    shift_source = bias.source if bias is not None else given[1].source
    shift = Constant((channels,), weight.dtype, shift_source, _bias(weight, bias, affine))
    _enter(draft, new_bias, shift)
    uses[new_weight] = uses[new_bias] = 1
    return replace(
        layer,
        inputs=(layer.inputs[0], new_weight, new_bias),
        outputs=(norm.outputs[0],),
    )


def _enter(draft: Draft, name: str, constant: Constant) -> None:
    draft.constants[name] = constant
    draft.types[name] = (constant_type(constant),) * draft.n_probes


def _channels(layer: Node, weight: Constant) -> tuple[int, int]:
    """Return the weight's axis of output channels, and their number over all groups."""
    if layer.op_type == "Conv" and len(weight.shape) > 2:
        return 0, weight.shape[0]
    groups = layer.attributes.get("group", 1)
    if layer.op_type == "ConvTranspose" and len(weight.shape) > 2 and isinstance(groups, int):
        return 1, weight.shape[1] * groups
    if layer.op_type == "Gemm" and len(weight.shape) == 2:
        unit = layer.attributes.get("alpha", 1.0) == layer.attributes.get("beta", 1.0) == 1.0
        axis = 0 if layer.attributes.get("transB", 0) else 1
        return axis, weight.shape[axis] if unit else 0
    return 0, 0


def _weight(weight: Constant, affine: _Affine, axis: int, groups: int) -> Callable[[], Array]:
    def load() -> Array:
        w = load_checked(weight.source, weight)
        scale, _ = affine.load()
        if groups > 1:  # channels of ConvTranspose: (group, axis 1); axis 0 is (group, inputs)
            split = w.reshape(groups, -1, *w.shape[1:]).astype(np.float64)
            tail = (1,) * (w.ndim - 2)
            return (split * scale.reshape(groups, 1, -1, *tail)).reshape(w.shape).astype(w.dtype)
        shape = [1] * w.ndim
        shape[axis] = -1
        return (w.astype(np.float64) * scale.reshape(shape)).astype(w.dtype)

    return load


def _bias(weight: Constant, bias: Constant | None, affine: _Affine) -> Callable[[], Array]:
    def load() -> Array:
        scale, shift = affine.load()
        start = 0.0 if bias is None else load_checked(bias.source, bias).astype(np.float64)
        return np.asarray(start * scale + shift).astype(weight.dtype)

    return load
