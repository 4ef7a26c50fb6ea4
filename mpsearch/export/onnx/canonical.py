"""The canonical ONNX model of a plan: every rounding of the simulation, in operators that say what it is.

Weights become typed initialisers with DequantizeLinear, activations quantise/dequantise pairs, and each
layer's output passes through the base format. The rest of the graph is the folded one; values keep their
names, so that any layer's inputs and output can be read under the names of the user's model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from mpsearch._version import __version__
from mpsearch.errors import PlanError
from mpsearch.export.onnx.builder import Writer
from mpsearch.export.onnx.can_write import can_write
from mpsearch.export.onnx.encode_activation import Activation, encode_activation, encode_cast
from mpsearch.export.onnx.encode_weight import encode_weight
from mpsearch.export.onnx.functions import make_function
from mpsearch.export.onnx.opset import upgrade_model
from mpsearch.export.onnx.ranks import find_rank
from mpsearch.graph.model import Gemm, Layer, ModelGraph, Operand
from mpsearch.graph.onnx_file.read import walk_nodes
from mpsearch.graph.onnx_file.write import to_onnx
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.program.tensors import to_array
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.changes import Changes, Product, output_channel_axis
from mpsearch.space.stored import find_kept, keeps_type, weight_key


class Weights(Protocol):
    """Gives the weights of a plan's model, and what it changes beside them."""

    @property
    def changes(self) -> Changes:
        """Weights that are not the model's own, and biases that are added to outputs before these are rounded."""

    @property
    def owners(self) -> Mapping[Product, int]:
        """(layer, product) of changed weights to the first layer that stores the same of the same tensor."""

    def __call__(self, layer: int, gemm: int, scheme: Scheme, /) -> QuantizedTensor:
        """Return the weight of a layer's product as ``scheme`` stores it."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a target writes operands; the canonical way unless it says otherwise.

    Attributes:
        weight: Appends a weight and what dequantises it: (writer, weight, whether its layer is in
            ``own_weights``) to the fp32 value's name.
        activation: Appends what rounds an activation: (writer, activation, spec, calibrated range, whether its
            reader is in ``own_activations``) to the rounded value's name.
        own_weights: Indices of layers whose weights are written in a way of their own.
        own_activations: Indices of layers whose activations are.
    """

    weight: Callable[[Writer, QuantizedTensor, bool], str] = lambda writer, weight, _: (
        encode_weight(writer, weight)
    )
    activation: Callable[[Writer, Activation, Spec, Range | None, bool], str] = (
        lambda writer, activation, spec, found, _: encode_activation(
            writer, activation, spec, found
        )
    )
    own_weights: frozenset[int] = frozenset()
    own_activations: frozenset[int] = frozenset()


CANONICAL = Encoding()
OPSET = 23
_MX_OPSET = 24


@dataclass(slots=True)
class _Build:
    """What has been encoded so far, so that nothing is encoded twice.

    Attributes:
        twins: Weight to a constant that is read elsewhere and is the same, or the same transposed.
        encoded: Activations that can be read where the encoding has come to.
        weights_encoded: Weights, which can be read everywhere.
        depth: Subgraphs around the node that is being encoded.
        in_front: What dequantises weights that a subgraph read first.
    """

    plan: Plan
    graph: ModelGraph
    weights: Weights
    encoding: Encoding
    opset: int
    taken: set[str]
    twins: Mapping[str, str]
    encoded: dict[object, str] = field(default_factory=dict)
    weights_encoded: dict[object, str] = field(default_factory=dict)
    depth: int = 0
    in_front: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)


def build_canonical(
    plan: Plan, graph: ModelGraph, weights: Weights, encoding: Encoding = CANONICAL
) -> onnx.ModelProto:
    """Return the canonical model of ``plan``: opset 23, or 24 where there are MX formats.

    Args:
        plan: Made for ``graph``.
        graph: The folded model.
        weights: Gives the simulation's own weights.
        encoding: How operands are written.

    Raises:
        PlanError: The plan is for another model, or ONNX cannot say what one of its schemes does.
    """
    schemes = plan_schemes(plan, graph)
    for layer, scheme in zip(graph.layers, schemes, strict=True):
        if reason := can_write(graph, layer, scheme):
            raise PlanError(reason)
    opset = _MX_OPSET if any(map(_needs_mx, schemes)) else OPSET
    source = to_onnx(graph)
    own = {t.name: t for t in source.graph.initializer}
    quantised = {
        gemm.right.value for layer in graph.layers for gemm in layer.gemms if gemm.has_weight
    } & own.keys()
    model = upgrade_model(source, opset, quantised)
    build = _Build(
        plan, graph, weights, encoding, opset, _names(source.graph), find_kept(graph).twins
    )
    layers = {layer.name: i for i, layer in enumerate(graph.layers)}
    nodes = _encode_nodes(build, model.graph.node, layers, schemes)
    del model.graph.node[:]
    model.graph.node.extend([*build.in_front, *nodes])
    still_read = {name for node in walk_nodes(model.graph) for name in node.input}
    still_read.update(output.name for output in model.graph.output)
    model.graph.initializer.extend(own[name] for name in sorted(quantised & still_read))
    model.graph.initializer.extend(build.tensors)
    return _finish(model, build)


