"""What the outputs of a model mean, read from its graph: class scores, probabilities or numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from mpsearch.data.batches import Batches
from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph, Node
from mpsearch.losses.custom import ACCURACY

if TYPE_CHECKING:
    from torch import Tensor

Meaning = Literal["logits", "probabilities", "log_probabilities", "odds", "chances", "numbers"]
"""Scores before a softmax; after it; its logarithm; scores before a sigmoid; after it; anything else."""

LOSSES = ("kl", "nll", "mse", "ctc", "ctc_last", "quality")
LABELLED = ("nll", "ctc", "ctc_last")
"""Losses against labels; ``ctc`` has its blank first, ``ctc_last`` last among the classes."""
WORST_SLICE = "worst_slice"
_FORWARDING = ("Identity", "Dropout", "Cast")
_RESHAPING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")
_CLASSIFYING = ("Gemm", "MatMul", "Einsum")
_POOLING = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "AveragePool", "Relu")


@dataclass(frozen=True, slots=True)
class Head:
    """One output that the loss reads.

    Attributes:
        output: Name of the output.
        value: Name of the value that is read: the output, or the scores that a softmax or sigmoid
            made it from.
        meaning: What the value holds.
        axis: Axis of the classes; 0 where there are none.
        batch_axis: Axis of the samples; None: the value is one sample's.
    """

    output: str
    value: str
    meaning: Meaning
    axis: int
    batch_axis: int | None = 0

    def samples_first(self, value: "Tensor") -> "Tensor":
        """Return ``value`` as [n, …]."""
        return value[None] if self.batch_axis is None else value.movedim(self.batch_axis, 0)

    def take(self, value: "Tensor", n: int) -> "Tensor":
        """Return the first ``n`` samples of ``value``, whose axes stay: what fills a batch up is cut off."""
        if self.batch_axis is None or value.shape[self.batch_axis] <= n:
            return value
        return value.narrow(self.batch_axis, 0, n)

    @property
    def is_class(self) -> bool:
        """Whether it scores classes that exclude each other."""
        return self.meaning in ("logits", "probabilities", "log_probabilities")

    @property
    def is_number(self) -> bool:
        """Whether it is a regression."""
        return self.meaning == "numbers"


def read_heads(graph: ModelGraph) -> tuple[Head, ...]:
    """Return what each floating-point output of ``graph`` means that its inputs change.

    A softmax, log-softmax or sigmoid at the end, possibly behind reshapes, makes probabilities. A last
    linear layer with two outputs or more, possibly pooled and with a bias, makes logits. Anything else is numbers.
    """
    producers = {name: node for node in graph.nodes for name in node.outputs if name}
    heads = []
    for value in graph.outputs:
        if value.name in graph.constants:  # a weight, say: the same for all samples and schemes
            continue
        known = graph.values.get(value.name, value)
        dtype = known.dtype or value.dtype or "float32"
        if not (dtype.startswith(("float", "bfloat"))):
            continue
        shape = known.shape if known.shape is not None else value.shape
        heads.append(_read_head(graph, producers, value.name, shape))
    return tuple(heads)


def _read_head(
    graph: ModelGraph,
    producers: Mapping[str, Node],
    output: str,
    shape: tuple[int | None, ...] | None,
) -> Head:
    name, direct = output, True
    while (node := producers.get(name)) is not None and node.op_type in _FORWARDING + _RESHAPING:
        direct = direct and node.op_type in _FORWARDING
        name = node.inputs[0]
    if node is not None and node.op_type in ("Softmax", "LogSoftmax"):
        axis = cast(int, node.attributes.get("axis", -1 if node.version >= 13 else 1))
        rank = len(shape) if shape is not None else 2
        flattens = node.version < 13 and axis not in (-1, rank - 1)
        if direct and not flattens:
            return Head(output, node.inputs[0], "logits", axis)
        meaning: Meaning = "probabilities" if node.op_type == "Softmax" else "log_probabilities"
        return Head(output, output, meaning, -1)
    if node is not None and node.op_type == "Sigmoid":
        if direct:
            return Head(output, node.inputs[0], "odds", 0)
        return Head(output, output, "chances", 0)
    rank = len(shape) if shape is not None else 0
    if rank in (2, 3) and _ends_in_linear(graph, producers, name):
        classes = shape[-1] if shape is not None else None
        if classes is None or classes > 1:
            return Head(output, output, "logits", -1)
    return Head(output, output, "numbers", 0)


def _ends_in_linear(graph: ModelGraph, producers: Mapping[str, Node], name: str) -> bool:
    """Whether ``name`` is a linear layer's output: with a bias, or pooled from a convolution."""
    with_weight = {layer.name for layer in graph.layers if layer.has_weight}
    node, pooled = producers.get(name), False
    while node is not None:
        if node.name in with_weight:
            return node.op_type in _CLASSIFYING or (pooled and node.op_type == "Conv")
        if node.op_type == "Add":
            moving = [i for i in node.inputs if i not in graph.constants]
            if len(moving) != 1:
                return False
            node = producers.get(moving[0])
        elif node.op_type in _POOLING + _FORWARDING + _RESHAPING:
            if node.op_type == "ReduceMean" and not _averages_images(graph, node):
                return False
            pooled = pooled or node.op_type in _POOLING
            node = producers.get(node.inputs[0])
        else:
            return False
    return False


