"""What onnxruntime runs on a CPU for (graph, assignment): integer kernels, or fp32 ones between roundings.

A matrix product of two int8 operands runs on integers and gives floats, or codes where int8 layers alone read it, perhaps
moved. A convolution runs on integers only where its output is rounded to 8 bits too (QLinearConv), that is, where int8 layers
alone read it: through Relu, which the rounding to unsigned codes takes over, and through operators that move values or choose
among them. Any other int8 convolution computes in fp32 between roundings, whatever the file says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpsearch.graph.model import Layer, ModelGraph, Node
from mpsearch.schemes import Scheme, Spec

_MOVES = frozenset(
    {
        "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Identity",
        "Clip",
    }
)  # fmt: skip
"""Operators that move, choose or limit elements: rounding before and behind them is rounding behind them."""
_PACKED_BITS, _LEAST_BLOCK = (4, 8), 16  # of MatMulNBits, whose blocks are powers of two
_POSITIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt"})
_KEEPS_SIGN = _MOVES | {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"}


@dataclass(frozen=True, slots=True)
class Executed:
    """How one layer runs.

    Attributes:
        is_integer: On integer kernels; else in fp32, between roundings where its scheme asks for them.
        rounded: The value whose 8-bit codes the kernel gives (its readers' input); "" where it gives floats.
        cut: Where the rounding is put so that the kernel takes it over: ``rounded``, or a value before the
            operators that move it.
        joined: The result of the first Concat between ``cut`` and ``rounded``; "" where there is none.
        keeps_relu: Whether a Relu between them is not part of the rounding: other branches may be negative.
    """

    is_integer: bool
    rounded: str = ""
    cut: str = ""
    joined: str = ""
    keeps_relu: bool = False


FLOAT = Executed(False)


def is_static_int8(scheme: Scheme) -> bool:
    """Whether weights and activations are 8-bit integers around zero, activations with one static scale."""
    weight = scheme.weight
    return (
        is_static_int8_activation(scheme.activation)
        and weight.element.kind == "int"
        and weight.element.bits == 8
        and weight.symmetric
        and weight.granularity in ("tensor", "channel")
    )


def is_static_int8_activation(spec: Spec) -> bool:
    """Whether ``spec`` rounds to 8-bit integers around zero with one static scale."""
    is_byte = spec.element.kind == "int" and spec.element.bits == 8
    return is_byte and spec.symmetric and spec.granularity == "tensor" and spec.range == "static"


@dataclass(frozen=True, slots=True)
class GraphView:
    """A graph with what is asked of it again and again.

    Attributes:
        graph: Itself.
        nodes: Name → node, of the outer graph.
        readers: Value → the nodes of the outer graph that read it.
        producers: Value → the node that gives it.
        own: Layer's name → its index.
        outputs: Names of the graph's outputs.
    """

    graph: ModelGraph
    nodes: Mapping[str, Node]
    readers: Mapping[str, Sequence[Node]]
    producers: Mapping[str, Node]
    own: Mapping[str, int]
    outputs: frozenset[str]

    def step(self, value: str) -> str:
        """Return what a rounding of ``value`` may be put behind as well as before; "" if it may not be moved."""
        reading = self.readers.get(value, ())
        if value in self.outputs or len(reading) != 1 or reading[0].domain not in ("", "ai.onnx"):
            return ""
        node = reading[0]
        return node.outputs[0] if node.op_type == "Relu" or _only_moves(node, value) else ""

    def reached(self, value: str) -> tuple[str, ...]:
        """Return the names of the layers that read ``value``, perhaps moved."""
        while following := self.step(value):
            value = following
        return tuple(node.name for node in self.readers.get(value, ()) if node.name in self.own)


def view_graph(graph: ModelGraph) -> GraphView:
    """Return ``graph`` with its nodes, readers and producers by name."""
    return GraphView(
        graph,
        {node.name: node for node in graph.nodes},
        find_readers(graph),
        {name: node for node in graph.nodes for name in node.outputs},
        {layer.name: i for i, layer in enumerate(graph.layers)},
        frozenset(value.name for value in graph.outputs),
    )


def reads_codes(view: GraphView, index: int, scheme: Scheme) -> bool:
    """Whether layer ``index`` reads 8-bit codes that stand in the model, as its own kernel's or rounded by another's.

    Any other layer rounds in fp32: a QuantizeLinear before it and behind it would have its weights rounded too.
    """
    layer = view.graph.layers[index]
    node = view.nodes.get(layer.name)
    if node is None or not is_static_int8_activation(scheme.activation):
        return False
    is_conv = node.op_type == "Conv" and node.domain in ("", "ai.onnx")
    return is_conv or (is_static_int8(scheme) and _has_kernel(view.graph, layer, node))


def takes_blocks(view: GraphView, index: int, scheme: Scheme) -> bool:
    """Whether MatMulNBits multiplies layer ``index``: a product with a weight of 4 or 8-bit integers in blocks."""
    layer, spec = view.graph.layers[index], scheme.weight
    node = view.nodes.get(layer.name)
    if node is None or spec.element.kind != "int" or spec.element.bits not in _PACKED_BITS:
        return False
    tall, wide = spec.block_shape or (0, 0)
    if tall != 1 or wide < _LEAST_BLOCK or wide & (wide - 1) or not scheme.activation.is_cast:
        return False
    if node.op_type not in ("MatMul", "Gemm") or not _has_kernel(view.graph, layer, node):
        return False
    bias = view.graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    return bias is None or bias.shape == (layer.gemms[0].n,)


def executed_layers(
    view: GraphView, schemes: Sequence[Scheme], *, base: str = "fp32"
) -> tuple[Executed, ...]:
    """Return how onnxruntime runs each layer.

    Args:
        view: The folded model.
        schemes: [L] scheme of each layer.
        base: Format that layers' outputs are rounded to; only in fp32 do convolutions run on integers.
    """
    found = []
    for layer, scheme in zip(view.graph.layers, schemes, strict=True):
        node = view.nodes.get(layer.name)
        if node is None or not is_static_int8(scheme) or not _has_kernel(view.graph, layer, node):
            found.append(FLOAT)
        elif node.op_type == "MatMul":
            found.append(Executed(True, _rounded_product(view, layer, schemes)))
        elif node.op_type != "Conv":
            found.append(Executed(True))
        else:
            found.append(_conv(view, layer, schemes) if base == "fp32" else FLOAT)
    return tuple(found)


def find_readers(graph: ModelGraph) -> Mapping[str, Sequence[Node]]:
    """Return value → the nodes of the outer graph that read it."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(node.inputs):
            readers.setdefault(name, []).append(node)
    return readers


def never_negative(view: GraphView, value: str) -> bool:
    """Whether ``value`` is known to hold no negative number, whatever the input."""
    waiting, seen = [value], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = view.producers.get(name)
        if node is None or node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type in _POSITIVE or _clips_at_zero(view.graph, node):
            continue
        if node.op_type not in _KEEPS_SIGN:
            return False
        waiting += node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return True


def _clips_at_zero(graph: ModelGraph, node: Node) -> bool:
    if node.op_type != "Clip":
        return False
    lowest = node.attributes.get("min")
    if lowest is None and len(node.inputs) > 1:
        lowest = graph.constants.get(node.inputs[1])
    return lowest is not None and float(np.asarray(lowest).min(initial=0.0)) >= 0


def _has_kernel(graph: ModelGraph, layer: Layer, node: Node) -> bool:
    """Whether an integer kernel takes the operator with these operands."""
    value = graph.values.get(layer.output)
    if node.domain not in ("", "ai.onnx") or value is None or value.dtype != "float32":
        return False
    gemm = layer.gemms[0]
    if len(layer.gemms) != 1 or gemm.left.input_index < 0:
        return False
    if not gemm.has_weight:
        return node.op_type == "MatMul" and gemm.left.value != gemm.right.value
    weight = graph.constants.get(gemm.right.value)
    if weight is None or len(gemm.right.channel_axes) != 1:
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    constant_bias = not bias or bias in graph.constants
    if node.op_type == "MatMul":
        return weight.ndim == 2 and gemm.right.input_index == 1
    if node.op_type == "Gemm":
        plain = all(node.attributes.get(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        return (
            plain
            and constant_bias
            and gemm.right.input_index == 1
            and not node.attributes.get("transA", 0)
        )
    return node.op_type == "Conv" and constant_bias


def _rounded_product(view: GraphView, layer: Layer, schemes: Sequence[Scheme]) -> str:
    """The value, moved from a matrix product, whose rounding the product's kernel takes over; "" where there is none."""
    value = layer.output
    while value and value not in view.outputs:
        reading = view.readers.get(value, ())
        if reading and _round_alike(view, reading, value, schemes):
            return value
        following = view.step(value)
        if not following or reading[0].op_type in ("Relu", "Concat"):
            break
        value = following
    return ""


def _conv(view: GraphView, layer: Layer, schemes: Sequence[Scheme]) -> Executed:
    value, after_relu, joined, is_moved = layer.output, "", "", False
    while value and value not in view.outputs:
        reading = view.readers.get(value, ())
        if reading and _round_alike(view, reading, value, schemes):
            takes_relu = after_relu and never_negative(view, value)
            cut = after_relu if takes_relu else layer.output
            return Executed(True, value, cut, joined, bool(after_relu) and not takes_relu)
        following = view.step(value)
        if following and reading[0].op_type == "Relu":
            if after_relu or is_moved:
                break
            after_relu = following
        else:
            is_moved = True
            joined = joined or (following if reading[0].op_type == "Concat" else "")
        value = following
    return FLOAT


def _only_moves(node: Node, value: str) -> bool:
    """Whether all that ``node`` makes of ``value`` is some of its elements in one output."""
    if node.op_type not in _MOVES or any(node.outputs[1:]):
        return False
    return node.op_type == "Concat" or node.inputs[0] == value


def _round_alike(
    view: GraphView, reading: Sequence[Node], value: str, schemes: Sequence[Scheme]
) -> bool:
    """Whether all of ``reading`` are layers that read ``value`` in one static int8 spec and nothing else."""
    specs = set()
    for node in reading:
        index = view.own.get(node.name)
        if index is None or not reads_codes(view, index, schemes[index]):
            return False
        specs.add(schemes[index].activation)
        operands = {
            operand.input_index
            for gemm in view.graph.layers[index].gemms
            for operand in ((gemm.left,) if gemm.has_weight else (gemm.left, gemm.right))
        }
        if any(i not in operands for i, name in enumerate(node.inputs) if name == value):
            return False
    return len(specs) == 1
