"""An ONNX file as a ModelGraph."""

import os
import warnings
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx

from mpsearch.errors import ModelError, MpsearchError
from mpsearch.graph.folding.batchnorm import fold_batchnorms
from mpsearch.graph.folding.control_flow import enter_initializers
from mpsearch.graph.folding.fold import fold_nodes
from mpsearch.graph.folding.state import Draft, Scope
from mpsearch.graph.folding.types import as_value
from mpsearch.graph.folding.types_of_outputs import sizes, tensor_type
from mpsearch.graph.layers.coverage import find_coverage
from mpsearch.graph.layers.edges import find_edges, find_producers
from mpsearch.graph.layers.find_layers import find_layers, with_known_rows
from mpsearch.graph.layers.groups import find_groups
from mpsearch.graph.layers.operands import Shape, ShapeOf
from mpsearch.graph.layers.roles import assign_roles
from mpsearch.graph.layers.traversal import all_nodes, live, used_constants
from mpsearch.graph.layers.wiring import find_wiring
from mpsearch.graph.model import ModelGraph, Node, Value
from mpsearch.graph.onnx_file.constants import Constants
from mpsearch.graph.onnx_file.digests import digest_structure
from mpsearch.graph.onnx_file.dynamic_axes import FREE_SIZES, Binding, bind_axes
from mpsearch.graph.onnx_file.read import opset_versions, read_model
from mpsearch.graph.onnx_file.topology import in_order
from mpsearch.graph.onnx_file.write import metadata_of


def import_onnx(
    path: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    batch_axes: Mapping[str, int | None] | None = None,
) -> ModelGraph:
    """Return the model in ``path``: folded, typed, with its layers, edges, groups and coverage.

    Weights in external files are mapped when they are used, never read here. The folded graph
    runs at any batch; shapes and M are at batch 1, or at what ``shapes`` says.

    Args:
        path: The file, opset 7 to 25.
        shapes: Input name to sizes of all its axes, which binds dynamic ones; None leaves an axis
            free, 0 is an empty one (the past of a cache). A dynamic first axis is the batch and needs no size.
        batch_axes: Input name to the axis that samples run over, None where the input has none. An
            input that is not named has it first, or where data that are run through the model show it.

    Raises:
        ModelError: The file cannot be read, contradicts itself, or ``shapes`` or ``batch_axes`` do not fit it.
    """
    path = Path(path)
    try:
        return import_model(read_model(path), path.name, path.parent, shapes, batch_axes)
    except MpsearchError:
        raise
    except (RecursionError, MemoryError, OverflowError) as error:
        raise ModelError(f"{path.name}: must be a model of sane size and depth: {error}") from error


def read_inputs(
    path: str | os.PathLike[str], batch_axes: Mapping[str, int | None] | None = None
) -> tuple[tuple[Value, ...], tuple[str, ...]]:
    """Return the inputs of the model in ``path``, and which of their free axes are no batch.

    Sizes are None where an axis is free; nothing is folded, so this is quick.

    Raises:
        ModelError: The file cannot be read.
    """
    path = Path(path)
    graph = read_model(path).graph
    given = {tensor.name for tensor in graph.initializer}
    protos = [value for value in graph.input if value.name not in given]
    binding = bind_axes(protos, None, path.name, batch_axes=batch_axes)
    values = []
    for proto in protos:
        kind = next(iter(_input_types(proto, binding)), None)
        value = as_value(proto.name, None if kind is None else (kind,), ())
        values.append(_interface(value, binding.dynamic.get(proto.name, frozenset())))
    return tuple(values), binding.unbound