def _averages_images(graph: ModelGraph, node: Node) -> bool:
    """Whether a mean runs over images, not over tokens."""
    source = graph.values.get(node.inputs[0])
    return source is not None and source.shape is not None and len(source.shape) == 4


@dataclass(frozen=True, slots=True)
class LossChoice:
    """A loss as it is asked for: ``[KIND][:worst_slice][:OUTPUT,OUTPUT]`` or ``quality:…:FUNCTION``.

    Attributes:
        kind: One of ``LOSSES``; "" is read from graph and data.
        outputs: Outputs that count; () takes all.
        worst_slice: Whether the mean is that of the slice of the data that fares worst.
        function: ``accuracy`` or ``module:function`` where the kind is ``quality``.
    """

    kind: str
    outputs: tuple[str, ...] = ()
    worst_slice: bool = False
    function: str = ""


def parse_loss(text: str | None) -> LossChoice:
    """Return what ``text`` asks for; None asks for nothing.

    Raises:
        DataError: The kind is unknown, or a quality names no function.
    """
    kind, _, rest = (text or "").partition(":")
    if kind and kind not in LOSSES:
        raise DataError(
            f"loss must be one of {', '.join(LOSSES)}, with :{WORST_SLICE} or :OUTPUT behind it; "
            f"got {text!r}"
        )
    first, _, behind = rest.partition(":")
    worst = first == WORST_SLICE
    rest = behind if worst else rest
    if kind == "quality":
        if not rest:
            raise DataError(f"loss quality must name accuracy or module:function, got {text!r}")
        return LossChoice(kind, (), worst, rest)
    return LossChoice(kind, tuple(rest.split(",")) if rest else (), worst)


def choose_heads(
    heads: tuple[Head, ...], loss: str | None, batches: Batches, graph: ModelGraph
) -> tuple[tuple[Head, ...], str]:
    """Return the heads that count and the kind of loss.

    Args:
        heads: All that the graph has.
        loss: What is asked for, as :func:`parse_loss` reads it. Where no kind is: ``nll`` with labels,
            else ``kl`` if any output scores classes or chances, else ``mse``. Of outputs that are numbers,
            states and caches do not count beside others; asked for by name, ``kl`` counts scores only.
        batches: The data; their labels and slices decide.
        graph: For messages.

    Raises:
        DataError: The loss is unknown, or does not fit outputs, labels or slices.
    """
    choice = parse_loss(loss)
    kind = choice.kind
    if choice.worst_slice and batches.slice is None:
        raise DataError(f"the data must hold an array 'slice' for {WORST_SLICE}, it has none")
    if kind == "quality" and choice.function != ACCURACY:
        return tuple(Head(v.name, v.name, "numbers", 0) for v in graph.outputs), kind
    if choice.outputs:
        unknown = [n for n in choice.outputs if n not in {head.output for head in heads}]
        if unknown:
            choices = ", ".join(head.output for head in heads)
            raise DataError(f"outputs of the loss must be of {choices}; got {unknown[0]!r}")
        heads = tuple(head for head in heads if head.output in choice.outputs)
    filled = tuple(head for head in heads if not _is_empty(head, graph))
    if not filled:
        named = ", ".join(repr(head.output) for head in heads)
        raise DataError(
            f"{graph.name} must have an output of floating-point numbers, "
            + (f"but {named} holds no elements" if heads else "it has none")
        )
    heads = filled
    scores = tuple(head for head in heads if not head.is_number)
    if not kind and not choice.outputs:
        heads = tuple(head for head in heads if not _is_state(head, graph)) or heads
    given = kind
    if not kind:
        kind = "nll" if batches.labels is not None else "kl" if scores else "mse"
    if kind in (*LABELLED, "quality"):
        if batches.labels is None:
            raise DataError(
                f"the data must hold an array 'labels' for the loss {kind}, it has none"
            )
        return _labelled(heads, batches), kind
    if kind == "mse":
        return tuple(Head(h.output, h.output, "numbers", 0) for h in heads), kind
    if not given:
        return heads, kind
    if not scores:  # asked for: scores of classes along the last axis
        scores = tuple(Head(h.output, h.output, "logits", -1) for h in heads)
    return scores, kind