def _finish(model: onnx.ModelProto, build: _Build) -> onnx.ModelProto:
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    functions = [make_function(name, version) for name in sorted(build.functions)]
    model.functions.extend(functions)
    imported = {o.domain for o in model.opset_import}
    for domain in sorted({f.domain for f in functions} - imported):
        model.opset_import.append(helper.make_opsetid(domain, 1))
    model.producer_name, model.producer_version = "mpsearch", __version__
    del model.graph.value_info[:]
    helper.set_model_props(
        model,
        {p.key: p.value for p in model.metadata_props}
        | {"mpsearch.structure": build.plan.structure_digest, "mpsearch.base": build.plan.base},
    )
    return model


def _encode_nodes(
    build: _Build,
    nodes: Iterable[onnx.NodeProto],
    layers: Mapping[str, int],
    schemes: Sequence[Scheme],
) -> list[onnx.NodeProto]:
    """Nodes of one graph, those of its subgraphs encoded in place: these see what was rounded outside.

    What dequantises a weight that a subgraph reads first stands in front of the whole graph, for all to read.
    """
    encoded: list[onnx.NodeProto] = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                outside = dict(build.encoded)
                build.depth += 1
                inner = _encode_nodes(build, attribute.g.node, layers, schemes)
                build.depth -= 1
                del attribute.g.node[:], attribute.g.value_info[:]
                attribute.g.node.extend(inner)
                build.encoded = outside
        index = layers.get(node.name)
        if index is None:
            encoded.append(node)
        else:
            encoded.extend(_encode_layer(build, index, schemes[index], node))
    return encoded


def _encode_layer(
    build: _Build, index: int, scheme: Scheme, node: onnx.NodeProto
) -> Iterator[onnx.NodeProto]:
    """The layer's node with rounded inputs and outputs, and what rounds them."""
    layer = build.graph.layers[index]
    props = {"mpsearch.site": layer.name, "mpsearch.scheme": scheme.name}
    for number, gemm in enumerate(layer.gemms):
        for operand, is_weight in ((gemm.left, False), (gemm.right, gemm.has_weight)):
            if operand.input_index < 0:
                continue
            if is_weight:
                own = build.weights.owners.get((index, number), -1)
                key = weight_key(operand, scheme, own), index in build.encoding.own_weights
                encode = partial(_write_weight, build, index, number, scheme)
            else:
                activation = _activation(build.graph, layer, gemm, operand)
                is_own = index in build.encoding.own_activations
                key = _activation_key(activation, scheme.activation), is_own
                is_flat = find_rank(build.graph, layer, operand) is None
                rounded = activation, scheme.activation
                encode = partial(_write_activation, build, *rounded, is_flat, is_own)
            known = build.weights_encoded if is_weight else build.encoded
            if key not in known:
                writer = Writer(_free_name(build, f"mpsearch/{operand.value}/{scheme.name}"))
                known[key] = encode(writer)
                made = _collect(build, writer, props)
                if is_weight and build.depth:
                    build.in_front += made
                else:
                    yield from made
            node.input[operand.input_index] = known[key]
    rounders = Writer(_free_name(build, f"mpsearch/{layer.name}/output"))
    base = build.plan.schemes[build.plan.base].activation.format
    has_bias = index in build.weights.changes.biases
    for place, output in enumerate(node.output):
        if output and (base != "fp32" or (has_bias and place == 0)):
            node.output[place] = raw = _free_name(build, f"{output}/raw")
            if has_bias and place == 0:
                raw = _add_bias(build, index, rounders, raw, output if base == "fp32" else "")
            if base != "fp32":
                _round_output(build.graph, rounders, raw, base, output)
    _tag(node, props)
    yield node
    yield from _collect(build, rounders, props)


def _write_weight(build: _Build, index: int, number: int, scheme: Scheme, writer: Writer) -> str:
    operand = build.graph.layers[index].gemms[number].right
    weight = build.weights(index, number, scheme)
    if keeps_type(build.graph, operand.value, scheme):
        own = np.asarray(build.graph.constants[operand.value])
        if np.array_equal(weight.dequantize().cpu().numpy(), own.astype(np.float32)):
            twin = build.twins.get(operand.value, operand.value)
            is_turned = twin != operand.value
            return writer.add("Transpose", twin, perm=[1, 0]) if is_turned else twin
    value = build.encoding.weight(writer, weight, index in build.encoding.own_weights)
    dtype = _dtype(build.graph, operand.value)
    return value if dtype == TensorProto.FLOAT else writer.add("Cast", value, to=dtype)


