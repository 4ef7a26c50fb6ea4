"""If, Loop and Scan: their bodies folded, typed, and inlined where the condition is known."""

from collections.abc import Callable, Sequence

import onnx

from mpsearch.errors import ModelError
from mpsearch.graph.folding.state import Draft, Scope
from mpsearch.graph.folding.types import as_value, merged, size_at, sliced, stacked
from mpsearch.graph.folding.types_of_outputs import Types, sizes, tensor_type
from mpsearch.graph.model import Attribute, Node, Subgraph
from mpsearch.graph.onnx_file.attributes import plain_attributes
from mpsearch.graph.onnx_file.read import read_tensor
from mpsearch.graph.onnx_file.topology import in_order, label, subgraphs

CONTROL = frozenset({"If", "Loop", "Scan"})
Fold = Callable[[list[onnx.NodeProto], Scope], list[Node]]


def fold_control(
    proto: onnx.NodeProto,
    file_outputs: Sequence[str],
    scope: Scope,
    fold: Fold,
) -> list[Node]:
    """Return the nodes that an If, Loop or Scan becomes: itself, or the branch that always runs.

    Args:
        proto: The node; inputs and outputs carry final names.
        file_outputs: Its outputs as the file names them.
        scope: Of the graph around the node.
        fold: Folds the nodes of a body.

    Raises:
        ModelError: A body is missing or does not fit the node.
    """
    bodies = dict(subgraphs(proto))
    if proto.op_type == "If":
        _require(proto, bodies, "then_branch", "else_branch")
        condition = scope.draft.known_values.get(proto.input[0]) if proto.input else None
        value = None if condition is None or condition.varies is not None else condition.at(0)
        if value is not None and value.size == 1:
            chosen = "then_branch" if bool(value.reshape(())) else "else_branch"
            return _inline(proto, chosen, bodies[chosen], file_outputs, scope, fold)
        return [_keep_if(proto, bodies, scope, fold)]
    _require(proto, bodies, "body")
    if proto.op_type == "Loop":
        return [_keep_loop(proto, bodies["body"], scope, fold)]
    return [_keep_scan(proto, bodies["body"], scope, fold)]


def _require(proto: onnx.NodeProto, bodies: dict[str, onnx.GraphProto], *wanted: str) -> None:
    if set(bodies) != set(wanted):
        raise ModelError(
            f"{proto.op_type} node {label(proto)!r} must have the bodies {', '.join(wanted)}, "
            f"got {', '.join(sorted(bodies))}"
        )


def _inside(proto: onnx.NodeProto, body: str, scope: Scope) -> Scope:
    """Return the scope of a body of ``proto``: new names, and outputs that no one keeps."""
    path = f"{scope.path}{label(proto)}/{body}/"
    return Scope(scope.names.new_child(), frozenset(), path, scope.draft)


def _inline(
    proto: onnx.NodeProto,
    chosen: str,
    body: onnx.GraphProto,
    file_outputs: Sequence[str],
    scope: Scope,
    fold: Fold,
) -> list[Node]:
    inner = _inside(proto, chosen, scope)
    enter_initializers(body, inner)
    _check_outputs(proto, body, len(proto.output))
    nodes = fold(_ordered(body, inner), inner)
    for file_name, final, output in zip(file_outputs, proto.output, body.output, strict=False):
        source = inner.names.get(output.name, output.name)
        if final in scope.kept:
            nodes.append(_copied(source, final, scope))
        else:
            scope.names[file_name] = source
    return nodes


def _copied(source: str, final: str, scope: Scope) -> Node:
    """Return the Identity that gives a value a second name."""
    draft = scope.draft
    draft.types[final] = draft.types.get(source, (None,) * draft.n_probes)
    name = draft.fresh_node("", scope.path + final)
    return Node(name, "Identity", "", draft.version(""), (source,), (final,))


def _check_outputs(proto: onnx.NodeProto, body: onnx.GraphProto, count: int) -> None:
    if len(body.output) != count:
        raise ModelError(
            f"{proto.op_type} node {label(proto)!r} needs a body with {count} outputs, "
            f"got {len(body.output)}"
        )