def _is_empty(head: Head, graph: ModelGraph) -> bool:
    """Whether an output holds no elements, whatever the data: an empty split, a cache of length 0."""
    value = graph.values.get(head.output)
    return value is not None and value.shape is not None and 0 in value.shape


def _is_state(head: Head, graph: ModelGraph) -> bool:
    """Whether an output is a state or cache: numbers shaped as an input is, but for one axis that may grow."""
    shape = graph.values[head.output].shape if head.output in graph.values else None
    if not head.is_number or shape is None:
        return False
    for value in graph.inputs:
        if value.shape is None or len(value.shape) != len(shape) or len(shape) < 2:
            continue
        if not (value.dtype or "float32").startswith(("float", "bfloat")):
            continue
        if len(graph.inputs) > 1 and sum(map(_differ, value.shape, shape)) <= 1:
            return True
    return False


def _differ(left: int | None, right: int | None) -> bool:
    return left is not None and right is not None and left != right


def _labelled(heads: tuple[Head, ...], batches: Batches) -> tuple[Head, ...]:
    """The head that the labels speak of: classes for integers, numbers or chances for floats."""
    labels = batches.labels
    assert labels is not None
    if labels.dtype.kind not in "biuf":
        raise DataError(
            f"labels must be integers (classes) or floats (what to regress), got {labels.dtype}; "
            "use loss='kl' to go without them"
        )
    classes = [head for head in heads if head.is_class]
    chances = [head for head in heads if head.meaning in ("odds", "chances")]
    if labels.dtype.kind in "biu" and (classes or chances):
        return ((classes or chances)[0],)
    if labels.dtype.kind == "f" and chances:
        return (chances[0],)
    if labels.dtype.kind == "f":
        return (Head(heads[0].output, heads[0].output, "numbers", 0),)
    return (Head(heads[0].output, heads[0].output, "logits", -1),)


def find_mask(graph: ModelGraph, batches: Batches) -> str | None:
    """Return the input that masks positions of sequences, None where there is none.

    It is an integer or boolean input of shape [samples, positions] that holds only 0 and 1, both
    of them or all ones, and that looks nothing up: token types, which look the same, index a table.
    """
    indexing = {
        node.inputs[1]
        for node in graph.nodes
        if node.op_type in ("Gather", "GatherElements", "GatherND", "OneHot")
        for _ in (0,)
    }
    producers = {name: node for node in graph.nodes for name in node.outputs if name}
    looked_up = set()
    for name in indexing:
        while name in producers and producers[name].op_type in (*_FORWARDING, *_RESHAPING):
            name = producers[name].inputs[0]
        looked_up.add(name)
    for name, array in batches.arrays.items():
        if array.ndim != 2 or array.dtype.kind not in "biu" or name in looked_up:
            continue
        if array.shape[1] > 1 and bool(np.isin(array, (0, 1)).all()) and bool(array.any(1).all()):
            return name
    return None
