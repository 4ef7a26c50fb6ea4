"""If, Loop and Scan: subgraphs that run as programs of their own."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from mpsearch.execute.operators.kernel import Kernel, integer, integers
from mpsearch.graph.model import Node, Subgraph

Body = Callable[..., list[Tensor]]


def free_names(node: Node) -> tuple[str, ...]:
    """Return the outer values that the subgraphs of ``node`` read, in order of first use."""
    names: dict[str, None] = {}
    for value in node.attributes.values():
        if isinstance(value, Subgraph):
            names.update(dict.fromkeys(_free_in(value)))
    return tuple(names)


def _free_in(body: Subgraph) -> list[str]:
    known = {value.name for value in body.inputs} | set(body.constants)
    free: list[str] = []
    for node in body.nodes:
        free += [name for name in (*node.inputs, *free_names(node)) if name and name not in known]
        known.update(node.outputs)
    free += [value.name for value in body.outputs if value.name not in known]
    return free


def build_control(node: Node, compile_body: Callable[[Subgraph], Body]) -> Kernel | None:
    """Return the kernel of a node with subgraphs, None where the operator is unknown.

    The kernel takes the node's inputs, then the outer values that :func:`free_names` lists.
    """
    builders = {"If": _if, "Loop": _loop, "Scan": _scan}
    if node.domain not in ("", "ai.onnx") or node.op_type not in builders:
        return None
    if node.op_type == "Scan" and node.version < 9:
        return None
    bodies = {
        name: compile_body(value)
        for name, value in node.attributes.items()
        if isinstance(value, Subgraph)
    }
    return builders[node.op_type](node, bodies)


def _if(node: Node, bodies: dict[str, Body]) -> Kernel:
    yes, no = bodies["then_branch"], bodies["else_branch"]

    def kernel(condition: Tensor, *outer: Tensor) -> tuple[Tensor, ...]:
        return tuple((yes if bool(condition.reshape(-1)[0]) else no)(*outer))

    return kernel


def _loop(node: Node, bodies: dict[str, Body]) -> Kernel:
    body, explicit = bodies["body"], len(node.inputs)
    graph = cast(Subgraph, node.attributes["body"])
    carried_names = {value.name for value in graph.inputs}
    outer_used = [i for i, name in enumerate(free_names(node)) if name not in carried_names]

    def kernel(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        inputs = list(tensors[:explicit]) + [None] * (2 - explicit)
        trips, condition, carried = inputs[0], inputs[1], inputs[2:]
        outer = [tensors[explicit + i] for i in outer_used]
        limit = None if trips is None else int(trips.reshape(-1)[0])
        alive = True if condition is None else bool(condition.reshape(-1)[0])
        collected: list[list[Tensor]] = [[] for _ in range(len(graph.outputs) - 1 - len(carried))]
        step = 0
        while alive and (limit is None or step < limit):
            results = body(torch.tensor(step), torch.tensor(alive), *carried, *outer)
            alive = bool(results[0].reshape(-1)[0])
            carried = list(results[1 : 1 + len(carried)])
            for rows, row in zip(collected, results[1 + len(carried) :], strict=True):
                rows.append(row)
            step += 1
        stacked = [
            torch.stack(rows) if rows else _nothing(graph, 1 + len(carried) + i)
            for i, rows in enumerate(collected)
        ]
        return tuple(cast(list[Tensor], carried)) + tuple(stacked)

    return kernel


def _nothing(graph: Subgraph, output: int) -> Tensor:
    """An empty stack: no iteration ran, so unknown sizes are 0."""
    from mpsearch.execute.tensors import carrier

    value = graph.outputs[output]
    shape = [size or 0 for size in value.shape or ()]
    return torch.zeros([0, *shape], dtype=carrier(value.dtype or "float32"))


def _scan(node: Node, bodies: dict[str, Body]) -> Kernel:
    body, explicit = bodies["body"], len(node.inputs)
    graph = cast(Subgraph, node.attributes["body"])
    scanned = integer(node, "num_scan_inputs", 1)
    states = explicit - scanned
    produced = len(graph.outputs) - states
    in_axes = integers(node, "scan_input_axes") or [0] * scanned
    in_backwards = integers(node, "scan_input_directions") or [0] * scanned
    out_axes = integers(node, "scan_output_axes") or [0] * produced
    out_backwards = integers(node, "scan_output_directions") or [0] * produced
    own = {value.name for value in graph.inputs}
    outer_used = [i for i, name in enumerate(free_names(node)) if name not in own]

    def kernel(*tensors: Tensor) -> tuple[Tensor, ...]:
        carried = list(tensors[:states])
        outer = [tensors[explicit + i] for i in outer_used]
        sequences = [
            x.flip(axis) if backwards else x
            for x, axis, backwards in zip(
                tensors[states:explicit], in_axes, in_backwards, strict=True
            )
        ]
        length = sequences[0].shape[in_axes[0]] if sequences else 0
        collected: list[list[Tensor]] = [[] for _ in range(produced)]
        for t in range(length):
            slices = [x.select(axis, t) for x, axis in zip(sequences, in_axes, strict=True)]
            results = body(*carried, *slices, *outer)
            carried = results[:states]
            for rows, row in zip(collected, results[states:], strict=True):
                rows.append(row)
        outputs = []
        for i, rows in enumerate(collected):
            rows = rows[::-1] if out_backwards[i] else rows
            if rows:
                axis = out_axes[i]
                outputs.append(torch.stack(rows, axis))
            else:
                outputs.append(_nothing(graph, states + i))
        return (*carried, *outputs)

    return kernel