def import_model(
    model: onnx.ModelProto,
    name: str,
    folder: Path,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    batch_axes: Mapping[str, int | None] | None = None,
) -> ModelGraph:
    """Return a parsed model as :func:`import_onnx` does; external data must lie in ``folder``.

    Raises:
        ModelError: The model contradicts itself, or ``shapes`` or ``batch_axes`` do not fit it.
    """
    graph = model.graph
    given = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in given]
    if not graph.output:
        raise ModelError(f"{name}: a model must have an output, it has none")
    available = {value.name for value in inputs} | given
    protos = in_order(graph.node, available, name)
    made = available.union(*(node.output for node in protos)) if protos else available
    outputs = [value.name for value in graph.output]
    for output in outputs:
        if output not in made:
            raise ModelError(f"{name}: nothing produces the output {output!r}")
    structure, metadata = digest_structure(model), metadata_of(model)
    bind = partial(bind_axes, inputs, shapes, name, batch_axes=batch_axes)
    nodes, binding, draft = _folded(model, protos, inputs, bind, folder)
    nodes = live(fold_batchnorms(nodes, set(outputs), draft), outputs)
    if draft.removed_quantizers:
        warnings.warn(
            f"{name}: already quantised: {draft.removed_quantizers} pairs of QuantizeLinear and "
            "DequantizeLinear were taken out, weights keep their rounded values",
            stacklevel=3,
        )
    found = _understood(name, nodes, inputs, outputs, binding, draft, structure, metadata)
    ranks = {value.name: len(value.shape or ()) for value in found.inputs}
    axes = {n: a if a is None else a % ranks[n] for n, a in (batch_axes or {}).items()}
    return replace(found, batch_axes=axes)


