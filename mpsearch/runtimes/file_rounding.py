"""Rounding that an exported file states itself: its own codes and biases, whatever runtime takes it."""

from collections.abc import Mapping

import numpy as np
import onnx
import torch

from mpsearch.runtimes.rounding import EXACT, Rounding

RUNS_IN = "mpsearch.runs_in"
"""Key of a node's property: the 16-bit format that its operator runs in, products summed in fp32."""

Tensors = Mapping[str, onnx.TensorProto]
_BIAS = 2  # input of a convolution and of a Gemm
_ONNX = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
_TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}


def read_rounding(model: onnx.ModelProto) -> Rounding:
    """Return what ``model`` rounds otherwise than the simulation, as it says itself."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    codes = _byte_codes(model, tensors)
    biases = _whole_biases(model, tensors) | _half_biases(model, tensors)
    return Rounding(byte_codes=codes, biases=biases) if codes or biases else EXACT


def runs_in(node: onnx.NodeProto) -> str:
    """Return the 16-bit format that ``node`` is said to run in; "" where none is."""
    return next((prop.value for prop in node.metadata_props if prop.key == RUNS_IN), "")


def widen_products(model: onnx.ModelProto) -> bool:
    """Let operators that run in 16 bits sum their products in fp32, in place; return whether there are any."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        fmt = runs_in(node)
        if not fmt:
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            wide = f"{node.output[0]}/wide/{i}"
            nodes.append(onnx.helper.make_node("Cast", [name], [wide], wide, to=1))
            node.input[i] = wide
        output, wide = node.output[0], f"{node.output[0]}/wide"
        node.output[0] = wide
        back = onnx.helper.make_node("Cast", [wide], [output], f"{wide}/back", to=_ONNX[fmt])
        nodes += [node, back]
    is_any = len(nodes) > len(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return is_any


def _byte_codes(model: onnx.ModelProto, tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Value → lowest and highest code around its zero point, of those that use all codes of a byte."""
    clipped = {node.output[0] for node in model.graph.node if node.op_type == "Clip"}
    found = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        tensor = tensors.get(node.input[2]) if len(node.input) > 2 else None
        if tensor is not None and tensor.data_type == onnx.TensorProto.UINT8:
            zero = int(onnx.numpy_helper.to_array(tensor))
            found[node.input[0]] = (-zero, 255 - zero)
            continue
        kinds = [a.i for a in node.attribute if a.name == "output_dtype"]
        is_own = node.input[0].startswith("mpsearch/") and node.input[0] in clipped
        if onnx.TensorProto.INT8 in kinds and not is_own:
            found[node.input[0]] = (-128, 127)
    return found


def _whole_biases(model: onnx.ModelProto, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Convolution → its bias, of those that are stored as integers."""
    stored = {}
    for node in model.graph.node:
        codes = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if codes is not None and codes.data_type == onnx.TensorProto.INT32:
            values = onnx.numpy_helper.to_array(codes).astype(np.float32)
            stored[node.output[0]] = values * onnx.numpy_helper.to_array(tensors[node.input[1]])
    return {
        node.name: torch.from_numpy(stored[node.input[2]])
        for node in model.graph.node
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in stored
    }


def _half_biases(model: onnx.ModelProto, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Layer that runs in 16 bits → its bias, rounded to them."""
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    found = {}
    for node in model.graph.node:
        fmt = runs_in(node)
        name = casts.get(node.input[2], "") if fmt and len(node.input) > _BIAS else ""
        if name in tensors:
            bias = torch.from_numpy(onnx.numpy_helper.to_array(tensors[name]).astype(np.float32))
            found[node.name] = bias.to(_TORCH[fmt]).float()
    return found
