"""From a graph to a program: every node a kernel, every value a slot."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.errors import ModelError, MpsearchError, UnsupportedOperatorError
from mpsearch.graph.model import ModelGraph, Node, Subgraph
from mpsearch.program.constants import ConstantTensors, fill_in
from mpsearch.program.control_flow import Body, find_control, free_names
from mpsearch.program.departures import warn_of_departures
from mpsearch.program.device_placement import place_kernel
from mpsearch.program.fusion import fuse_nodes
from mpsearch.program.onnxruntime_fallback import build_fallback
from mpsearch.program.operators.attributes import Kernel
from mpsearch.program.operators.table import find_builder
from mpsearch.program.program import ABSENT, UNBOUNDED, Program, Step, Values
from mpsearch.program.schedule import LayerCall, make_schedule, run_schedule


class UnsupportedNodesError(UnsupportedOperatorError):
    """Nodes that neither torch nor onnxruntime computes; names operators with their counts."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        counts = Counter(
            f"{node.domain + '.' if node.domain else ''}{node.op_type} (opset {node.version})"
            for node in nodes
        )
        named = ", ".join(f"{operator} × {count}" for operator, count in counts.most_common())
        ml = any(node.domain == "ai.onnx.ml" and node.op_type != "ZipMap" for node in nodes)
        super().__init__(
            f"every operator must be one that can be executed, but the model uses {named}"
            + (
                "; convert it with options={'zipmap': False} (skl2onnx)"
                if "ZipMap" in named
                else ""
            )
            + ("; trees and text models of ai.onnx.ml are out of scope" if ml else "")
        )


def compile_graph(
    graph: ModelGraph, device: torch.device | str = "cpu", *, max_held: int = UNBOUNDED
) -> Program:
    """Return the program that computes ``graph``.

    Args:
        graph: What to compute.
        device: Where.
        max_held: Bytes of constants that may be held in memory beside those that are mapped from a file;
            what is more is made anew for each use.

    Raises:
        UnsupportedOperatorError: Operators that neither torch nor onnxruntime computes, all of them named.
    """
    warn_of_departures(graph)
    layers = {layer.name: index for index, layer in enumerate(graph.layers)}
    dtypes = {name: value.dtype for name, value in graph.values.items()}
    kept = {value.name for value in graph.outputs}
    for layer in graph.layers:
        kept.add(layer.output)
        kept.update(gemm.left.value for gemm in layer.gemms)
    kept.update(name for node in graph.nodes for name in free_names(node))
    return compile_nodes(
        fuse_nodes(graph.nodes, graph.constants, kept),
        inputs=[value.name for value in graph.inputs],
        outputs=[value.name for value in graph.outputs],
        constants=graph.constants,
        device=torch.device(device),
        max_held=max_held,
        layers=layers,
        dtypes=dtypes,
    )


def compile_nodes(
    nodes: Sequence[Node],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    constants: Mapping[str, NDArray[np.generic]],
    device: torch.device,
    max_held: int = UNBOUNDED,
    layers: Mapping[str, int] = {},
    dtypes: Mapping[str, str | None] = {},
) -> Program:
    """Return the program of ``nodes``, which stand in topological order.

    Raises:
        UnsupportedOperatorError: Operators that neither torch nor onnxruntime computes, all of them named.
    """
    slots: dict[str, int] = {}
    for name in (*inputs, *constants):
        slots.setdefault(name, len(slots))
    tensors = ConstantTensors(constants, slots, device, max_held, keep=outputs)
    steps: list[Step] = []
    missing: list[Node] = []
    for node in nodes:
        for name in node.outputs:
            if name:
                slots.setdefault(name, len(slots))
    for index, node in enumerate(nodes):
        bodies: tuple[Program, ...] = ()
        if any(isinstance(value, Subgraph) for value in node.attributes.values()):
            built = _build_control(node, device, max_held, layers, missing)
            if built is None:
                continue
            kernel, native, bodies = built
        else:
            plain = _build(node, dtypes)
            if plain is None:
                missing.append(node)
                continue
            kernel, native = plain
        read = (*node.inputs, *free_names(node))
        unknown = [name for name in read if name and name not in slots]
        if unknown:
            raise ModelError(f"node {node.name!r} reads {unknown[0]!r}, which nothing produces")
        inputs_read = tuple(slots[name] if name else ABSENT for name in read)
        steps.append(
            Step(
                index,
                node,
                fill_in(place_kernel(kernel, node.op_type, device), inputs_read, tensors),
                inputs_read,
                tuple(slots[name] if name else ABSENT for name in node.outputs),
                layers.get(node.name, -1),
                native,
                bodies,
            )
        )
    if missing:
        raise UnsupportedNodesError(missing)
    lost = [name for name in outputs if name not in slots]
    if lost:
        raise ModelError(f"output {lost[0]!r} is produced by no node")
    return Program(
        tuple(steps),
        slots,
        tensors,
        tuple(inputs),
        tuple(outputs),
        device,
    )


def _build(node: Node, dtypes: Mapping[str, str | None]) -> tuple[Kernel, bool] | None:
    """Return the kernel of a node and whether it is torch's own; None where there is none."""
    builder = find_builder(node.domain, node.op_type)
    if builder is not None:
        zero = dtypes.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if node.op_type == "QuantizeLinear" and zero:  # its carrier may be wider
            node = replace(node, attributes={**node.attributes, "zero_point_type": zero})
        try:
            return builder(node), True
        except MpsearchError:
            pass  # the operator is native, this use of it is not
    fallback = build_fallback(node, dtypes)
    return None if fallback is None else (fallback, False)


def _build_control(
    node: Node,
    device: torch.device,
    max_held: int,
    layers: Mapping[str, int],
    missing: list[Node],
) -> tuple[Kernel, bool, "tuple[Program, ...]"] | None:
    """Return the kernel of a node with subgraphs; what they lack is added to ``missing``."""
    build = find_control(node)
    if build is None:
        missing.append(node)
        return None
    graphs = {n: value for n, value in node.attributes.items() if isinstance(value, Subgraph)}
    programs: dict[str, Program] = {}
    for name, graph in graphs.items():
        own = [value.name for value in graph.inputs]
        try:
            programs[name] = compile_nodes(
                graph.nodes,
                # outer values come last: where a name of the body hides one, the body's wins
                inputs=[*own, *(f"{'' if n not in own else '^'}{n}" for n in free_names(node))],
                outputs=[value.name for value in graph.outputs],
                constants=graph.constants,
                device=device,
                max_held=max_held,
                layers=layers,
                dtypes={value.name: value.dtype for value in graph.inputs},
            )
        except UnsupportedNodesError as error:
            missing.extend(error.nodes)
    if len(programs) < len(graphs):
        return None
    kernel = build(node, {name: _as_body(program) for name, program in programs.items()})
    return kernel, True, tuple(programs.values())


def _as_body(program: "Program") -> Body:
    """Return a function that runs ``program`` on tensors in the order of its inputs."""
    schedule = make_schedule(program, [program.slots[name] for name in program.outputs])

    def call_body(tensors: Sequence[Tensor], call: object) -> list[Tensor]:
        values = program.make_values()
        for name, tensor in zip(program.inputs, tensors, strict=True):
            values[program.slots[name]] = tensor
        run_schedule(schedule, values, call=cast(LayerCall | None, call))
        return [_present(values, program, name) for name in program.outputs]

    return call_body


def _present(values: Values, program: Program, name: str) -> Tensor:
    tensor = values[program.slots[name]]
    if tensor is None:
        raise ModelError(f"value {name!r} was not computed")
    return tensor
