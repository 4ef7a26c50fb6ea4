"""A plan as ``model.onnx`` with AIMET's encodings 2.0.0 beside it: what Qualcomm's converters quantise by.

Weights stay in floating point, at the values that their codes stand for, so that rounding by the encoding gives these codes
again. What a layer reads is an Identity of its own, since an encoding speaks of a tensor and not of who reads it.
Source of the format: aimet_onnx, ``AffineEncoding`` (``_to_2_0_0``): x = (code - y_zero_point) * y_scale.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mpsearch.errors import PlanError
from mpsearch.export.onnx.write_model import write_model
from mpsearch.export.planned import PlannedWeights
from mpsearch.graph.model import Layer, ModelGraph, Operand
from mpsearch.graph.onnx_file.read import walk_nodes
from mpsearch.graph.onnx_file.write import to_onnx
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.changes import output_channel_axis
from mpsearch.space.stored import weight_key

VERSION = "2.0.0"


def export(plan: Plan, graph: ModelGraph, weights: PlannedWeights, folder: Path) -> list[Path]:
    """Write ``model.onnx`` and ``model.encodings`` into ``folder`` and return the files written.

    Raises:
        PlanError: The plan does not fit, or an activation has no calibrated range.
    """
    model = to_onnx(graph)
    names = {i.name for i in (*model.graph.input, *model.graph.initializer, *model.graph.output)}
    for node in walk_nodes(model.graph):
        names.update((node.name, *node.output))
    layers = {layer.name: i for i, layer in enumerate(graph.layers)}
    schemes = plan_schemes(plan, graph)
    encodings: dict[str, dict[str, Any]] = {}
    made: dict[object, str] = {}

    def fresh(wanted: str) -> str:
        name, n = wanted, 1
        while name in names:
            name, n = f"{wanted}.{n}", n + 1
        names.add(name)
        return name

    def read(layer: Layer, value: str, spec: Spec) -> Iterator[onnx.NodeProto]:
        if (value, spec) in made:
            return
        found = plan.find_range(value, spec)
        if found is None:
            raise PlanError(f"{layer.name!r}: {value!r} must have a calibrated range, but has none")
        made[value, spec] = name = fresh(f"mpsearch/{value}/{spec.format}")
        encodings[name] = encode_activation(spec, found)
        yield helper.make_node("Identity", [value], [name], name)

    def write_weight(weight: QuantizedTensor, operand: Operand, name: str) -> str:
        own = graph.constants[operand.value].dtype  # 16 bits leave int8 codes as they are
        values = weight.dequantize().cpu().numpy().astype(own)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        if not weight.spec.is_cast:
            encodings[name] = encode_weight(weight)
        return name

    def encoded(node: onnx.NodeProto, index: int, scheme: Scheme) -> Iterator[onnx.NodeProto]:
        layer = graph.layers[index]
        for number, gemm in enumerate(layer.gemms):
            for operand, is_weight in ((gemm.left, False), (gemm.right, gemm.has_weight)):
                if is_weight and not (scheme.weight.is_cast and scheme.sparsity is None):
                    key = weight_key(operand, scheme, weights.owners.get((index, number), -1))
                    if key not in made:
                        name = fresh(f"mpsearch/{layer.name}/{operand.value}")
                        made[key] = write_weight(weights(index, number, scheme), operand, name)
                    node.input[operand.input_index] = made[key]
                elif not is_weight and not scheme.activation.is_cast:
                    yield from read(layer, operand.value, scheme.activation)
                    node.input[operand.input_index] = made[operand.value, scheme.activation]
        bias = weights.changes.biases.get(index)
        if bias is None:
            yield node
            return
        shape = [bias.numel(), *[1] * (-(output_channel_axis(layer) or -1) - 1)]
        name = fresh(f"mpsearch/{layer.name}/bias")
        values = bias.float().cpu().numpy().reshape(shape)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
        output, node.output[0] = node.output[0], fresh(f"{node.output[0]}/raw")
        yield node
        yield helper.make_node("Add", [node.output[0], name], [output], f"{name}/Add")

    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        index = layers.get(node.name)
        nodes += [node] if index is None else encoded(node, index, schemes[index])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unread(model)
    path = folder / "model.encodings"
    entries = [{"name": name, **encoding} for name, encoding in encodings.items()]
    path.write_text(json.dumps({"version": VERSION, "encodings": entries}, indent=1) + "\n")
    return [*write_model(model, folder), path]


def encode_weight(weight: QuantizedTensor) -> dict[str, Any]:
    """Return the encoding of an integer weight: its scales along the axes of its own shape."""
    spec, layout = weight.spec, weight.layout
    assert weight.scales is not None  # an integer
    scales = np.where(weight.scales.numpy() == 0, 1.0, weight.scales.numpy())[:, 0, :]
    zeros = None if weight.zeros is None else weight.zeros.numpy()[:, 0, :].astype(np.int64)
    found: dict[str, Any] = {"output_dtype": spec.format}
    if spec.granularity == "tensor":
        arrange, place = (lambda x: x.reshape(()), {})
    elif spec.block_shape is None:
        arrange, place = (lambda x: x.reshape(-1), {"axis": layout.row_axis})
    else:
        axis = 1 - (layout.row_axis or 0)  # of a matrix, where the reduction runs
        arrange = (lambda x: x) if axis == 1 else (lambda x: x.T)
        place = {"axis": axis, "block_size": spec.block_shape[1]}
    found["y_scale"] = arrange(scales).tolist()
    if zeros is not None:
        found["y_zero_point"] = arrange(zeros).tolist()
    return found | place


def encode_activation(spec: Spec, found: Range) -> dict[str, Any]:
    """Return the encoding of an integer activation of a calibrated range."""
    encoding: dict[str, Any] = {"output_dtype": spec.format, "y_scale": found.scale or 1.0}
    if not spec.symmetric:
        encoding["y_zero_point"] = found.zero_point
    return encoding


def _drop_unread(model: onnx.ModelProto) -> None:
    """Drop the initialisers that nothing reads any more."""
    read = {name for node in walk_nodes(model.graph) for name in node.input}
    read.update(output.name for output in model.graph.output)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
