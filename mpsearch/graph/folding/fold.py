"""One pass over the nodes: types, constants folded, identities removed, names made unique."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

import numpy as np
import onnx

from mpsearch.errors import ModelError
from mpsearch.graph.folding.control_flow import CONTROL, fold_control
from mpsearch.graph.folding.decompose.table import decompose
from mpsearch.graph.folding.evaluate import RANDOM, can_evaluate, constant_value, evaluate
from mpsearch.graph.folding.shape_values import known_outputs
from mpsearch.graph.folding.state import Draft, Scope
from mpsearch.graph.folding.types_of_outputs import Types, infer_outputs, sizes
from mpsearch.graph.model import Node
from mpsearch.graph.onnx_file.attributes import plain_attributes
from mpsearch.graph.onnx_file.constants import Array, Constant, in_memory, load_checked
from mpsearch.graph.onnx_file.module_names import module_name
from mpsearch.graph.onnx_file.read import element_type, read_tensor
from mpsearch.graph.onnx_file.topology import label, subgraphs

_LAZY_BYTES = 2**31


def fold_nodes(protos: Iterable[onnx.NodeProto], scope: Scope) -> list[Node]:
    """Return the nodes that remain of ``protos``, those of one graph in topological order.

    The scope receives their names, and its draft their types, known values and constants.
    """
    nodes: list[Node] = []
    for proto in protos:
        nodes.extend(_fold_node(proto, scope))
    return nodes


def _fold_node(proto: onnx.NodeProto, scope: Scope) -> list[Node]:
    outputs = [_define(name, scope) for name in proto.output]
    if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx") and len(outputs) == 1:
        constant = _read_constant(proto, scope)
        if constant is not None:
            return _enter({outputs[0]: constant}, proto, scope)
    inputs = [scope.names.get(name, name) for name in proto.input]
    if inputs != list(proto.input) or outputs != list(proto.output):
        renamed = onnx.NodeProto()
        renamed.CopyFrom(proto)
        del renamed.input[:], renamed.output[:]
        renamed.input.extend(inputs)
        renamed.output.extend(outputs)
        original_outputs, proto = list(proto.output), renamed
    else:
        original_outputs = outputs
    return _fold_renamed(proto, original_outputs, scope)


def _fold_renamed(
    proto: onnx.NodeProto,
    file_outputs: Sequence[str],
    scope: Scope,
    *,
    is_decomposed: bool = False,
) -> list[Node]:
    """Fold a node whose inputs and outputs carry final names; ``file_outputs`` are the file's own."""
    draft = scope.draft
    proto = _without_like(proto, draft)
    written = None if is_decomposed else decompose(proto, draft)
    if written is not None:
        in_file = dict(zip(proto.output, file_outputs, strict=True))
        nodes = []
        for inner in written:
            for index, name in enumerate(inner.input):
                inner.input[index] = scope.names.get(name, name)
            outside = [in_file.get(name, name) for name in inner.output]
            nodes += _fold_renamed(inner, outside, scope, is_decomposed=True)
        return nodes
    outputs = list(proto.output)
    replaced = _passes_through(proto, draft)
    if replaced is not None and outputs[0] not in scope.kept:
        scope.names[file_outputs[0]] = replaced
        return []
    if next(subgraphs(proto), None) is not None:
        if proto.op_type in CONTROL and proto.domain in ("", "ai.onnx"):
            return fold_control(proto, file_outputs, scope, fold_nodes)
        raise ModelError(
            f"node {label(proto)!r}: {proto.op_type} holds subgraphs, which are understood only in "
            f"{', '.join(sorted(CONTROL))}"
        )
    version = draft.version(proto.domain)
    for name, types in zip(outputs, _infer(proto, version, draft), strict=True):
        if name:
            draft.types[name] = types
    constants = _fold(proto, version, scope)
    if constants is not None:
        return _enter(constants, proto, scope)
    return [_emit(_with_free_axis(proto, draft), version, scope)]


def _define(name: str, scope: Scope) -> str:
    """Return the final name of a value that a node in ``scope`` produces."""
    if not name:
        return name
    final = scope.draft.fresh_value(name) if scope.path else name
    scope.names[name] = final
    return final


def _read_constant(proto: onnx.NodeProto, scope: Scope) -> Constant | None:
    source = scope.path + proto.output[0]
    value = constant_value(proto)
    if value is None:
        return None
    if isinstance(value, onnx.TensorProto):
        constant = read_tensor(value, source, scope.draft.folder)
    else:
        constant = in_memory(value, source)
    if constant.is_float:
        scope.draft.originals[source] = constant
    return constant


