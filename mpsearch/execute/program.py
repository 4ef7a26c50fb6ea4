"""The graph as a torch program: kernels in order, values in slots, each freed after its last use.

A program is compiled once. What is run of it is a schedule: all of it, or only what must be computed
anew when some layers change and other values are at hand.
"""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.errors import ModelError, MpsearchError, UnsupportedOperatorError
from mpsearch.execute.constants import ConstantTensors, fill_in
from mpsearch.execute.control import Body, find_control, free_names
from mpsearch.execute.fallback import build_fallback
from mpsearch.execute.fusion import fuse_nodes
from mpsearch.execute.operators.kernel import Kernel
from mpsearch.execute.operators.table import find_builder
from mpsearch.execute.placement import place_kernel
from mpsearch.graph.model import ModelGraph, Node, Subgraph

ABSENT = -1
"""Slot of an absent optional input; the last slot of every program, always None."""

UNBOUNDED = sys.maxsize

Values = list[Tensor | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One node, ready to run.

    Attributes:
        index: Its place in the program.
        node: What it computes.
        kernel: Takes the inputs' tensors.
        inputs: Slots; -1 where absent.
        outputs: Slots; -1 where unused.
        layer: Index of the layer that the node is, -1 for all other nodes.
        native: Whether torch computes it, with a gradient where the operator has one.
        bodies: Programs of its subgraphs.
    """

    index: int
    node: Node
    kernel: Kernel
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layer: int = -1
    native: bool = True
    bodies: "tuple[Program, ...]" = ()

    def layers(self) -> tuple[int, ...]:
        """Return the layers that run in it: itself, or those of its subgraphs."""
        own = (self.layer,) if self.layer >= 0 else ()
        return own + tuple(
            layer for body in self.bodies for step in body.steps for layer in step.layers()
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled graph.

    Attributes:
        steps: All steps, in topological order.
        slots: Value name to slot.
        constants: Slot to tensor of every initialiser.
        inputs: Names of what is fed.
        outputs: Names of what is returned.
        device: Where tensors live.
    """

    steps: tuple[Step, ...]
    slots: Mapping[str, int]
    constants: ConstantTensors
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: torch.device

    def make_values(self) -> Values:
        """Return a fresh list of slots that holds the constants that are at hand only."""
        values: Values = [None] * (len(self.slots) + 1)
        for slot, tensor in self.constants.held.items():
            values[slot] = tensor
        return values

    def fallbacks(self) -> tuple[Step, ...]:
        """Return the steps that onnxruntime computes: no gradient passes them."""
        inner = (step for outer in self.steps for body in outer.bodies for step in body.fallbacks())
        return tuple(step for step in self.steps if not step.native) + tuple(inner)

    def find_layers(self) -> "dict[int, tuple[Program, Step]]":
        """Return layer to its step, and the program (or subgraph's program) that it stands in."""
        found: dict[int, tuple[Program, Step]] = {}
        for step in self.steps:
            if step.layer >= 0:
                found[step.layer] = (self, step)
            for body in step.bodies:
                found.update(body.find_layers())
        return found


@dataclass(frozen=True, slots=True)
class Schedule:
    """Part of a program that computes some slots from others.

    Attributes:
        steps: What to run, in order.
        frees: After each step, the slots that nothing reads any more.
        loads: Slots that must be given, beside constants.
        wanted: Slots that are left at the end.
    """

    steps: tuple[Step, ...]
    frees: tuple[tuple[int, ...], ...]
    loads: tuple[int, ...]
    wanted: frozenset[int]


LayerCall = Callable[[Step, list[Tensor | None]], object]
"""Runs the step of a layer in place of its kernel."""


class UnsupportedNodesError(UnsupportedOperatorError):
    """Nodes that neither torch nor onnxruntime computes; names operators with their counts."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        counts = Counter(
            f"{node.domain + '.' if node.domain else ''}{node.op_type} (opset {node.version})"
            for node in nodes
        )
        named = ", ".join(f"{operator} × {count}" for operator, count in counts.most_common())
        super().__init__(
            f"every operator must be one that can be executed, but the model uses {named}"
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
        run_schedule(schedule, values, call=cast("LayerCall | None", call))
        return [_present(values, program, name) for name in program.outputs]

    return call_body


def _present(values: Values, program: Program, name: str) -> Tensor:
    tensor = values[program.slots[name]]
    if tensor is None:
        raise ModelError(f"value {name!r} was not computed")
    return tensor


def make_schedule(
    program: Program,
    wanted: Iterable[int],
    *,
    changed: Collection[int] | None = None,
    stored: Collection[int] = (),
) -> Schedule:
    """Return the least part of ``program`` that computes the slots ``wanted``.

    Args:
        program: What to run.
        wanted: Slots that must hold values at the end.
        changed: Indices of steps that compute something else than when ``stored`` was filled, and
            with them all that depends on them; None: everything.
        stored: Slots at hand: they are loaded unless they depend on a changed step.
    """
    dirty = _find_dirty(program, changed) if changed is not None else None
    given = set(program.constants) | {program.slots[name] for name in program.inputs}
    needed = set(wanted)
    keep = frozenset(needed)
    chosen: list[Step] = []
    loads: set[int] = set()
    at_hand = set(stored)
    for step in reversed(program.steps):
        outputs = [slot for slot in step.outputs if slot in needed]
        if not outputs:
            continue
        clean = dirty is not None and step.index not in dirty
        if clean and all(slot in at_hand for slot in outputs):
            loads.update(outputs)
            continue
        chosen.append(step)
        needed.update(slot for slot in step.inputs if slot != ABSENT)
    loads.update(needed & given - set(program.constants))
    chosen.reverse()
    last: dict[int, int] = {}
    for position, step in enumerate(chosen):
        for slot in (*step.inputs, *step.outputs):
            last[slot] = position
    frees: list[list[int]] = [[] for _ in chosen]
    for slot, position in last.items():
        if slot != ABSENT and slot not in keep and slot not in program.constants:
            frees[position].append(slot)
    return Schedule(tuple(chosen), tuple(map(tuple, frees)), tuple(sorted(loads)), keep)


def _find_dirty(program: Program, changed: Collection[int]) -> set[int]:
    """Indices of the steps in ``changed`` and of all that depend on them."""
    dirty: set[int] = set()
    slots: set[int] = set()
    for step in program.steps:
        if step.index in changed or not slots.isdisjoint(step.inputs):
            dirty.add(step.index)
            slots.update(slot for slot in step.outputs if slot != ABSENT)
    return dirty


def run_schedule(
    schedule: Schedule,
    values: Values,
    *,
    call: LayerCall | None = None,
    watch: Callable[[Step, Values], None] | None = None,
) -> None:
    """Run ``schedule`` on ``values`` in place; loads and constants must be there.

    Args:
        schedule: What to run.
        values: Slots; at the end those wanted hold tensors.
        call: Runs the steps of layers; None: their kernels.
        watch: Called after each step, before anything is freed.

    Raises:
        ModelError: A kernel failed; the message names its node.
    """
    for step, frees in zip(schedule.steps, schedule.frees, strict=True):
        inputs = [values[slot] for slot in step.inputs]
        try:
            if step.bodies:
                result = step.kernel(*inputs, call=call)
            elif step.layer >= 0 and call is not None:
                result = call(step, inputs)
            else:
                result = step.kernel(*inputs)
        except (RuntimeError, IndexError, TypeError, AttributeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise _failure(step, inputs, error) from error
        if isinstance(result, tuple | list):
            for slot, tensor in zip(step.outputs, result, strict=False):
                values[slot] = tensor
            values[ABSENT] = None
        else:
            values[step.outputs[0]] = result
        if watch is not None:
            watch(step, values)
        for slot in frees:
            values[slot] = None


def _failure(step: Step, inputs: Sequence[Tensor | None], error: Exception) -> ModelError:
    shapes = ", ".join("-" if x is None else str(tuple(x.shape)) for x in inputs)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    node = step.node
    return ModelError(
        f"node {node.name!r} ({node.op_type}, opset {node.version}) failed on inputs {shapes}: {reason}"
    )