def _write_activation(
    build: _Build,
    activation: Activation,
    spec: Spec,
    is_flat: bool,
    is_own: bool,
    writer: Writer,
) -> str:
    """Append what rounds the tensor, in its own type and shape, and return the result's name."""
    dtype = _dtype(build.graph, activation.value)
    found = build.plan.find_range(activation.value, spec)
    value, shape = activation.value, ""
    if dtype != TensorProto.FLOAT:
        value = writer.add("Cast", value, to=TensorProto.FLOAT)
    if is_flat:
        rows = writer.constant(np.array([-1, activation.size], np.int64), "rows")
        shape, value = writer.add("Shape", value), writer.add("Reshape", value, rows)
    read = replace(activation, value=value)
    value = build.encoding.activation(writer, read, spec, found, is_own)
    if is_flat:
        value = writer.add("Reshape", value, shape)
    return value if dtype == TensorProto.FLOAT else writer.add("Cast", value, to=dtype)


def _round_output(graph: ModelGraph, writer: Writer, raw: str, base: str, output: str) -> None:
    dtype = _dtype(graph, output)
    if dtype == TensorProto.FLOAT:
        encode_cast(writer, raw, base, output=output)
        return
    rounded = encode_cast(writer, writer.add("Cast", raw, to=TensorProto.FLOAT), base)
    writer.add("Cast", rounded, output=output, to=dtype)


def _add_bias(build: _Build, index: int, writer: Writer, raw: str, output: str) -> str:
    """Append what adds a changed bias to a layer's product, in its own type, and return the sum's name."""
    layer, bias = build.graph.layers[index], build.weights.changes.biases[index]
    if output_channel_axis(layer) != -1:
        bias = bias.reshape(-1, *[1] * _trailing_axes(build.graph, layer))
    value = writer.constant(to_array(bias.float()), "bias")
    dtype = _dtype(build.graph, layer.output)
    if dtype != TensorProto.FLOAT:
        value = writer.add("Cast", value, to=dtype)
    return writer.add("Add", raw, value, output=output)


def _trailing_axes(graph: ModelGraph, layer: Layer) -> int:
    """Axes of a layer's output behind its channels, where these are not the last."""
    if layer.op_type not in ("Conv", "ConvTranspose"):
        return 1
    rank = find_rank(graph, layer, layer.gemms[0].left)
    if rank is None:
        raise PlanError(
            f"{layer.name!r}: the rank of its input must be known to add a bias; give sizes with --shape"
        )
    return rank - 2


def _activation(graph: ModelGraph, layer: Layer, gemm: Gemm, operand: Operand) -> Activation:
    """The operand as it is encoded; of unknown rank, as the matrix of its last axis."""
    rank = find_rank(graph, layer, operand)
    if rank is None:
        return Activation(operand.value, 2, 1, gemm.k)
    value = graph.values.get(operand.value)
    shape = [None] * rank if value is None or value.shape is None else value.shape
    axis = operand.reduction_axis % rank
    size = shape[axis] or gemm.k // gemm.positions * operand.groups
    return Activation(operand.value, rank, axis, size, operand.groups)


def _activation_key(activation: Activation, spec: Spec) -> object:
    """What consumers must have in common to read one rounded tensor."""
    if spec.granularity == "tensor":
        return activation.value, spec
    return activation.value, spec, activation.axis, activation.groups


def _dtype(graph: ModelGraph, value: str) -> int:
    """ONNX element type of a value; float where inference did not reach."""
    known = graph.values.get(value)
    name = known.dtype if known is not None else None
    if name is None and value in graph.constants:
        name = graph.constants[value].dtype.name
    types = {
        "float16": TensorProto.FLOAT16,
        "bfloat16": TensorProto.BFLOAT16,
        "float64": TensorProto.DOUBLE,
    }
    return int(types.get(name or "", TensorProto.FLOAT))


def _needs_mx(scheme: Scheme) -> bool:
    specs = (scheme.weight, scheme.activation)
    return any(s.scale_format == "e8m0" and s.block_shape is not None for s in specs)


def _collect(build: _Build, writer: Writer, props: Mapping[str, str]) -> list[onnx.NodeProto]:
    build.tensors.extend(writer.tensors)
    build.functions |= writer.functions
    for node in writer.nodes:
        _tag(node, props)
    return writer.nodes


def _tag(node: onnx.NodeProto, props: Mapping[str, str]) -> None:
    for key, value in props.items():
        node.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))


def _free_name(build: _Build, wanted: str) -> str:
    """``wanted``, or ``wanted`` with a number, so that nothing in the graph starts like it."""
    name, n = wanted, 1
    while name in build.taken:
        name, n = f"{wanted}.{n}", n + 1
    build.taken.add(name)
    return name


def _names(graph: onnx.GraphProto) -> set[str]:
    """Every name of a value or node."""
    names = {i.name for i in (*graph.input, *graph.initializer, *graph.output)}
    for node in walk_nodes(graph):
        names.update((node.name, *node.output))
    return names