def _enter(constants: Mapping[str, Constant], proto: onnx.NodeProto, scope: Scope) -> list[Node]:
    """Enter folded outputs; an output of the graph stays one, as the Identity of its constant."""
    nodes, draft = [], scope.draft
    for name, constant in constants.items():
        if name not in scope.kept:
            draft.add_constant(name, constant)
            continue
        inner = draft.fresh_value(f"{name}.value")
        draft.add_constant(inner, constant)
        draft.types[name] = draft.types[inner]
        node_name = draft.fresh_node(scope.path + (proto.name or name), scope.path + name)
        nodes.append(Node(node_name, "Identity", "", draft.version(""), (inner,), (name,)))
    return nodes


def _without_like(proto: onnx.NodeProto, draft: Draft) -> onnx.NodeProto:
    """Return a CastLike as the Cast that it is, so that it reads no tensor for its type alone."""
    if proto.op_type != "CastLike" or proto.domain not in ("", "ai.onnx") or len(proto.input) != 2:
        return proto
    code = _element_code(proto.input[1], draft)
    if code is None:
        return proto
    cast = onnx.helper.make_node("Cast", [proto.input[0]], list(proto.output), proto.name, to=code)
    cast.metadata_props.extend(proto.metadata_props)
    return cast


def _element_code(name: str, draft: Draft) -> int | None:
    types = draft.types.get(name)
    kind = None if types is None else types[0]
    if kind is None or kind.WhichOneof("value") != "tensor_type":
        return None
    return kind.tensor_type.elem_type or None


def _passes_through(proto: onnx.NodeProto, draft: Draft) -> str | None:
    """Return the input that the first output equals, None if the node does something."""
    if proto.domain not in ("", "ai.onnx") or not proto.input or not proto.output:
        return None
    if proto.op_type == "Identity":
        return proto.input[0]
    if proto.op_type == "Cast":
        wanted = next((a.i for a in proto.attribute if a.name == "to"), None)
        return proto.input[0] if _element_code(proto.input[0], draft) == wanted else None
    if proto.op_type == "Dropout" and not any(proto.output[1:]):
        training = proto.input[2] if len(proto.input) > 2 else ""
        known = draft.known_values.get(training)
        off = not training or (known is not None and known.varies is None and not known.at(0))
        return proto.input[0] if off else None
    if proto.op_type == "QuantizeLinear":
        draft.quantized[proto.output[0]] = proto.input[0]
        return None
    if proto.op_type == "DequantizeLinear":
        original = draft.quantized.get(proto.input[0])
        draft.removed_quantizers += original is not None
        return original
    return None


def _infer(proto: onnx.NodeProto, version: int, draft: Draft) -> list[Types]:
    """Return the types of all outputs in all probes."""
    inputs = [name for name in proto.input if name]
    rows: list[list[onnx.TypeProto | None]] = []
    for probe in range(draft.n_probes):
        if probe and _same(inputs, probe, draft):
            rows.append(rows[0])
            continue
        types, data = {}, {}
        for name in inputs:
            kind = draft.interned(draft.types[name][probe]) if name in draft.types else None
            if kind is not None:
                types[name] = kind
            known = draft.known_values.get(name)
            value = None if known is None else known.at(probe)
            if value is not None:
                data[name] = value
        row = _infer_once(proto, version, types, data, probe, draft)
        rows.append([_or_declared(k, n, draft) for k, n in zip(row, proto.output, strict=True)])
    columns = []
    for index in range(len(proto.output)):
        first = rows[0][index]
        columns.append(
            tuple(
                first if row[index] is first or row[index] == first else row[index] for row in rows
            )
        )
    return columns


def _infer_once(
    proto: onnx.NodeProto,
    version: int,
    types: Mapping[str, onnx.TypeProto],
    data: Mapping[str, Array],
    probe: int,
    draft: Draft,
) -> list[onnx.TypeProto | None]:
    """Infer one probe, or remember what a node like this one gave: networks repeat themselves."""
    key = (
        proto.op_type,
        proto.domain,
        tuple(bool(name) for name in proto.output),
        tuple(attribute.SerializeToString() for attribute in proto.attribute),
        tuple(id(types.get(name)) if name else None for name in proto.input),
        tuple((data[name].tobytes() if name in data else None) for name in proto.input),
    )
    found = draft.inferred.get(key)
    if found is None:
        try:
            found = [draft.interned(k) for k in infer_outputs(proto, version, types, data)]
        except ValueError as error:
            draft.failures.setdefault(probe, f"{proto.op_type} node {label(proto)!r}: {error}")
            return [None] * len(proto.output)
        draft.inferred[key] = found
    return found


def _same(inputs: Sequence[str], probe: int, draft: Draft) -> bool:
    """Return whether all that inference sees in ``probe`` is as in the first one."""
    for name in inputs:
        types = draft.types.get(name)
        if types is not None and types[probe] is not types[0]:
            return False
        known = draft.known_values.get(name)
        if known is not None and known.varies is not None:
            return False
    return True


