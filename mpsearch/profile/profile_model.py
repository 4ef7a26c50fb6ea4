"""A measured device file: the kernels of a model's layers, alone, in each scheme that a runtime has kernels for."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.executed.kernel_shapes import KernelShape, find_kernel_shapes, find_sizes
from mpsearch.cost.executed.onnxruntime import is_static_int8, reads_codes, view_graph
from mpsearch.cost.executed.table import (
    MeasuredBoundary,
    MeasuredKernel,
    MeasuredModel,
    MeasuredTable,
)
from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Progress
from mpsearch.profile.journal import Journal
from mpsearch.profile.kernel_models import (
    Array,
    KernelModel,
    empty_model,
    emulated_rounding,
    float_kernel,
    integer_kernel,
    reference_model,
    rounding_pair,
)
from mpsearch.profile.stopwatch import Timing, time_all
from mpsearch.profile.timed_runtime import TimedRuntime
from mpsearch.schemes import Scheme, find_scheme

NOISY = 0.05
"""Median relative standard error of a kernel above which nothing is written."""
_TOLERANCE = 0.02
_INTEGER = ("Conv", "MatMul", "Gemm")
_LAYOUTS = ("ReorderInput", "ReorderOutput", "Transpose", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        graph: The model, all sizes known.
        file: Its file, which is measured end to end in fp32.
        feeds: What it is run on, at the sizes of ``graph``.
    """

    graph: ModelGraph
    file: Path
    feeds: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class _Item:
    """One model to be timed."""

    name: str
    make: Callable[[], KernelModel]
    has_parts: bool = False


def profile_model(
    subject: Subject,
    schemes: Sequence[Scheme],
    runtime: TimedRuntime,
    *,
    name: str,
    journal: Journal,
    budget_s: float = 240.0,
    progress: Progress | None = None,
) -> Device:
    """Return a device file's content: every kernel of a model in fp32 and, where a scheme asks for it, int8.

    Args:
        subject: The model.
        schemes: Those that plans may use; what the runtime only emulates is noted, not measured.
        runtime: Where it is measured.
        name: The device's name.
        journal: Keeps each measurement, and gives those of an interrupted profile.
        budget_s: Wall-clock time after which kernels are no longer measured again.
        progress: Called with (stable, all, what goes on).

    Raises:
        DeviceError: A size is not known, no layer has a kernel, or the machine was too noisy.
        PlanError: The runtime cannot run the model.
    """
    graph = subject.graph
    shapes = list(dict.fromkeys(shape for shape in find_kernel_shapes(graph) if shape))
    if graph.unbound or not shapes:
        unbound = ", ".join(graph.unbound) or "none"
        raise DeviceError(
            f"sizes of every layer must be known to measure {graph.name}, which has unbound axes: {unbound}; "
            "give them with --shape"
        )
    narrow = any(is_static_int8(scheme) for scheme in schemes)
    timed = _measure(
        _items(graph, shapes, narrow, runtime), subject, runtime, journal, budget_s, progress
    )
    timings = {key: Timing(*value["timing"]) for key, value in timed.items()}
    noise = float(np.median([timing.noise for timing in timings.values()]))
    if noise > NOISY:
        raise DeviceError(
            f"the machine must be quiet enough to measure, but half of the kernels are known to {noise:.0%} at "
            f"best, where {NOISY:.0%} is allowed; stop what else runs, or give it more time (--minutes)"
        )
    call_us = timings["empty"].us
    kernels = [
        row for key in timed if key[:2] in ("f ", "i ") for row in [_row(key, timed, call_us)]
    ]
    sizes = dict.fromkeys(key[2:] for key in timed if key[:2] in ("q ", "e "))
    boundaries = [_boundary(size, timed, call_us) for size in sizes]
    whole, layouts = timings["model"], runtime.layouts(subject.file)
    table = MeasuredTable(
        runtime=runtime.name,
        version=runtime.version,
        noise=noise,
        kernels=tuple(kernels),
        boundaries=tuple(boundaries),
        models=(
            MeasuredModel(
                model=graph.name,
                structure_digest=graph.structure_digest,
                batch=graph.batch,
                float_us=whole.us,
                stderr_us=whole.stderr_us,
                plain=tuple(sorted({*layouts.entered, *layouts.left})),
                entered=layouts.entered,
            ),
        ),
        emulated={s.name: reason for s in schemes if (reason := emulation(s, runtime))},
    )
    return _device(name, table, shapes, narrow)


def emulation(scheme: Scheme, runtime: TimedRuntime) -> str:
    """Return why ``scheme`` is no faster than fp32 in the runtime; "" where it has kernels for it."""
    if is_static_int8(scheme) or scheme.name == "fp32":
        return ""
    return f"{runtime.name} has no kernels for {scheme.name} on this processor: it computes in fp32 between roundings"


def _items(
    graph: ModelGraph, shapes: Sequence[KernelShape], narrow: bool, runtime: TimedRuntime
) -> list[_Item]:
    items = [_Item("empty", empty_model)]
    for shape in shapes:
        items.append(_Item(f"f {shape.key}", partial(float_kernel, shape), True))
        if narrow and shape.op_type in _INTEGER:
            items.append(_Item(f"i {shape.key}", partial(integer_kernel, shape), True))
    if narrow and runtime.has_boundaries:
        in_codes, emulated = _rounded_sizes(graph)
        items += [_Item(f"q {_text(s)}", partial(rounding_pair, s), True) for s in in_codes]
        items += [_Item(f"e {_text(s)}", partial(emulated_rounding, s)) for s in emulated]
    return items