def enter_initializers(graph: onnx.GraphProto, scope: Scope) -> None:
    """Enter the initialisers of ``graph``, whose scope is given, as constants."""
    draft = scope.draft
    for tensor in graph.initializer:
        source = scope.path + tensor.name
        constant = read_tensor(tensor, source, draft.folder)
        final = draft.fresh_value(tensor.name) if scope.path else tensor.name
        scope.names[tensor.name] = final
        draft.value_names.add(final)
        draft.add_constant(final, constant)
        if constant.is_float:
            draft.originals[source] = constant
    for sparse in graph.sparse_initializer:
        raise ModelError(
            f"initialiser {sparse.values.name!r}: sparse tensors are not understood; store it dense"
        )


def _ordered(body: onnx.GraphProto, scope: Scope) -> list[onnx.NodeProto]:
    available = set(scope.names) | {value.name for value in body.input}
    return in_order(body.node, available, scope.path.rstrip("/"))


def _body(
    proto: onnx.NodeProto,
    name: str,
    body: onnx.GraphProto,
    input_types: Sequence[Types],
    scope: Scope,
    fold: Fold,
) -> tuple[Subgraph, list[str]]:
    """Return the body ``name`` of ``proto`` folded, and the final names of its outputs."""
    inner = _inside(proto, name, scope)
    names, draft = inner.names, inner.draft
    enter_initializers(body, inner)
    for value, types in zip(body.input, input_types, strict=True):
        final = draft.fresh_value(value.name)
        names[value.name] = final
        draft.types[final] = types
    nodes = fold(_ordered(body, inner), inner)
    # Each output must be a value of its own that a node inside makes: what folding took is copied.
    made = {name for node in nodes for name in node.outputs}
    outputs: list[str] = []
    for value in body.output:
        source = names.get(value.name, value.name)
        if source in made and source not in outputs:
            outputs.append(source)
            continue
        final = draft.fresh_value(value.name)
        nodes.append(_copied(source, final, inner))
        outputs.append(final)
    others = range(1, draft.n_probes)  # sizes that the batch changes stay open
    subgraph = Subgraph(
        nodes=tuple(nodes),
        inputs=tuple(
            as_value(names[v.name], draft.types[names[v.name]], others) for v in body.input
        ),
        outputs=tuple(as_value(name, draft.types.get(name), others) for name in outputs),
        constants={},
    )
    return subgraph, outputs


def _node(proto: onnx.NodeProto, bodies: dict[str, Subgraph], scope: Scope) -> Node:
    draft, path = scope.draft, scope.path
    attributes: dict[str, Attribute] = dict(plain_attributes(proto, draft.folder))
    attributes.update(bodies)
    return Node(
        name=draft.fresh_node(path + proto.name if proto.name else "", path + label(proto)),
        op_type=proto.op_type,
        domain="",
        version=draft.version(""),
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes=attributes,
    )


def _keep_if(
    proto: onnx.NodeProto,
    bodies: dict[str, onnx.GraphProto],
    scope: Scope,
    fold: Fold,
) -> Node:
    draft = scope.draft
    kept, results = {}, []
    for name, body in bodies.items():
        _check_outputs(proto, body, len(proto.output))
        kept[name], outputs = _branch(proto, name, body, scope, fold)
        results.append([draft.types.get(output) for output in outputs])
    for index, output in enumerate(proto.output):
        draft.types[output] = merged(results[0][index], results[1][index], draft.n_probes)
    return _node(proto, kept, scope)


def _branch(
    proto: onnx.NodeProto, name: str, body: onnx.GraphProto, scope: Scope, fold: Fold
) -> tuple[Subgraph, list[str]]:
    """Fold a branch; one that the bound sizes contradict does not run, and is left as general as it is."""
    draft = scope.draft
    before = draft.snapshot()
    result = _body(proto, name, body, [], scope, fold)
    if 0 not in draft.failures or 0 in before.failures:
        return result
    draft.restore(before)
    outside, outside_values = draft.types, draft.known_values
    draft.types = {name: outside[name] for name in draft.constants}
    draft.known_values = {name: k for name, k in outside_values.items() if name in draft.constants}
    result = _body(proto, name, body, [], scope, fold)
    draft.types = {**outside, **draft.types}
    draft.known_values = {**outside_values, **draft.known_values}
    return result


