"""What tells two measured kernels apart: operator, attributes, shapes of the operands, and what is fused behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpsearch.cost.executed.onnxruntime import find_readers
from mpsearch.graph.model import Layer, ModelGraph, Node

_KEPT = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "output_padding")
_TRANSPOSED = ("transA", "transB")


@dataclass(frozen=True, slots=True)
class KernelShape:
    """One layer as a runtime runs it alone.

    Attributes:
        op_type: ``Conv``, ``ConvTranspose``, ``MatMul`` or ``Gemm``.
        left: Shape of the activation.
        right: Shape of the weight, or of the second activation.
        has_weight: Whether ``right`` is a weight.
        attributes: (name, value) of those that the kernel's work depends on, by name.
        has_bias: Whether a bias is added: an input of the operator, or an Add behind a MatMul.
        has_relu: Whether a Relu alone reads the result.
        is_free: Whether the model leaves its first axis open, so that a runtime cannot plan for its size.
    """

    op_type: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    has_weight: bool = True
    attributes: tuple[tuple[str, object], ...] = ()
    has_bias: bool = False
    has_relu: bool = False
    is_free: bool = False

    @property
    def key(self) -> str:
        """The text that device files know it by."""
        shapes = ["x".join(map(str, shape)) for shape in (self.left, self.right)]
        said = [f"{name}={_said(value)}" for name, value in self.attributes]
        marks = [
            *([] if self.has_weight else ["activations"]),
            *(["bias"] if self.has_bias else []),
            *(["relu"] if self.has_relu else []),
            *(["free"] if self.is_free else []),
        ]
        return " ".join([self.op_type, *shapes, *said, *marks])


def find_kernel_shapes(graph: ModelGraph) -> tuple[KernelShape | None, ...]:
    """Return the kernel of each layer; None where it is no plain product, or a size is not known."""
    readers = find_readers(graph)
    nodes = {node.name: node for node in graph.nodes}
    return tuple(
        _kernel_shape(graph, layer, nodes[layer.name], readers) if layer.name in nodes else None
        for layer in graph.layers
    )


def _kernel_shape(
    graph: ModelGraph, layer: Layer, node: Node, readers: Mapping[str, Sequence[Node]]
) -> KernelShape | None:
    if len(layer.gemms) != 1 or node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return None
    gemm = layer.gemms[0]
    left = find_sizes(graph, gemm.left.value)
    right = find_sizes(graph, gemm.right.value)
    if node.domain not in ("", "ai.onnx") or left is None or right is None:
        return None
    kept = (*_KEPT, *_TRANSPOSED)
    attributes = tuple(
        (name, value) for name, value in sorted(node.attributes.items()) if name in kept and value
    )
    has_bias = node.op_type != "MatMul" and len(node.inputs) > 2 and bool(node.inputs[2])
    output = node.outputs[0]
    reading = readers.get(output, ())
    if node.op_type == "MatMul" and len(reading) == 1 and adds_bias(graph, reading[0], output):
        has_bias, output = True, reading[0].outputs[0]
        reading = readers.get(output, ())
    has_relu = len(reading) == 1 and reading[0].op_type == "Relu"
    is_free = any(value.shape and value.shape[0] is None for value in graph.inputs)
    return KernelShape(
        node.op_type, left, right, gemm.has_weight, attributes, has_bias, has_relu, is_free
    )


def adds_bias(graph: ModelGraph, node: Node, value: str) -> bool:
    """Whether ``node`` adds a constant vector to ``value``."""
    if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
        return False
    other = [name for name in node.inputs if name != value]
    return len(other) == 1 and other[0] in graph.constants and graph.constants[other[0]].ndim == 1


def find_sizes(graph: ModelGraph, value: str) -> tuple[int, ...] | None:
    """Return the sizes of an fp32 value; None where one is not known."""
    if value in graph.constants:
        return tuple(graph.constants[value].shape)
    known = graph.values.get(value)
    if known is None or known.shape is None or known.dtype != "float32":
        return None
    sizes = tuple(size for size in known.shape if size is not None)
    return sizes if len(sizes) == len(known.shape) else None


def _said(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
