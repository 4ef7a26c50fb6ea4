"""Elementwise chains that exporters write out, put back into the one operator that they are.

Each pass over a tensor costs about as much as a small convolution. Layers are never touched, and
what is fused computes the same function in fp32.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isclose, sqrt

import numpy as np
from numpy.typing import NDArray

from mpsearch.graph.model import Node

Constants = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class _View:
    """A graph to look for patterns in: who produces a value, how often it is read, what is constant."""

    producers: Mapping[str, Node]
    reads: Mapping[str, int]
    constants: Constants

    def node(self, name: str, *ops: str) -> Node | None:
        """The node of one of these operators that makes ``name``, if nothing else reads it."""
        node = self.producers.get(name)
        if node is None or node.op_type not in ops or self.reads[name] != 1 or node.domain:
            return None
        return node

    def scalar(self, name: str) -> float | None:
        """The value of a constant with one element."""
        if name not in self.constants:
            return None
        array = np.asarray(self.constants[name])
        return (
            float(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "fiu" else None
        )

    def shift(self, node: Node) -> tuple[str, float] | None:
        """(x, c) of ``x + c``."""
        for x, c in (node.inputs, node.inputs[::-1]):
            value = self.scalar(c)
            if value is not None:
                return x, value
        return None


def fuse_nodes(
    nodes: Sequence[Node], constants: Constants, kept: Collection[str]
) -> tuple[Node, ...]:
    """Return ``nodes`` with what is one operator as one node: activations, layer normalisation, α x + β.

    Args:
        nodes: In topological order.
        constants: Values that never change.
        kept: Values that must be there afterwards.
    """
    reads = Counter(name for node in nodes for name in node.inputs)
    reads.update(kept)
    view = _View({name: node for node in nodes for name in node.outputs if name}, reads, constants)
    fused: dict[str, Node] = {}
    gone: set[str] = set()
    for node in reversed(nodes):  # the longest pattern ends last
        if node.name in gone or node.domain:
            continue
        found = (
            _find_product(node, view) or _find_layer_norm(node, view) or _find_affine(node, view)
        )
        if found is not None:
            replacement, parts = found
            fused[node.name] = replacement
            gone.update(part.name for part in parts)
    return tuple(
        fused.get(node.name, node) for node in nodes if node.name not in gone or node.name in fused
    )


def _replace(node: Node, op_type: str, x: Sequence[str], **attributes: object) -> Node:
    return Node(node.name, op_type, "", 23, tuple(x), node.outputs, attributes)


def _factors(node: Node, view: _View) -> tuple[list[str], float, list[Node]]:
    """What ``node`` is the product of: values, the product of constants, and the nodes in between."""
    values: list[str] = []
    scalar, parts = 1.0, []
    waiting = [node]
    while waiting:
        current = waiting.pop()
        parts.append(current)
        if current.op_type == "Div":
            divisor = view.scalar(current.inputs[1])
            if divisor is None or divisor == 0:
                return [], 0.0, []
            scalar /= divisor
            operands: Sequence[str] = current.inputs[:1]
        else:
            operands = current.inputs
        for name in operands:
            value = view.scalar(name)
            inner = view.node(name, "Mul", "Div")
            if value is not None:
                scalar *= value
            elif inner is not None and len(parts) < 4:
                waiting.append(inner)
            else:
                values.append(name)
    return values, scalar, parts


def _find_product(node: Node, view: _View) -> tuple[Node, list[Node]] | None:
    """x·gate(x) and gates alone."""
    if node.op_type not in ("Mul", "Div"):
        return None
    values, scalar, parts = _factors(node, view)
    if len(values) == 1 and isclose(scalar, 1 / 6, rel_tol=1e-5):
        clipped = _clipped_shift(values[0], view)
        if clipped is not None:
            gate = _replace(node, "HardSigmoid", [clipped[0]], alpha=1 / 6, beta=0.5)
            return gate, parts + clipped[1]
    if len(values) != 2:
        return None
    for x, gate_name in (values, values[::-1]):
        found = _gate(x, gate_name, scalar, view)
        if found is not None:
            op_type, more = found
            return _replace(node, op_type, [x]), parts + more
    return None


def _gate(x: str, gate: str, scalar: float, view: _View) -> tuple[str, list[Node]] | None:
    """The operator that ``scalar · x · gate`` is."""
    if isclose(scalar, 1 / 6, rel_tol=1e-5):
        clipped = _clipped_shift(gate, view)
        if clipped is not None and clipped[0] == x:
            return "HardSwish", clipped[1]
    if scalar == 1.0:
        node = view.node(gate, "Sigmoid", "HardSigmoid")
        if node is None or node.inputs[0] != x:
            return None
        if node.op_type == "Sigmoid":
            return "Swish", [node]
        alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
        if isclose(float(alpha), 1 / 6, rel_tol=1e-5) and beta == 0.5:  # type: ignore[arg-type]
            return "HardSwish", [node]
    if isclose(scalar, 0.5, rel_tol=1e-6):
        return _erf_gate(x, gate, view)
    return None


def _erf_gate(x: str, gate: str, view: _View) -> tuple[str, list[Node]] | None:
    """1 + erf(x / √2)."""
    add = view.node(gate, "Add")
    shifted = view.shift(add) if add is not None else None
    if add is None or shifted is None or shifted[1] != 1.0:
        return None
    erf = view.node(shifted[0], "Erf")
    scaled = view.node(erf.inputs[0], "Mul", "Div") if erf is not None else None
    if erf is None or scaled is None:
        return None
    values, scalar, parts = _factors(scaled, view)
    if values == [x] and isclose(scalar, 1 / sqrt(2), rel_tol=1e-5):
        return "Gelu", [add, erf, *parts]
    return None


def _clipped_shift(name: str, view: _View) -> tuple[str, list[Node]] | None:
    """Return x and the nodes of clip(x + 3, 0, 6)."""
    clip = view.node(name, "Clip")
    add = view.node(clip.inputs[0], "Add") if clip is not None else None
    shifted = view.shift(add) if add is not None else None
    if clip is None or add is None or shifted is None or shifted[1] != 3.0:
        return None
    if clip.version < 11:
        edges = (clip.attributes.get("min"), clip.attributes.get("max"))
    else:
        edges = tuple(view.scalar(i) for i in clip.inputs[1:3])  # type: ignore[assignment]
    return (shifted[0], [clip, add]) if edges == (0.0, 6.0) else None


def _find_affine(node: Node, view: _View) -> tuple[Node, list[Node]] | None:
    """Return α x + β of two numbers, in one pass over the tensor instead of two."""
    shifted = view.shift(node) if node.op_type == "Add" else None
    product = view.node(shifted[0], "Mul") if shifted is not None else None
    if shifted is None or product is None:
        return None
    for x, scale in (product.inputs, product.inputs[::-1]):
        alpha = view.scalar(scale)
        if alpha is None or x in view.constants:
            continue
        numbers = [view.constants[name] for name in (scale, *node.inputs) if name in view.constants]
        if all(array.dtype == np.float32 and array.ndim <= 1 for array in numbers):
            rank = max(array.ndim for array in numbers)
            fused = _replace(node, "Affine", [x], alpha=alpha, beta=shifted[1], rank=rank)
            return fused, [node, product]
    return None


def _find_layer_norm(node: Node, view: _View) -> tuple[Node, list[Node]] | None:
    """(x - mean) / √(var + ε) · scale + shift over the last axis."""
    if node.op_type != "Add":
        return None
    for product_name, shift in (node.inputs, node.inputs[::-1]):
        product = view.node(product_name, "Mul")
        if product is None or shift not in view.constants:
            continue
        for ratio_name, scale in (product.inputs, product.inputs[::-1]):
            ratio = view.node(ratio_name, "Div")
            if ratio is None or scale not in view.constants:
                continue
            found = _centered_ratio(ratio, view)
            if found is None:
                continue
            x, epsilon, parts = found
            if np.ndim(view.constants[scale]) != 1 or np.ndim(view.constants[shift]) != 1:
                continue
            inputs = [x, scale, shift]
            norm = _replace(node, "LayerNormalization", inputs, axis=-1, epsilon=epsilon)
            return norm, [node, product, ratio, *parts]
    return None


def _centered_ratio(ratio: Node, view: _View) -> tuple[str, float, list[Node]] | None:
    root = view.node(ratio.inputs[1], "Sqrt")
    add = view.node(root.inputs[0], "Add") if root is not None else None
    shifted = view.shift(add) if add is not None else None
    mean = view.node(shifted[0], "ReduceMean") if shifted is not None else None
    square = view.node(mean.inputs[0], "Pow", "Mul") if mean is not None else None
    center = view.producers.get(ratio.inputs[0])
    if root is None or add is None or shifted is None or mean is None or square is None:
        return None
    if center is None or center.op_type != "Sub":
        return None
    d = center.outputs[0]
    if square.op_type == "Pow":
        squares = square.inputs[0] == d and view.scalar(square.inputs[1]) == 2.0
        times = 1
    else:
        squares, times = square.inputs == (d, d), 2
    average = view.node(center.inputs[1], "ReduceMean")
    if not squares or view.reads[d] != times + 1 or average is None:
        return None
    if average.inputs[0] != center.inputs[0] or not (_last(mean, view) and _last(average, view)):
        return None
    return center.inputs[0], shifted[1], [root, add, mean, square, center, average]


def _last(node: Node, view: _View) -> bool:
    """Whether a reduction runs over the last axis alone and keeps it."""
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1:
        value = view.scalar(node.inputs[1])
        axes = None if value is None else (int(value),)
    return axes is not None and tuple(axes) == (-1,) and node.attributes.get("keepdims", 1) == 1  # type: ignore[arg-type]
