"""The export for the reference NPU: what a compiler for it reads.

The graph is the canonical one without its weights: each is an input that the layout file names, with the place of
its codes, scales and sparsity metadata in the blob file. All other roundings stand in the graph as nodes.
"""

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper

from mpsearch.artifacts import digest_file
from mpsearch.export.npu.layout import (
    ALIGNMENT,
    BLOBS,
    GRAPH,
    LAYOUT,
    ActivationOperand,
    Layout,
    PackedLayer,
    PackedTensor,
    StoredFile,
    WeightOperand,
    write_layout,
)
from mpsearch.export.npu.pack import BlobWriter, SparseCodes
from mpsearch.export.onnx.builder import Writer
from mpsearch.export.onnx.canonical import Encoding, Weights, build_canonical
from mpsearch.export.onnx.write_model import write_model
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.graph.onnx_file.read import walk_nodes
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan, site_of
from mpsearch.schemes import Scheme
from mpsearch.simulate.observation import activation_inputs
from mpsearch.space.targets import read_target

_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}  # of onnx.TensorProto


def export(plan: Plan, graph: ModelGraph, weights: Weights, folder: Path) -> list[Path]:
    """Write ``layout.json``, ``weights.bin`` and ``graph.onnx`` into ``folder`` and return the files written.

    Places of kept elements are said as the storage of the target ``npu`` has it.

    Raises:
        PlanError: The plan does not fit, or one of its schemes cannot be written.
    """
    has_patterns = read_target("npu").storage.pattern_bits is not None
    sparse: SparseCodes = "patterns" if has_patterns else "indices"
    return export_packed(plan, graph, weights, folder, sparse=sparse)


def export_packed(
    plan: Plan,
    graph: ModelGraph,
    weights: Weights,
    folder: Path,
    *,
    sparse: SparseCodes = "indices",
) -> list[Path]:
    """Return what :func:`export` does.

    Args:
        plan: Made for ``graph``.
        graph: The folded model.
        weights: Gives the simulation's own weights.
        folder: Where the files go.
        sparse: How places of kept elements are said.
    """
    tensors: dict[str, PackedTensor] = {}
    with (folder / BLOBS).open("wb") as file:
        blobs = BlobWriter(file, sparse)

        def leave_out(writer: Writer, weight: QuantizedTensor, _: bool) -> str:
            name = f"{writer.prefix}/weight"
            tensors[name] = blobs.write(name, "float32", weight)
            return name

        model = build_canonical(plan, graph, weights, Encoding(weight=leave_out))
        schemes = plan_schemes(plan, graph)
        _take_out_own(model, graph, weights, schemes, tensors, blobs)
    for tensor in tensors.values():
        kind = _TYPES[tensor.dtype]
        value = helper.make_tensor_value_info(tensor.name, kind, tensor.shape)
        model.graph.input.append(value)
    files = write_model(model, folder, name=GRAPH)
    nodes = {node.name: node for node in walk_nodes(model.graph)}
    casts = {n.output[0]: n.input[0] for n in walk_nodes(model.graph) if n.op_type == "Cast"}
    layout = Layout(
        model=plan.model,
        structure_digest=plan.structure_digest,
        weights_digest=plan.weights_digest,
        base=plan.base,
        schemes=dict(plan.schemes),
        graph=StoredFile(files[0].stat().st_size, digest_file(files[0])),
        blobs=blobs.finish(),
        alignment=ALIGNMENT,
        tensors=tuple(tensors.values()),
        layers=tuple(
            _describe(plan, layer, scheme, nodes[layer.name], casts, tensors)
            for layer, scheme in zip(graph.layers, schemes, strict=True)
        ),
    )
    inputs = {"structure": plan.structure_digest, "weights": plan.weights_digest}
    write_layout(layout, folder / LAYOUT, inputs)
    return [folder / LAYOUT, folder / BLOBS, *files]


def _take_out_own(
    model: onnx.ModelProto,
    graph: ModelGraph,
    weights: Weights,
    schemes: tuple[Scheme, ...],
    tensors: dict[str, PackedTensor],
    blobs: BlobWriter,
) -> None:
    """Move weights that stay in the model's own type from the graph to the blobs, in place, unless others read them."""
    nodes = {node.name: node for node in walk_nodes(model.graph)}
    own = {tensor.name: tensor for tensor in model.graph.initializer}
    read_as_weight: dict[str, tuple[int, int]] = {}
    readers: set[tuple[str, int]] = set()
    for i, layer in enumerate(graph.layers):
        for j, gemm in enumerate(layer.gemms):
            name = nodes[layer.name].input[gemm.right.input_index] if gemm.has_weight else ""
            if name in own:
                read_as_weight.setdefault(name, (i, j))
                readers.add((layer.name, gemm.right.input_index))
    others = {
        name
        for node in walk_nodes(model.graph)
        for place, name in enumerate(node.input)
        if (node.name, place) not in readers
    }
    others.update(value.name for value in model.graph.output)
    names = {kind: name for name, kind in _TYPES.items()}
    for name, (i, j) in read_as_weight.items():
        kind = names.get(own[name].data_type)
        if kind is None or name in others:
            continue
        tensors[name] = blobs.write(name, kind, weights(i, j, schemes[i]))
        model.graph.initializer.remove(own[name])


def _describe(
    plan: Plan,
    layer: Layer,
    scheme: Scheme,
    node: onnx.NodeProto,
    casts: Mapping[str, str],
    tensors: Mapping[str, PackedTensor],
) -> PackedLayer:
    weights = []
    for gemm in layer.gemms:
        if gemm.has_weight and gemm.right.input_index >= 0:
            name = node.input[gemm.right.input_index]
            name = name if name in tensors else casts.get(name, "")
            known = name if name in tensors else ""
            weights.append(WeightOperand(gemm.right.input_index, known))
    activations = [
        ActivationOperand(index, value, axis, groups, plan.find_range(value, scheme.activation))
        for index, (value, axis, groups) in activation_inputs(layer).items()
    ]
    return PackedLayer(
        layer.name,
        site_of(layer).weights,
        layer.op_type,
        scheme.name,
        tuple(weights),
        tuple(activations),
        layer.output,
    )


def stored_bytes(layout: Layout) -> int:
    """Return the bytes that the packed tensors of a layout take, what aligns them left out."""
    scales = sum(4 for tensor in layout.tensors if tensor.spec.tensor_scale)
    return scales + sum(part.bytes for t in layout.tensors for part in t.parts.values())