def _folded(
    model: onnx.ModelProto,
    protos: list[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    bind: Callable[..., Binding],
    folder: Path,
) -> tuple[list[Node], Binding, Draft]:
    """Return the folded nodes, with the first of ``bind``'s bindings whose probes all fit the model.

    If none does, the model may run at the stated batch alone, or be wrong; then the first counts.
    """
    first: tuple[list[Node], Binding, Draft] | None = None
    for fixed_batch in (False, True):
        for free_sizes in FREE_SIZES:
            binding = bind(free_sizes=free_sizes, fixed_batch=fixed_batch)
            draft = Draft(
                folder=folder,
                versions=opset_versions(model),
                n_probes=len(binding.probes),
                declared=_declared(model.graph),
            )
            result = _fold_once(model.graph, protos, inputs, binding, draft), binding, draft
            if not draft.failures:
                return result
            if first is None:
                first = result
            elif fixed_batch and not any(p <= binding.last_batch_probe for p in draft.failures):
                return result
            if not binding.unbound:
                break
        if first is not None and 0 in first[2].failures and not first[1].unbound:
            break  # the model contradicts itself at any batch
    assert first is not None
    return first


def _fold_once(
    graph: onnx.GraphProto,
    protos: list[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    binding: Binding,
    draft: Draft,
) -> list[Node]:
    outputs = [value.name for value in graph.output]
    draft.value_names.update(value.name for value in inputs)
    draft.value_names.update(name for node in graph.node for name in node.output)
    scope = Scope(ChainMap(), frozenset(outputs), "", draft)
    enter_initializers(graph, scope)
    for value in inputs:
        draft.types[value.name] = tuple(draft.interned(k) for k in _input_types(value, binding))
        scope.names[value.name] = value.name
    return live(fold_nodes(protos, scope), outputs)


def _declared(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """Return the types that the file states for inner values and outputs, sizes only if fixed."""
    result = {}
    for value in (*graph.value_info, *graph.output):
        kind = value.type
        if kind.WhichOneof("value") != "tensor_type" or not kind.tensor_type.elem_type:
            continue
        shape = sizes(kind)
        fixed = None if shape is None else [size or None for size in shape]
        result[value.name] = tensor_type(kind.tensor_type.elem_type, fixed)
    return result


def _input_types(value: onnx.ValueInfoProto, binding: Binding) -> tuple[onnx.TypeProto | None, ...]:
    if value.type.WhichOneof("value") != "tensor_type":
        return (value.type if value.type.WhichOneof("value") else None,) * len(binding.probes)
    code = value.type.tensor_type.elem_type
    if not code:
        raise ModelError(f"input {value.name!r} must state its element type")
    found = [tensor_type(code, probe.get(value.name)) for probe in binding.probes]
    return tuple(found[0] if kind == found[0] else kind for kind in found)


def _understood(
    name: str,
    nodes: Sequence[Node],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    binding: Binding,
    draft: Draft,
    structure: str,
    metadata: Mapping[str, str],
) -> ModelGraph:
    constants = used_constants(nodes, outputs, draft.constants)
    free = range(binding.last_batch_probe + 1, draft.n_probes)
    used = dict.fromkeys([value.name for value in inputs])
    for node in all_nodes(nodes):
        used.update(dict.fromkeys(n for n in (*node.inputs, *node.outputs) if n))
    used.update(dict.fromkeys(outputs))
    values = {n: as_value(n, draft.types.get(n), free) for n in used}
    shape_of = _shapes_of(values)
    other = _shapes_at(draft, binding.last_batch_probe) if binding.last_batch_probe else None
    dtypes = {n: value.dtype for n, value in values.items()}
    trips = _trips(nodes, draft)
    layers = find_layers(nodes, shape_of, other, dtypes, constants, trips, draft.modules)
    if not binding.unbound:
        layers = with_known_rows(layers, nodes, shape_of)
    producers = find_producers(nodes, layers)
    edges = find_edges(nodes, layers, producers, shape_of)
    wiring = find_wiring(nodes, layers, producers, frozenset(constants))
    layers = assign_roles(wiring, nodes, edges, [value.name for value in inputs], outputs)
    return ModelGraph(
        name=name,
        nodes=tuple(nodes),
        constants=Constants(constants, draft.originals),
        inputs=tuple(_interface(values[v.name], binding.dynamic.get(v.name, ())) for v in inputs),
        outputs=tuple(_free_output(values[n], draft) for n in outputs),
        values=values,
        layers=layers,
        edges=edges,
        groups=find_groups(nodes, layers, edges, shape_of),
        coverage=find_coverage(nodes, layers, constants, shape_of, draft.originals),
        batch=binding.batch,
        opset=draft.version(""),
        structure_digest=structure,
        metadata=dict(metadata),
        unbound=binding.unbound,
    )


def _shapes_of(values: Mapping[str, Value]) -> ShapeOf:
    def shape_of(name: str) -> Shape:
        value = values.get(name)
        return None if value is None else value.shape

    return shape_of


def _shapes_at(draft: Draft, probe: int) -> ShapeOf:
    def shape_of(name: str) -> Shape:
        types = draft.types.get(name)
        return None if types is None else sizes(types[probe])

    return shape_of


def _interface(value: Value, dynamic: frozenset[int] | tuple[()]) -> Value:
    """Return an input with None for the axes that stay free."""
    if value.shape is None:
        return value
    shape = tuple(None if axis in dynamic else size for axis, size in enumerate(value.shape))
    return Value(value.name, shape, value.dtype)


def _free_output(value: Value, draft: Draft) -> Value:
    return as_value(value.name, draft.types.get(value.name), range(1, draft.n_probes))


def _trips(nodes: Sequence[Node], draft: Draft) -> dict[str, int]:
    """Return how often the body of each Loop and Scan runs, where that is known."""
    trips = {}
    for node in all_nodes(nodes):
        if node.op_type == "Loop" and node.inputs and node.inputs[0] in draft.known_values:
            limit = draft.known_values[node.inputs[0]].at(0)
            if limit is not None and limit.size == 1 and 0 < int(limit.reshape(())) < 2**31:
                trips[node.name] = int(limit.reshape(()))
        scanned = node.attributes.get("num_scan_inputs")
        if node.op_type == "Scan" and isinstance(scanned, int):
            shape = sizes((draft.types.get(node.inputs[-scanned]) or (None,))[0])
            axes = node.attributes.get("scan_input_axes", (0,))
            axis = axes[0] if isinstance(axes, tuple) and axes else 0
            if shape and isinstance(axis, int) and -len(shape) <= axis < len(shape):
                trips[node.name] = shape[axis] or 1
    return trips