def _or_declared(kind: onnx.TypeProto | None, name: str, draft: Draft) -> onnx.TypeProto | None:
    declared = draft.declared.get(name)
    if kind is None or declared is None:
        return kind or declared
    same = kind.tensor_type.elem_type == declared.tensor_type.elem_type
    return declared if same and sizes(kind) is None else kind


def _fold(proto: onnx.NodeProto, version: int, scope: Scope) -> dict[str, Constant] | None:
    """Return the outputs as constants; None if they depend on the data, or are not worth it."""
    draft = scope.draft
    outputs = [name for name in proto.output if name]
    if proto.op_type in RANDOM or not outputs:
        return None
    for name, known in known_outputs(proto, version, draft).items():
        draft.known_values[name] = known
    settled = [draft.known_values.get(name) for name in outputs]
    source = _source(proto, scope)
    if all(known is not None and known.varies is None for known in settled):
        return {
            name: in_memory(known.arrays[0], source)
            for name, known in zip(outputs, settled, strict=True)
            if known is not None and known.arrays[0] is not None
        }
    inputs = [name for name in proto.input if name]
    if not all(name in draft.constants for name in inputs) or not inputs:
        return None
    return _lazily(proto, version, source, draft)


def _lazily(
    proto: onnx.NodeProto, version: int, source: str, draft: Draft
) -> dict[str, Constant] | None:
    """Return the outputs of a node that reads constants alone, computed when they are asked for."""
    if not can_evaluate(proto, version):
        return None
    operands = [draft.constants[name] if name else None for name in proto.input]
    limit = max(_LAZY_BYTES, 2 * sum(c.nbytes for c in operands if c is not None))
    result = {}
    kept = onnx.NodeProto()
    kept.CopyFrom(proto)
    for index, name in enumerate(proto.output):
        if not name:
            continue
        kind, *others = draft.types[name]
        shape = sizes(kind)
        if kind is None or shape is None or any(other is not kind for other in others):
            return None
        dims = [size for size in shape if size is not None]
        dtype = element_type(kind.tensor_type.elem_type, f"value {name!r}")
        if len(dims) < len(shape) or prod(dims) * dtype.itemsize > limit:
            return None
        load = _loader(kept, version, operands, index, name)
        result[name] = Constant(tuple(dims), dtype, source, load)
    return result


def _loader(
    proto: onnx.NodeProto,
    version: int,
    operands: Sequence[Constant | None],
    index: int,
    name: str,
) -> Callable[[], Array]:
    def load() -> Array:
        arrays = [None if c is None else load_checked(name, c) for c in operands]
        return evaluate(proto, version, arrays)[index]

    return load


def _source(proto: onnx.NodeProto, scope: Scope) -> str:
    """Return the name in the user's file that the outputs stem from."""
    constants = scope.draft.constants
    floats = [
        constant
        for name in proto.input
        if (constant := constants.get(name)) is not None and constant.is_float
    ]
    largest = max(floats, key=lambda constant: constant.size, default=None)
    packed = constants.get(proto.input[0]) if proto.input else None
    if proto.op_type == "DequantizeLinear" and packed is not None:
        return packed.source
    if largest is not None and largest.size > 1:
        return largest.source
    return scope.path + proto.output[0]


def _with_free_axis(proto: onnx.NodeProto, draft: Draft) -> onnx.NodeProto:
    """Return a Reshape whose one varying size is written as -1, so that no arithmetic is left."""
    if proto.op_type != "Reshape" or proto.domain not in ("", "ai.onnx") or len(proto.input) < 2:
        return proto
    known = draft.known_values.get(proto.input[1])
    if known is None or known.varies is None or int(known.varies.sum()) != 1:
        return proto
    first = known.arrays[0]
    shapes = [sizes(kind) for kind in draft.types[proto.output[0]]]
    if first is None or any(shape is None or len(shape) != first.size for shape in shapes):
        return proto
    target = []
    for index, size in enumerate(first):
        column = {shape[index] if shape is not None else None for shape in shapes}
        if known.varies[index]:
            target.append(-1)
        elif len(column) == 1 and (fixed := column.pop()) is not None and fixed > 0 and size:
            target.append(fixed)
        else:
            return proto
    name = draft.fresh_value(f"{proto.output[0]}.shape")
    draft.add_constant(name, in_memory(np.array(target, np.int64), name))
    free = onnx.NodeProto()
    free.CopyFrom(proto)
    free.input[1] = name
    return free


def _emit(proto: onnx.NodeProto, version: int, scope: Scope) -> Node:
    draft, path = scope.draft, scope.path
    first = next((name for name in proto.output if name), "")
    name = draft.fresh_node(path + proto.name if proto.name else "", path + first)
    module = module_name(proto)
    if module:
        draft.modules[name] = module
    return Node(
        name=name,
        op_type=proto.op_type,
        domain="" if proto.domain == "ai.onnx" else proto.domain,
        version=version,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes=plain_attributes(proto, draft.folder),
    )