def _rounded_sizes(
    graph: ModelGraph,
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Sizes of tensors that int8 layers read in codes, and of those that they round in fp32."""
    view, scheme = view_graph(graph), find_scheme("int8")
    found: tuple[set[tuple[int, ...]], set[tuple[int, ...]]] = set(), set()
    for i, layer in enumerate(graph.layers):
        gemm = layer.gemms[0]
        for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
            sizes = find_sizes(graph, operand.value)
            if sizes is not None:
                found[0 if reads_codes(view, i, scheme) else 1].add(sizes)
    return sorted(found[0]), sorted(found[1])


def _measure(
    items: Sequence[_Item],
    subject: Subject,
    runtime: TimedRuntime,
    journal: Journal,
    budget_s: float,
    progress: Progress | None,
) -> dict[str, dict[str, Any]]:
    """Name → timing and shares of operators, from the journal or measured."""
    names = [*(item.name for item in items), "model"]
    done = {
        name: found
        for name in names
        if (found := journal.get(name)) is not None and Timing(*found["timing"]).noise <= _TOLERANCE
    }
    runs: dict[str, Callable[[], None]] = {}
    shares: dict[str, list[tuple[str, str, float]]] = {}
    for item in items:
        if item.name in done:
            continue
        made = item.make()
        runs[item.name] = runtime.open_timed(made.model, made.feeds)
        if item.has_parts:
            shares[item.name] = runtime.find_shares(made.model, made.feeds)
    if "model" not in done:
        runs["model"] = runtime.open_timed(subject.file, subject.feeds)

    def keep(name: str, timing: Timing) -> None:
        done[name] = {
            "timing": [timing.us, timing.stderr_us, timing.rounds, timing.disturbed],
            "shares": shares.get(name, []),
        }
        journal.add(name, done[name])

    if runs:
        known = reference_model()
        reference = runtime.open_timed(known.model, known.feeds)
        time_all(
            runs,
            reference=reference,
            tolerance=_TOLERANCE,
            budget_s=budget_s,
            kept=journal,
            progress=progress,
            settled=keep,
        )
    return done


def _parts(entry: Mapping[str, Any], call_us: float) -> tuple[dict[str, float], float]:
    """Operator of a change of layout or rounding → microseconds of each, and what all others take."""
    total = max(entry["timing"][0] - call_us, 0.0)
    parts: dict[str, float] = {}
    rest = 0.0
    first = True
    for op_type, _, share in entry["shares"]:
        if op_type in _LAYOUTS:
            label = op_type if op_type != "Transpose" else ("enter" if first else "leave")
            parts[label] = parts.get(label, 0.0) + share * total
        else:
            first = False
            rest += share * total
    return parts, rest if entry["shares"] else total


def _row(name: str, timed: Mapping[str, Mapping[str, Any]], call_us: float) -> MeasuredKernel:
    entry = timed[name]
    parts, us = _parts(entry, call_us)
    return MeasuredKernel(
        kernel=name[2:],
        form="float" if name.startswith("f ") else "integer",
        us=round(us, 3),
        enter_us=round(parts.get("ReorderInput", 0.0) + parts.get("enter", 0.0), 3),
        leave_us=round(parts.get("ReorderOutput", 0.0) + parts.get("leave", 0.0), 3),
        stderr_us=round(entry["timing"][1], 3),
    )


def _boundary(
    sizes: str, timed: Mapping[str, Mapping[str, Any]], call_us: float
) -> MeasuredBoundary:
    """What is known of a tensor of ``sizes``; 0 of what was not measured."""
    nothing: Mapping[str, Any] = {"timing": [0.0, 0.0, 0, 0.0], "shares": []}
    parts, held = _parts(timed.get(f"q {sizes}", nothing), call_us)
    _, emulated = _parts(timed.get(f"e {sizes}", nothing), call_us)
    return MeasuredBoundary(
        shape=sizes,
        quantize_us=round(parts.get("QuantizeLinear", 0.0), 3),
        dequantize_us=round(parts.get("DequantizeLinear", 0.0) + held, 3),
        emulate_us=round(emulated, 3),
    )


def _device(name: str, table: MeasuredTable, shapes: Sequence[KernelShape], narrow: bool) -> Device:
    """The file: its peaks are the best kernels', for people and for what asks which formats there are."""
    flops = {shape.key: _flops(shape) for shape in shapes}
    best: dict[str, float] = {}
    for kernel in table.kernels:
        rate = "fp32" if kernel.form == "float" else "int8"
        reached = flops[kernel.kernel] / max(kernel.us, 1e-3) / 1e6
        best[rate] = max(best.get(rate, 1e-6), reached)
    moved = [
        5 * np.prod([int(size) for size in b.shape.split("x")]) / max(b.quantize_us, 1e-3) / 1e3
        for b in table.boundaries
        if b.quantize_us
    ]
    return Device(
        name=name,
        title=f"measured with {table.version}, one thread",
        model="measured",
        architecture=f"cpu {platform.machine()}",
        bandwidth_gb_s=float(round(max(moved, default=1.0), 3)),
        peak_tflops={rate: round(value, 6) for rate, value in best.items()},
        formats=("fp32", "int8") if narrow else ("fp32",),
        relative_error=round(table.noise, 4),
        measured=table,
        confidence="measured",
        sources=(f"mpsearch profile: {table.version}, thread CPU time of one thread",),
    )


def _flops(shape: KernelShape) -> float:
    """Operations of a kernel; of a convolution, those at its input's positions."""
    if shape.op_type in ("Conv", "ConvTranspose"):
        return 2.0 * float(np.prod(shape.right)) * float(np.prod(shape.left[2:]) * shape.left[0])
    columns = shape.right[-2 if dict(shape.attributes).get("transB", 0) else -1]
    return 2.0 * float(np.prod(shape.left)) * columns


def _text(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
