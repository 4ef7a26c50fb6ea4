"""The user's model with what a run says of each layer written on its nodes, for viewers such as Netron."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from mpsearch.artifacts import write_bytes
from mpsearch.errors import ModelError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs, Table
from mpsearch.stats.digits import number, with_error

_PREFIX = "mpsearch."
_IR_VERSION = 10  # the first whose nodes hold metadata

Notes = Mapping[str, Mapping[str, str]]
"""Node name to key to text."""


def layer_notes(
    graph: ModelGraph,
    table: Table | None,
    costs: Costs | None,
    assignment: Sequence[int] | None,
) -> Notes:
    """Return what is said of each layer's node: scheme, sensitivity and costs in every scheme, why not.

    Args:
        graph: The model.
        table: Sensitivities of its groups.
        costs: Their costs.
        assignment: [G] chosen schemes; None names none.
    """
    notes: dict[str, dict[str, str]] = {}
    schemes = table.schemes if table is not None else costs.schemes if costs is not None else ()
    for g, group in enumerate(graph.groups):
        said: dict[str, str] = {"group": group.name}
        if len(group.layers) > 1:
            said["group.layers"] = f"{len(group.layers)}: {group.reason}"
        if assignment is not None:
            said["scheme"] = schemes[assignment[g]]
        for s, name in enumerate(schemes):
            said |= _scheme_notes(table, costs, g, s, name)
        for i in group.layers:
            layer = graph.layers[i]
            shape = f"{layer.m} x {layer.n} x {layer.k}"
            notes[layer.name] = {**said, "role": layer.role or layer.op_type, "gemm": shape}
    return notes


def _scheme_notes(
    table: Table | None, costs: Costs | None, g: int, s: int, name: str
) -> dict[str, str]:
    for found in (table, costs):
        if found is not None and not found.allowed[g, s]:
            return {
                f"{name}.not_allowed": found.reasons.get((found.groups[g], name), "not allowed")
            }
    said = {}
    if table is not None:
        value = float(table.values[g, s]), float(table.stderr[g, s])
        said[f"{name}.sensitivity"] = (
            f"{with_error(value)} {table.unit}, predicted by {table.metric}"
        )
    for quantity, values in (costs.objectives if costs is not None else {}).items():
        said[f"{name}.{quantity}"] = number(float(values[g, s]))
    return said


def annotate_model(model: Path, out: Path, notes: Notes) -> list[str]:
    """Write the model at ``model`` to ``out`` with ``notes`` as metadata of its nodes.

    Nothing that a runtime computes changes; weights in files of their own stay where they are.

    Returns:
        Names without a node: layers inside operators, such as those of fused attention.

    Raises:
        ModelError: The model cannot be read, no node of the notes is in it, or its weights lie in files that
            would not be found from ``out``.
    """
    try:
        proto = onnx.load(model, load_external_data=False)
    except Exception as error:
        raise ModelError(f"{model.name}: cannot be read as ONNX: {error}") from None
    outside = any(t.external_data for t in proto.graph.initializer)
    if outside and out.parent.resolve() != model.parent.resolve():
        raise ModelError(
            f"{out.name}: must be beside {model.name!r}, whose weights lie in files of their own"
        )
    left = dict(notes)
    for name, node in _nodes(proto.graph):
        for key, text in left.pop(name, {}).items():
            entry = node.metadata_props.add()
            entry.key, entry.value = _PREFIX + key, text
    if notes and len(left) == len(notes):
        raise ModelError(
            f"{model.name}: must be the model of the run, but has no node {next(iter(left))!r}"
        )
    proto.ir_version = max(proto.ir_version, _IR_VERSION)
    write_bytes(out, proto.SerializeToString())
    return list(left)


def _nodes(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Every node by the name that plans give it: its own, or its first output if it has none; bodies included."""
    for node in graph.node:
        yield node.name or next(iter(node.output), ""), node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    yield from _nodes(body)
