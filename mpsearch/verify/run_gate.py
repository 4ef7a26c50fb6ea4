"""A deployment gate run on an export: the checklist in order, its file beside the export."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import ceil, prod
from pathlib import Path

import onnx

from mpsearch.artifacts import digest_file
from mpsearch.data.batches import Batches
from mpsearch.errors import NumericsError, PlanError
from mpsearch.export.npu.export import stored_bytes
from mpsearch.export.npu.layout import GRAPH, LAYOUT, read_layout
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.constants import Constants
from mpsearch.graph.onnx_file.read import walk_nodes
from mpsearch.plan.plan import Plan
from mpsearch.problem.tables import Progress
from mpsearch.stats.digits import number
from mpsearch.verify.gate import GATE, Gate, GateCheck, Limits, write_gate
from mpsearch.verify.gate_inputs import (
    check_batches_alone,
    check_determinism,
    check_extremes,
    check_overflow,
)
from mpsearch.verify.gate_loss import check_losses
from mpsearch.verify.opened import CheckpointOutputs, Opened, open_export
from mpsearch.verify.verification import Verification
from mpsearch.verify.verify_checkpoint import verify_checkpoint
from mpsearch.verify.verify_plan import TOLERANCE, verify_opened

_PROVEN = 8
"""Samples that layers are compared on."""
_BITS = {1: 32, 2: 8, 3: 8, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 16: 16, 21: 4, 22: 4, 23: 4}
"""ONNX element type to its bits; others that exports store have 8."""


def run_gate(
    plan: Plan,
    model: str | Path | ModelGraph,
    exported: str | Path,
    batches: Batches,
    *,
    runtime: str = "reference",
    samples: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    progress: Progress | None = None,
) -> Gate:
    """Run the checklist on an export, and write what it found as ``gate.json`` into its folder.

    Args:
        plan: What was exported.
        model: The user's ONNX file, or the graph that ``import_torch`` made.
        exported: Folder of the export.
        batches: Data that the plan was not made with; their ``slice`` and ``labels`` are read.
        runtime: Where the export is run.
        samples: How many samples losses are measured on; None is all.
        limits: What is asked for.
        progress: Called with (checks done, checks, the last one).

    Raises:
        PlanError: Plan, model and export do not belong together, or the runtime fails.
        DataError: The data do not fit the model, or the loss does not fit both.
    """
    folder = Path(exported)
    with open_export(plan, model, folder, batches, runtime) as opened:
        checks = []
        for check in _run_all(opened, plan, folder, samples, limits):
            checks.append(check)
            if progress is not None:
                progress(len(checks), max(_CHECKS, len(checks)), f"{check.name}: {check.verdict}")
        taken = len(opened.chosen(samples))
        gate = Gate(opened.graph.name, runtime, taken, tuple(checks), plan.fallback, opened.note)
    inputs = {"data": batches.digest}
    if (folder / "plan.json").is_file():
        inputs["plan"] = digest_file(folder / "plan.json")
    write_gate(gate, folder / GATE, asdict(limits), inputs)
    return gate


_CHECKS = 13


def _run_all(
    opened: Opened,
    plan: Plan,
    folder: Path,
    samples: int | None,
    limits: Limits,
) -> Iterator[GateCheck]:
    yield _check_layers(opened, plan)
    yield check_batches_alone(opened)
    yield check_determinism(opened)
    yield from check_extremes(opened, limits)
    chosen = opened.chosen(samples)
    outputs, fp32 = opened.run(chosen), opened.run_fp32(chosen)
    yield check_overflow(opened, chosen, outputs)
    yield from check_losses(opened, chosen, fp32, outputs, limits)
    yield check_coverage(plan, limits)
    yield check_size(plan, opened.graph, folder, opened.path, limits)


def _verify(opened: Opened, plan: Plan) -> Verification:
    if not isinstance(opened.session, CheckpointOutputs):
        return verify_opened(opened, _PROVEN)
    checkpoint, rest = opened.session.checkpoint, (opened.runtime, _PROVEN, None)
    return verify_checkpoint(plan, opened.graph, opened.path, opened.batches, checkpoint, *rest)


def _check_layers(opened: Opened, plan: Plan) -> GateCheck:
    try:
        found = _verify(opened, plan)
    except NumericsError as error:
        return GateCheck("layers", "fail", None, TOLERANCE, str(error))
    worst = found.worst
    value = None if worst is None else worst.error
    if not found.ok:
        return GateCheck("layers", "fail", value, found.tolerance, found.difference)
    told = f"{len(found.layers)} layers and the outputs equal the simulation"
    if found.unproven:
        told += f"; unproven: {', '.join(list(found.unproven)[:3])}"
    return GateCheck("layers", "pass", value, found.tolerance, told)


def check_coverage(plan: Plan, limits: Limits) -> GateCheck:
    """Check which share of the model's FLOPs the plan decides, and say what it leaves out."""
    covered = plan.coverage
    share = covered.flops / covered.total_flops if covered.total_flops else 1.0
    parameters = covered.parameters / covered.total_parameters if covered.total_parameters else 1.0
    told = f"of FLOPs, {number(parameters)} of parameters"
    if covered.undecided:
        names = list(covered.undecided)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        told += f"; left out: {', '.join(names[:3])}{more}"
    verdict = share >= limits.min_coverage
    return GateCheck("coverage", "pass" if verdict else "fail", share, limits.min_coverage, told)


