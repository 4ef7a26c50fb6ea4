"""Where a change of basis of a layer's input can be undone before it: what equivalent transforms rest on.

A value that only weighted products read may be divided, channel by channel, if whatever makes it can take the factors into
its own constants: a norm's gain and shift, the columns of the product before, through what is homogeneous or only moves
elements. The model computes the same; what is rounded is easier to round.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from mpsearch.graph.layers.traversal import all_nodes
from mpsearch.graph.model import Layer, ModelGraph, Node

Axes = tuple[int, ...]
"""Axes of a value that together, the last one fastest, number its channels."""

_NORMS = {  # inputs that hold gain and shift
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
_HOMOGENEOUS = frozenset({"LeakyRelu", "Relu"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
_SAME = frozenset({"Cast", "Dropout", "Identity"})
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class Part:
    """A constant that takes the factors, and its axis that channels run along."""

    constant: str
    axis: int


@dataclass(frozen=True, slots=True)
class Fold:
    """One value whose channels may change their basis.

    Attributes:
        value: What is read.
        axis: Its axis of channels.
        channels: How many.
        readers: (layer, product) of all that read it; their weights take the inverse.
        parts: Constants that take the factors.
        is_linear: Whether any basis will do, and not factors alone.
        block: Channels that a change of basis may mix: those of one attention head.
    """

    value: str
    axis: int
    channels: int
    readers: tuple[tuple[int, int], ...]
    parts: tuple[Part, ...]
    is_linear: bool
    block: int


def find_folds(graph: ModelGraph) -> tuple[Fold, ...]:
    """Return the values of ``graph`` whose channels may change their basis, in schedule order."""
    walk = _Walk(graph)
    values = dict.fromkeys(
        gemm.left.value
        for layer in graph.layers
        for gemm in layer.gemms
        if gemm.has_weight and gemm.left.input_index >= 0
    )
    found = (walk.fold(value) for value in values if value)
    return tuple(fold for fold in found if fold is not None)


@dataclass(slots=True)
class _Path:
    """What a walk has found so far."""

    parts: list[Part] = field(default_factory=list)
    is_linear: bool = True
    block: int = 0


class _Walk:
    """The graph as walks before a value see it."""

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        nodes = list(all_nodes(graph.nodes))
        self.made_by = {name: node for node in graph.nodes for name in node.outputs if name}
        self.uses = Counter(name for node in nodes for name in node.inputs if name)
        self.uses.update(value.name for value in graph.outputs)
        self.readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)
        self.layers = {layer.name: i for i, layer in enumerate(graph.layers)}

    def fold(self, value: str) -> Fold | None:
        """The fold of ``value``; None where something else reads it or nothing takes the factors."""
        rank, readers = self.rank(value), []
        if rank is None or any(out.name == value for out in self.graph.outputs):
            return None
        axes, channels = set[int](), set[int]()
        for node in self.readers.get(value, ()):
            at = self.layers.get(node.name, -1)
            layer = self.graph.layers[at] if at >= 0 else None
            if layer is None or layer.op_type not in ("Conv", "Gemm", "MatMul"):
                return None
            gemm = layer.gemms[0]
            reads_it_twice = list(node.inputs).count(value) > 1
            if not gemm.has_weight or gemm.left.value != value or reads_it_twice:
                return None
            if self.uses[gemm.right.value] > 1:
                return None
            axes.add(gemm.left.reduction_axis % rank)
            channels.add(gemm.k // gemm.positions * gemm.groups)
            readers.append((at, 0))
        if len(axes) != 1 or len(channels) != 1:
            return None
        (axis,), (count,) = axes, channels
        path = _Path()
        if count < 1 or not self.absorb(value, (axis,), path):
            return None
        return Fold(
            value,
            axis,
            count,
            tuple(readers),
            tuple(path.parts),
            path.is_linear,
            path.block or count,
        )

    def absorb(self, value: str, axes: Axes, path: _Path, *, inner: bool = False) -> bool:
        """Add what takes the factors of ``value`` to ``path``; False where nothing can."""
        node = self.made_by.get(value)
        if node is None or (inner and self.uses[value] != 1):
            return False
        rank = self.rank(value)
        if rank is None:
            return False
        if node.name in self.layers:
            return self.absorb_layer(self.graph.layers[self.layers[node.name]], node, axes, path)
        op, last = node.op_type, axes == (rank - 1,)
        if op in _NORMS and last and value == node.outputs[0]:
            if node.attributes.get("axis", -1) not in (-1, rank - 1):
                return False
            path.is_linear = False
            names = [node.inputs[i] for i in _NORMS[op] if i < len(node.inputs) and node.inputs[i]]
            return all(self.take(name, value, axes, path) for name in names)
        if op in _HOMOGENEOUS or (op in _POOLS and axes == (1,)):
            path.is_linear = path.is_linear and op in ("AveragePool", "GlobalAveragePool")
            return self.absorb(node.inputs[0], axes, path, inner=True)
        if op in _SAME:
            return self.absorb(node.inputs[0], axes, path, inner=True)
        if op == "Transpose":
            given = node.attributes.get("perm")
            perm = [int(i) for i in given] if isinstance(given, Sequence) else [*range(rank)][::-1]
            return self.absorb(node.inputs[0], tuple(perm[a] for a in axes), path, inner=True)
        if op in _RESHAPES:
            before = self.reshaped(node.inputs[0], value, axes)
            return before is not None and self.absorb(node.inputs[0], before, path, inner=True)
        if op == "Mul":
            return self.absorb_product(node, axes, path)
        if op in ("Add", "Sub") and len(node.inputs) == 2:
            return all(
                self.take(name, value, axes, path)
                if name in self.graph.constants
                else self.absorb(name, axes, path, inner=True)
                for name in node.inputs
            )
        return False

    def absorb_layer(self, layer: Layer, node: Node, axes: Axes, path: _Path) -> bool:
        """Factors go into the columns of the weight and the bias, or on to the values that attention weighs."""
        rank, gemm = self.rank(layer.output), layer.gemms[0]
        if rank is None or layer.op_type not in ("Conv", "Gemm", "MatMul"):
            return False
        if not gemm.has_weight:  # probabilities · values: each head's channels stay its own
            if layer.op_type != "MatMul" or axes[-1] != rank - 1 or rank - 2 in axes:
                return False
            size = self.size(layer.output, rank - 1)
            if size is None or self.rank(node.inputs[1]) != rank:
                return False
            path.block = size
            return self.absorb(node.inputs[1], axes, path, inner=True)
        expected = (1,) if layer.op_type == "Conv" else (rank - 1,)
        if axes != expected or gemm.right.input_index != 1 or len(gemm.right.channel_axes) != 1:
            return False
        if self.uses[gemm.right.value] > 1:
            return False
        path.parts.append(Part(gemm.right.value, gemm.right.channel_axes[0]))
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        if not bias:
            return True
        shape = self.shape_of_constant(bias)
        if shape is None or not shape or shape[-1] != gemm.n or self.uses[bias] > 1:
            return False
        path.parts.append(Part(bias, len(shape) - 1))
        return True

    def absorb_product(self, node: Node, axes: Axes, path: _Path) -> bool:
        """Either factor of a product may take them; a constant of the right size first."""
        path.is_linear = False
        constants = [name for name in node.inputs if name in self.graph.constants]
        others = [name for name in node.inputs if name not in self.graph.constants]
        if any(self.take(name, node.outputs[0], axes, path) for name in constants):
            return True
        for name in others:
            if self.size_at(name, axes) != self.size_at(node.outputs[0], axes):
                continue
            tried = _Path(list(path.parts), path.is_linear, path.block)
            if self.absorb(name, axes, tried, inner=True):
                path.parts, path.is_linear, path.block = tried.parts, False, tried.block
                return True
        return False

    def take(self, name: str, value: str, axes: Axes, path: _Path) -> bool:
        """Let the constant ``name``, which is broadcast to ``value``, take the factors."""
        shape, rank = self.shape_of_constant(name), self.rank(value)
        if shape is None or rank is None or len(axes) != 1 or self.uses[name] > 1:
            return False
        axis = axes[0] - (rank - len(shape))
        if axis < 0 or shape[axis] != self.size(value, axes[0]):
            return False
        path.parts.append(Part(name, axis))
        return True

    def reshaped(self, before: str, after: str, axes: Axes) -> Axes | None:
        """The axes of ``before`` that a reshape to ``after`` makes ``axes`` of."""
        first, last = axes[0], axes[-1]
        if axes != tuple(range(first, last + 1)):
            return None
        rank, old = self.rank(after), self.rank(before)
        if rank is None or old is None:
            return None
        sizes = [self.size(after, a) for a in range(first, rank)]
        own = [self.size(before, a) for a in range(old)]
        if None in sizes:
            return None
        wanted = prod(s for s in sizes[: len(axes)] if s is not None)
        behind = prod(s for s in sizes[len(axes) :] if s is not None)
        total, stop = 1, old
        while total < behind and stop > 0 and (size := own[stop - 1]) is not None:
            total, stop = total * size, stop - 1
        if total != behind:
            return None
        total, start = 1, stop
        while total < wanted and start > 0 and (size := own[start - 1]) is not None:
            total, start = total * size, start - 1
        return tuple(range(start, stop)) if total == wanted and start < stop else None

    def rank(self, value: str) -> int | None:
        """Rank of a value, None where it is unknown."""
        known = self.graph.values.get(value)
        return len(known.shape) if known is not None and known.shape is not None else None

    def size(self, value: str, axis: int) -> int | None:
        """Size of a value along an axis, None where it is unknown."""
        known = self.graph.values.get(value)
        return known.shape[axis] if known is not None and known.shape is not None else None

    def size_at(self, value: str, axes: Axes) -> tuple[int | None, ...] | None:
        """Sizes of a value along axes, None where it has other axes."""
        rank = self.rank(value)
        if rank is None or max(axes) >= rank:
            return None
        return (rank, *(self.size(value, a) for a in axes))

    def shape_of_constant(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant, None where it is none."""
        known: Mapping[str, NDArray[np.generic]] = self.graph.constants
        return known[name].shape if name in known else None
