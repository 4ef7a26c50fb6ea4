"""Layers' operators in 16 bits: their inputs come in that type, and their outputs leave it.

What dequantises an operand for such an operator alone gives the type itself; a cast there and back is not cast twice;
every other input is cast in front of the operator.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from mpsearch.export.onnx.builder import FORMAT_TYPES
from mpsearch.graph.onnx_file.read import walk_nodes
from mpsearch.runtimes.file_rounding import RUNS_IN

_MOVES = ("Transpose", "Reshape")
_OWN = "mpsearch/"
_FLOAT = int(TensorProto.FLOAT)


@dataclass(slots=True)
class _Typing:
    """What is known of a model while its layers are typed.

    Attributes:
        formats: Layer to the 16-bit format that its operator runs in.
        made: Value to the node that gives it.
        kinds: Initialisers, casts and typed outputs to their element types.
        reads: Value to how often it is read.
        cast: (value, element type) to the value in that type, where it can be read.
    """

    formats: Mapping[str, str]
    made: Mapping[str, onnx.NodeProto]
    kinds: dict[str, int]
    reads: Mapping[str, int]
    cast: dict[tuple[str, int], str] = field(default_factory=dict)


def type_layers(model: onnx.ModelProto, formats: Mapping[str, str]) -> None:
    """Let layers of ``model`` run in 16 bits, in place.

    Args:
        model: A canonical one, in which all that these layers read and give is fp32.
        formats: Name of a layer with one output to ``fp16`` or ``bf16``.
    """
    nodes = list(walk_nodes(model.graph))
    reads = Counter(name for node in nodes for name in node.input)
    reads.update(output.name for output in model.graph.output)
    made = {name: node for node in nodes for name in node.output}
    kinds = {tensor.name: int(tensor.data_type) for tensor in model.graph.initializer}
    typing = _Typing(formats, made, kinds, reads)
    _type_graph(typing, model.graph)
    _skip_round_trips(model, typing.kinds)
    _drop_unread(model)


def _type_graph(typing: _Typing, graph: onnx.GraphProto) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                outside = dict(typing.cast)
                _type_graph(typing, attribute.g)
                typing.cast = outside
        if node.name not in typing.formats:
            nodes.append(node)
            continue
        fmt = typing.formats[node.name]
        kind = int(FORMAT_TYPES[fmt][0])
        for i, name in enumerate(node.input):
            if not name or _give(typing, name, kind):
                continue
            if (name, kind) not in typing.cast:
                value = f"{_OWN}{name}/{fmt}"
                typing.cast[name, kind] = value
                nodes.append(helper.make_node("Cast", [name], [value], value, to=kind))
            node.input[i] = typing.cast[name, kind]
        output, raw = node.output[0], f"{_OWN}{node.output[0]}/{fmt}"
        node.output[0] = raw
        typing.kinds[raw] = kind
        back = helper.make_node("Cast", [raw], [output], f"{raw}/fp32", to=_FLOAT)
        back.metadata_props.extend(node.metadata_props)
        node.metadata_props.append(onnx.StringStringEntryProto(key=RUNS_IN, value=fmt))
        nodes += [node, back]
    del graph.node[:]
    graph.node.extend(nodes)


def _give(typing: _Typing, name: str, kind: int) -> bool:
    """Let the dequantisation behind ``name``, read by this operator alone, give ``kind``; return whether there is one."""
    while typing.reads[name] == 1:
        source = typing.made.get(name)
        if source is None or not source.name.startswith(_OWN):
            return False
        if source.op_type == "DequantizeLinear":
            scale = typing.made.get(source.input[1])
            stored = scale.input[0] if scale is not None and scale.op_type == "Cast" else ""
            if typing.kinds.get(stored) == kind:
                source.input[1] = stored  # scales of this type as they are stored
            source.attribute.append(helper.make_attribute("output_dtype", kind))
            return True
        if source.op_type not in _MOVES:
            return False
        name = source.input[0]
    return False


def _skip_round_trips(model: onnx.ModelProto, kinds: Mapping[str, int]) -> None:
    """Let whoever reads a value cast to fp32 and back read the value, in place."""
    nodes = list(walk_nodes(model.graph))
    casts = {node.output[0]: node for node in nodes if node.op_type == "Cast"}
    known = dict(kinds) | {name: _to(node) for name, node in casts.items()}
    for node in nodes:
        for i, name in enumerate(node.input):
            back = casts.get(name)
            up = casts.get(back.input[0]) if back is not None else None
            if back is None or up is None or _to(up) != _FLOAT or _to(back) == _FLOAT:
                continue
            if known.get(up.input[0]) == _to(back):
                node.input[i] = up.input[0]


def _to(node: onnx.NodeProto) -> int:
    return int(next(a.i for a in node.attribute if a.name == "to"))


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove what stands between roundings and is read no more, in place."""
    while True:
        read = {name for node in walk_nodes(model.graph) for name in node.input}
        read.update(value.name for graph in _graphs(model.graph) for value in graph.output)
        if not sum(_drop(graph, read) for graph in list(_graphs(model.graph))):
            break
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _drop(graph: onnx.GraphProto, read: Collection[str]) -> int:
    """Remove nodes that give nothing but unread values made here, and return how many."""
    unread = [
        node
        for node in graph.node
        if all(name.startswith(_OWN) and name not in read for name in node.output)
    ]
    for node in unread:
        graph.node.remove(node)
    return len(unread)