def check_size(
    plan: Plan, graph: ModelGraph, folder: Path, model: Path, limits: Limits
) -> GateCheck:
    """Compare the bytes that the export stores of decided weights with the plan's size."""
    known = plan.predicted.get("weight_bytes")
    told = known.mean if known else plan.coverage.effective_bits * plan.coverage.parameters / 8
    on_disk = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    if model.is_dir():
        said = f"{on_disk} bytes on disk; a checkpoint does not tell decided weights from others"
        return GateCheck("size", "skipped", detail=said)
    stored = stored_weights(model, graph)
    if (folder / LAYOUT).is_file():
        layout = read_layout(folder / LAYOUT)
        stored = stored_bytes(layout) + stored_weights(folder / GRAPH, graph)
    off = abs(stored - told) / max(told, 1.0)
    said = f"{stored} bytes of weights stored, {number(told, 6)} told; {on_disk} bytes on disk"
    verdict = off <= limits.size_tolerance
    return GateCheck("size", "pass" if verdict else "fail", off, limits.size_tolerance, said)


def stored_weights(path: Path, graph: ModelGraph) -> int:
    """Return the bytes that an ONNX export stores of what its plan decides.

    These are all initialisers that layers' weights are computed from, and of the user's own tensors whatever other
    operators read.

    Raises:
        PlanError: The file cannot be read.
    """
    try:
        exported = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf and the file system
        raise PlanError(f"{path.name}: must be a readable ONNX model: {error}") from None
    nodes = [*walk_nodes(exported)]
    tensors = {tensor.name: tensor for tensor in exported.initializer}
    for node in nodes:
        for attribute in node.attribute:
            tensors.update({tensor.name: tensor for tensor in attribute.g.initializer})
    by_name = {node.name: node for node in nodes}
    made_by = {name: node for node in nodes for name in node.output}
    found = _decided_constants(graph) & tensors.keys()
    for layer in graph.layers:
        for gemm in layer.gemms:
            if gemm.has_weight and layer.name in by_name:
                name = by_name[layer.name].input[gemm.right.input_index]
                found |= _sources(name, tensors, made_by)
    return sum(ceil(_BITS.get(tensors[n].data_type, 8) * prod(tensors[n].dims) / 8) for n in found)


def _decided_constants(graph: ModelGraph) -> set[str]:
    """Names of constants that hold what some layer multiplies with, or a part of it."""
    constants = graph.constants
    entries = constants.entries if isinstance(constants, Constants) else {}
    decided = {g.right.source for layer in graph.layers for g in layer.gemms if g.has_weight}
    return {name for name, constant in entries.items() if constant.source in decided}


def _sources(
    name: str, tensors: Mapping[str, onnx.TensorProto], made_by: Mapping[str, onnx.NodeProto]
) -> set[str]:
    """Initialisers that a weight is computed from."""
    found, seen, waiting = set[str](), set[str](), [name]
    while waiting:
        value = waiting.pop()
        if value in tensors:
            found.add(value)
        elif value in made_by and value not in seen:
            seen.add(value)
            waiting += made_by[value].input
    return found
