"""Which steps of a program run for which outputs, and when a value can be let go."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.errors import ModelError, MpsearchError
from mpsearch.program.program import ABSENT, Program, Step, Values


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
        run_step(step, values, call=call)
        if watch is not None:
            watch(step, values)
        for slot in frees:
            values[slot] = None


def run_step(step: Step, values: Values, *, call: LayerCall | None = None) -> None:
    """Run one step on ``values`` in place; see :func:`run_schedule`."""
    inputs = [values[slot] for slot in step.inputs]
    try:
        if step.bodies:
            result = step.kernel(*inputs, call=call)
        elif step.layer >= 0 and call is not None:
            result = call(step, inputs)
        else:
            result = step.kernel(*inputs)
    except (MpsearchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch and Python raise whatever they like
        raise _failure(step, inputs, error) from error
    if isinstance(result, tuple | list):
        for slot, tensor in zip(step.outputs, result, strict=False):
            values[slot] = tensor
        values[ABSENT] = None
    else:
        values[step.outputs[0]] = result


def _failure(step: Step, inputs: Sequence[Tensor | None], error: Exception) -> ModelError:
    shapes = ", ".join("-" if x is None else str(tuple(x.shape)) for x in inputs)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    node = step.node
    return ModelError(
        f"node {node.name!r} ({node.op_type}, opset {node.version}) failed on inputs {shapes}: {reason}"
    )