def _keep_loop(
    proto: onnx.NodeProto,
    body: onnx.GraphProto,
    scope: Scope,
    fold: Fold,
) -> Node:
    draft = scope.draft
    n_carried = len(proto.input) - 2
    if n_carried < 0 or len(body.input) != n_carried + 2 or len(body.output) <= n_carried:
        raise ModelError(f"Loop node {label(proto)!r}: its body does not take what it is given")
    if len(proto.output) > len(body.output) - 1:
        raise ModelError(f"Loop node {label(proto)!r}: its body yields too few outputs")
    index = (tensor_type(onnx.TensorProto.INT64, []),) * draft.n_probes
    going = (tensor_type(onnx.TensorProto.BOOL, []),) * draft.n_probes
    unknown: Types = (None,) * draft.n_probes
    carried = [draft.types.get(name, unknown) if name else unknown for name in proto.input[2:]]
    subgraph, results = _settled(
        lambda state: _body(proto, "body", body, [index, going, *state], scope, fold),
        carried,
        1,
        draft,
    )
    for position, output in enumerate(proto.output):
        if position < n_carried:
            draft.types[output] = merged(carried[position], results[1 + position], draft.n_probes)
        else:
            draft.types[output] = stacked(results[1 + position], None, 0)
    return _node(proto, {"body": subgraph}, scope)


def _settled(
    run: Callable[[list[Types]], tuple[Subgraph, list[str]]],
    state: list[Types],
    first: int,
    draft: Draft,
) -> tuple[Subgraph, list[Types | None]]:
    """Fold a body whose state comes back: again with open sizes if an iteration changes them."""
    before = draft.snapshot()
    subgraph, outputs = run(state)
    results = [draft.types.get(name) for name in outputs]
    after = results[first : first + len(state)]
    joint = [merged(a, b, draft.n_probes) for a, b in zip(state, after, strict=True)]
    if all(_shapes(a) == _shapes(b) for a, b in zip(state, joint, strict=True)):
        return subgraph, results
    draft.restore(before)
    subgraph, outputs = run(joint)
    return subgraph, [draft.types.get(name) for name in outputs]


def _shapes(types: Types) -> list[tuple[int | None, ...] | None]:
    return [sizes(kind) for kind in types]


def _keep_scan(
    proto: onnx.NodeProto,
    body: onnx.GraphProto,
    scope: Scope,
    fold: Fold,
) -> Node:
    draft = scope.draft
    attributes = plain_attributes(proto, draft.folder)
    n_scanned = attributes.get("num_scan_inputs")
    old = draft.version("") < 9  # with a batch axis and sequence lengths: left to execution
    inputs = list(proto.input)[1:] if old else list(proto.input)
    if not isinstance(n_scanned, int) or not 0 < n_scanned <= len(inputs):
        raise ModelError(f"Scan node {label(proto)!r}: num_scan_inputs must count its inputs")
    n_states = len(inputs) - n_scanned
    if len(body.input) != len(inputs) or len(body.output) < n_states:
        raise ModelError(f"Scan node {label(proto)!r}: its body does not take what it is given")
    _check_outputs(proto, body, len(proto.output))
    unknown: Types = (None,) * draft.n_probes
    given = [unknown if old else draft.types.get(name, unknown) for name in inputs]
    axes = attributes.get("scan_input_axes", (0,) * n_scanned)
    out_axes = attributes.get("scan_output_axes", (0,) * (len(proto.output) - n_states))
    if not isinstance(axes, tuple) or not isinstance(out_axes, tuple):
        raise ModelError(f"Scan node {label(proto)!r}: scan axes must be lists of integers")
    slices = [sliced(t, int(axis)) for t, axis in zip(given[n_states:], axes, strict=False)]
    if len(slices) != n_scanned:
        raise ModelError(f"Scan node {label(proto)!r}: one axis a scanned input is needed")
    lengths = [size_at(given[n_states], int(axes[0]), p) for p in range(draft.n_probes)]
    subgraph, results = _settled(
        lambda state: _body(proto, "body", body, [*state, *slices], scope, fold),
        given[:n_states],
        0,
        draft,
    )
    for position, output in enumerate(proto.output):
        if position < n_states:
            draft.types[output] = merged(given[position], results[position], draft.n_probes)
        elif position - n_states < len(out_axes) and not old:
            axis = int(out_axes[position - n_states])
            draft.types[output] = stacked(results[position], lengths, axis)
        else:
            draft.types[output] = unknown
    return _node(proto, {"body": subgraph}, scope)
