"""If, Loop and Scan: subgraphs that run as programs of their own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from mpsearch.graph.model import Node, Subgraph
from mpsearch.program.operators.attributes import Kernel, integer, integers
from mpsearch.program.tensors import carrier


class Body(Protocol):
    """A compiled subgraph."""

    def __call__(self, tensors: Sequence[Tensor], call: object) -> list[Tensor]:
        """Run it on its inputs and the outer values it reads; ``call`` runs its layers."""


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


def find_control(node: Node) -> Callable[[Node, Mapping[str, Body]], Kernel] | None:
    """Return what builds the kernel of a node with subgraphs, None where the operator is unknown.

    The kernel takes the node's inputs, then the outer values that :func:`free_names` lists, and
    as ``call`` what runs the layers inside.
    """
    if node.domain not in ("", "ai.onnx") or (node.op_type == "Scan" and node.version < 9):
        return None
    return {"If": _if, "Loop": _loop, "Scan": _scan}.get(node.op_type)


def _if(node: Node, bodies: Mapping[str, Body]) -> Kernel:
    yes, no = bodies["then_branch"], bodies["else_branch"]

    def kernel(condition: Tensor, *outer: Tensor, call: object = None) -> tuple[Tensor, ...]:
        return tuple((yes if bool(condition.reshape(-1)[0]) else no)(outer, call))

    return kernel


def _loop(node: Node, bodies: Mapping[str, Body]) -> Kernel:
    body, explicit = bodies["body"], len(node.inputs)
    graph = cast(Subgraph, node.attributes["body"])

    def kernel(*tensors: Tensor | None, call: object = None) -> tuple[Tensor, ...]:
        inputs = list(tensors[:explicit]) + [None] * (2 - explicit)
        trips, condition, carried = inputs[0], inputs[1], inputs[2:]
        outer = tensors[explicit:]
        limit = None if trips is None else int(trips.reshape(-1)[0])
        alive = True if condition is None else bool(condition.reshape(-1)[0])
        collected: list[list[Tensor]] = [[] for _ in range(len(graph.outputs) - 1 - len(carried))]
        step = 0
        while alive and (limit is None or step < limit):
            results = body(
                cast(list[Tensor], [torch.tensor(step), torch.tensor(alive), *carried, *outer]),
                call,
            )
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
    value = graph.outputs[output]
    shape = [size or 0 for size in value.shape or ()]
    return torch.zeros([0, *shape], dtype=carrier(value.dtype or "float32"))


def _scan(node: Node, bodies: Mapping[str, Body]) -> Kernel:
    body, explicit = bodies["body"], len(node.inputs)
    graph = cast(Subgraph, node.attributes["body"])
    scanned = integer(node, "num_scan_inputs", 1)
    states = explicit - scanned
    produced = len(graph.outputs) - states
    in_axes = integers(node, "scan_input_axes") or [0] * scanned
    in_backwards = integers(node, "scan_input_directions") or [0] * scanned
    out_axes = integers(node, "scan_output_axes") or [0] * produced
    out_backwards = integers(node, "scan_output_directions") or [0] * produced

    def kernel(*tensors: Tensor, call: object = None) -> tuple[Tensor, ...]:
        carried, outer = list(tensors[:states]), tensors[explicit:]
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
            results = body([*carried, *slices, *outer], call)
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
