"""What lies around integer layers, so that onnxruntime's optimiser finds its kernels.

MatMul and Add would become a Gemm before the optimiser looks for integers, and so would Gemm and Sum, and a Gemm with
a Relu behind it a fused fp32 kernel: to a MatMul biases are added by Sum, and from a Gemm their opposites are
subtracted, both of which it leaves alone. A convolution's bias is stored in the units of its
products, and its output is rounded at the cut, before what moves it. Layers that compute in fp32 on codes are kept
from being taken for integer ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mpsearch.cost.executed.onnxruntime import Executed
from mpsearch.export.onnxruntime.operands import PACKED
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.read import walk_nodes

_INT32_LIMIT = 2**31 - 1
_MICROSOFT = "com.microsoft"
_FP32_ACCURACY = 1


def rewrite_layers(model: onnx.ModelProto, graph: ModelGraph, executed: Sequence[Executed]) -> None:
    """Rewrite ``model``, the encoded ``graph``, around its integer layers, in place.

    Args:
        model: Static int8 operands of integer layers are DequantizeLinear's results in it.
        graph: The folded model.
        executed: [L] how each layer runs.
    """
    own = {
        layer.name: how for layer, how in zip(graph.layers, executed, strict=True) if how.is_integer
    }
    layers = {layer.name for layer in graph.layers}
    made = {name: node for node in model.graph.node for name in node.output}
    rounders = {
        node.input[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"
    }
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    _multiply_packed(model, made)
    nodes: list[onnx.NodeProto] = []
    after: dict[str, list[onnx.NodeProto]] = {}
    held: set[str] = set()
    for node in model.graph.node:
        how = own.get(node.name)
        if how is None and node.name in layers:
            nodes += _hold(model, node, made, tensors, held)
        nodes.append(node)
        nodes += after.pop(node.output[0], [])
        if how is None:
            continue
        if node.op_type == "MatMul":
            for reader in readers.get(node.output[0], []):
                if reader.op_type == "Add":
                    reader.op_type = "Sum"
        elif node.op_type == "Gemm":
            nodes += _split_bias(model, node, tensors)
        else:
            bias = _encode_bias(model, node, made, tensors)
            nodes[-1:-1] = bias
            if how.cut != how.rounded:
                pair = _round_at(how.cut, rounders[how.rounded], readers[how.cut])
                if how.cut == node.output[0]:
                    nodes += pair
                else:
                    after[how.cut] = pair
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in walk_nodes(model.graph) for name in node.input}
    read.update(output.name for output in model.graph.output)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _multiply_packed(model: onnx.ModelProto, made: Mapping[str, onnx.NodeProto]) -> None:
    """Make products with weights in blocks of integers MatMulNBits, in place.

    Its accuracy level is fp32's: by default activations would be rounded to int8.
    """
    packed = {name: node for name, node in made.items() if node.op_type == PACKED}
    if not packed:
        return
    for node in walk_nodes(model.graph):
        weight = packed.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None:
            continue
        x, bias = node.input[0], list(node.input[2:3])
        del node.input[:], node.attribute[:]
        node.input.extend([x, *weight.input, *[""] * (4 - len(weight.input)), *bias])
        node.op_type, node.domain = "MatMulNBits", _MICROSOFT
        node.attribute.extend(weight.attribute)
        node.attribute.append(helper.make_attribute("accuracy_level", _FP32_ACCURACY))
    for node in packed.values():
        model.graph.node.remove(node)
    if _MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))


def _hold(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    made: Mapping[str, onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    held: set[str],
) -> list[onnx.NodeProto]:
    """Let an fp32 layer read codes through a Clip that changes nothing, and return what was not there yet.

    Between a DequantizeLinear and a QuantizeLinear, even behind an Add and a Relu, its weights would be rounded.
    """
    nodes = []
    for i, name in enumerate(node.input):
        source = made.get(name)
        if source is None or source.op_type != "DequantizeLinear" or len(source.input) < 3:
            continue
        value = f"mpsearch/{name}/held"
        node.input[i] = value
        if value in held:
            continue
        held.add(value)
        scale, zero = (numpy_helper.to_array(tensors[given]) for given in source.input[1:])
        limits = [f"{value}/lowest", f"{value}/highest"]
        for limit, code in zip(limits, (-1, 256), strict=True):  # one step beyond every code
            bound = np.float32((code - int(zero)) * float(scale))
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(bound), limit))
        nodes.append(helper.make_node("Clip", [name, *limits], [value], value))
    return nodes


def _split_bias(
    model: onnx.ModelProto, node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Take the bias off a Gemm, and return what subtracts its opposite."""
    if len(node.input) < 3 or not node.input[2]:
        return []
    output, product = node.output[0], f"mpsearch/{node.name}/product"
    opposite = f"mpsearch/{node.name}/opposite_of_bias"
    values = -numpy_helper.to_array(tensors[node.input[2]])
    model.graph.initializer.append(numpy_helper.from_array(values, opposite))
    del node.input[2:]
    node.output[0] = product
    added = helper.make_node("Sub", [product, opposite], [output], f"mpsearch/{node.name}/bias")
    added.metadata_props.extend(node.metadata_props)
    return [added]


def _encode_bias(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    made: Mapping[str, onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
) -> list[onnx.NodeProto]:
    """Store a convolution's bias as int32 in units of (activation step × weight step)."""
    if len(node.input) < 3 or not node.input[2]:
        return []
    left, right = (tensors[made[name].input[1]] for name in node.input[:2])
    bias: NDArray[np.float32] = numpy_helper.to_array(tensors[node.input[2]])
    steps = np.broadcast_to(
        numpy_helper.to_array(left) * numpy_helper.to_array(right), bias.shape
    ).astype(np.float32)
    codes = np.round(bias.astype(np.float64) / steps).clip(-_INT32_LIMIT, _INT32_LIMIT)
    prefix = f"{made[node.input[1]].name}/{node.name}/bias"
    model.graph.initializer.append(
        numpy_helper.from_array(codes.astype(np.int32), f"{prefix}/codes")
    )
    model.graph.initializer.append(numpy_helper.from_array(steps, f"{prefix}/scales"))
    node.input[2] = prefix
    inputs = [f"{prefix}/codes", f"{prefix}/scales"]
    return [helper.make_node("DequantizeLinear", inputs, [prefix], name=prefix, axis=0)]


def _round_at(
    cut: str, like: onnx.NodeProto, readers: Sequence[onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """Round ``cut`` as ``like`` does what is moved from it; its readers read the rounded value."""
    codes, value = f"mpsearch/{cut}/codes", f"mpsearch/{cut}/rounded"
    for reader in readers:
        for i, name in enumerate(reader.input):
            if name == cut:
                reader.input[i] = value
    scale = like.input[1:]
    return [
        helper.make_node("QuantizeLinear", [cut, *scale], [codes], name=codes),
        helper.make_node("DequantizeLinear", [codes, *scale], [value], name=value),
    ]
