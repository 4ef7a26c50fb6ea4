"""Layers of a folded graph, in schedule order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

from mpsearch.graph.layers.operands import Shape, ShapeOf
from mpsearch.graph.layers.products import gemms_of
from mpsearch.graph.layers.traversal import all_nodes
from mpsearch.graph.model import Gemm, Layer, Node, Subgraph
from mpsearch.graph.onnx_file.constants import Constant

_LONGEST = 50  # nodes that are walked back for a known size
FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})


def find_layers(
    nodes: Sequence[Node],
    shape_of: ShapeOf,
    other_batch: ShapeOf | None,
    dtypes: Mapping[str, str | None],
    constants: Mapping[str, Constant],
    trips: Mapping[str, int],
    fqns: Mapping[str, str],
) -> tuple[Layer, ...]:
    """Return the layers of ``nodes``, those in subgraphs included.

    Args:
        nodes: In topological order.
        shape_of: Shapes at the graph's batch.
        other_batch: Shapes at another batch, to tell what the batch multiplies; None if fixed.
        dtypes: Value name to element type; products of integers are no layers.
        constants: Weights.
        trips: Name of a Loop or Scan to how often its body runs.
        fqns: Node name to module name.
    """
    layers = []
    for node, calls in _with_calls(nodes, 1, trips):
        gemms = gemms_of(node, shape_of, constants)
        if not gemms or _is_integer(node, dtypes) or _is_settled(node, constants):
            continue
        if other_batch is not None:
            there = gemms_of(node, other_batch, constants)
            gemms = tuple(_with_batch(a, b) for a, b in zip(gemms, there, strict=True))
        read = next((gemm.left.value for gemm in gemms if gemm.left.value), "")
        layers.append(
            Layer(
                name=node.name,
                op_type=node.op_type,
                gemms=tuple(replace(gemm, calls=gemm.calls * calls) for gemm in gemms),
                output=node.outputs[0],
                input_elements=elements(shape_of(read)),
                output_elements=elements(shape_of(node.outputs[0])),
                fqn=_module(fqns.get(node.name, ""), node, gemms[0]),
            )
        )
    return tuple(layers)


def _module(scope: str, node: Node, gemm: Gemm) -> str:
    """Return the module that owns the weight: inside ``scope``, or of a convolution that took a norm in."""
    owner, dot, kind = gemm.right.source.rpartition(".")
    if not (scope and dot and kind == "weight" and gemm.has_weight):
        return scope
    return owner if owner.startswith(scope + ".") or "Conv" in node.op_type else scope


def with_known_rows(
    layers: Sequence[Layer], nodes: Sequence[Node], shape_of: ShapeOf
) -> tuple[Layer, ...]:
    """Return ``layers`` with M where only the data decide it (tokens of one expert): at most so many rows.

    It is what the nearest tensor of known size before the layer would give, 1 where there is none;
    calls that are not known count once.
    """
    made_by = {name: node for node in all_nodes(nodes) for name in node.outputs}

    def rows(gemm: Gemm) -> int:
        value = gemm.left.value
        for _ in range(_LONGEST):
            shape = shape_of(value)
            if shape and elements(shape) and shape[-1] == gemm.k:
                return elements(shape) // gemm.k
            node = made_by.get(value)
            if node is None or not node.inputs:
                break
            value = node.inputs[0]
        return 1

    return tuple(
        replace(
            layer,
            gemms=tuple(
                replace(gemm, m=gemm.m or rows(gemm), calls=gemm.calls or 1) for gemm in layer.gemms
            ),
        )
        if any(not (gemm.m and gemm.calls) for gemm in layer.gemms)
        else layer
        for layer in layers
    )


def elements(shape: Shape) -> int:
    """Return the number of elements of a tensor, 0 if a size is unknown."""
    if shape is None or None in shape:
        return 0
    return prod(size or 0 for size in shape)


def _with_calls(
    nodes: Sequence[Node], calls: int, trips: Mapping[str, int]
) -> Iterator[tuple[Node, int]]:
    for node in nodes:
        for body in node.attributes.values():
            if isinstance(body, Subgraph):
                yield from _with_calls(body.nodes, calls * trips.get(node.name, 1), trips)
        yield node, calls


def _is_integer(node: Node, dtypes: Mapping[str, str | None]) -> bool:
    dtype = dtypes.get(node.outputs[0])
    return dtype is not None and dtype not in FLOATS


def _is_settled(node: Node, constants: Mapping[str, Constant]) -> bool:
    """Return whether the node reads constants alone, so that nothing is left to decide."""
    return all(name in constants for name in node.inputs if name)


def _with_batch(here: Gemm, there: Gemm) -> Gemm:
    """Return ``here`` with what the batch multiplies, as the product at another batch shows it."""
    if here.k != there.k:
        here = replace(here, batch_in_k=True)
    if not (here.m and there.m and here.calls and there.calls):
        return here
    if here.m != there.m:
        return replace(here, batch_in_m=True)
    return replace(here, batch_in_m=here.calls == there.calls and here.batch_in_m)
