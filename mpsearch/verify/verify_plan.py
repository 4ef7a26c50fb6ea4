"""An exported plan, run in a real runtime, against the simulation.

Each layer is fed the runtime's own inputs, so that its error is its own. Then the outputs of the whole model
are compared, where errors may add up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.errors import PlanError
from mpsearch.export.export_plan import written_by
from mpsearch.export.planned import planned_weights
from mpsearch.graph.model import Layer, ModelGraph, Node
from mpsearch.graph.onnx_file.read import walk_nodes
from mpsearch.plan.match import plan_assignment, plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.problem.tables import Progress
from mpsearch.program.compile import compile_graph
from mpsearch.program.departures import find_departures
from mpsearch.program.tensors import to_tensor
from mpsearch.registry import find
from mpsearch.runtimes.checkpoint import CheckpointRuntime
from mpsearch.runtimes.rounding import EXACT, Rounding
from mpsearch.runtimes.session import load_model
from mpsearch.schemes import Scheme
from mpsearch.simulate.probe import quantized_weight, replay, run_outputs, simulated_weight
from mpsearch.verify.compare import check_shapes, relative_errors, squared_difference
from mpsearch.verify.deployed import check_deployed
from mpsearch.verify.opened import Opened, open_export
from mpsearch.verify.oracle import (
    call_documented,
    read_operands,
    run_documented,
    settle_ties,
    widen,
)
from mpsearch.verify.verification import LayerCheck, Verification, WholeCheck
from mpsearch.verify.verify_checkpoint import find_folder, verify_checkpoint
from mpsearch.verify.whole import BatchOutputs, check_whole, measure_outputs

TOLERANCE = 1e-3
_NATIVE = {"float16": "fp16", "bfloat16": "bf16"}
_NATIVE_TOLERANCE = 2.0**-6
"""Of layers in models whose own tensors are of 16 bits: runtimes sum products in 16 bits or in 32, round what
stands between operators or not, and a value that they have otherwise may fall to the next code of a narrower format."""
_SAMPLES = 8
_LEAST_DIVERGENCE = 1e-6


def verify_plan(
    plan: Plan,
    model: str | Path | ModelGraph,
    exported: str | Path | Sequence[str | Path],
    batches: Batches,
    *,
    runtime: str = "reference",
    samples: int | None = _SAMPLES,
    progress: Progress | None = None,
) -> Verification:
    """Run an export in ``runtime`` and compare it with the simulation of its plan.

    Args:
        plan: What was exported.
        model: The user's ONNX file, or the graph that ``import_torch`` made.
        exported: Folder, file or files of the export.
        batches: Data to run; the calibration data themselves for a plan of an earlier version that recovers
            pruned weights and does not bring them.
        runtime: ``reference``, ``openvino``, ``onnxruntime``, ``transformers`` (checkpoints) or a third party's.
        samples: How many of the samples are run; None is all. The reference evaluator is slow.
        progress: Called with (batches done, batches, the worst layer so far).

    Raises:
        PlanError: Plan, model and export do not belong together, the runtime refuses the export or fails while it runs.
        DataError: The data do not fit the model.
        NumericsError: The runtime or the simulation gives NaN or Inf; the message names the layer.
        MissingExtraError: The runtime is not installed.
    """
    opener = find("runtimes", runtime)
    if isinstance(opener, CheckpointRuntime):
        folder = find_folder(exported)
        checkpoint = opener.open(folder)
        return verify_checkpoint(
            plan, model, folder, batches, checkpoint, runtime, samples, progress
        )
    with open_export(plan, model, exported, batches, runtime) as opened:
        return verify_opened(opened, samples, progress)


def verify_opened(
    opened: Opened, samples: int | None = _SAMPLES, progress: Progress | None = None
) -> Verification:
    """Return what :func:`verify_plan` does, of an export that is open already."""
    plan, graph, session, runtime = opened.plan, opened.graph, opened.session, opened.runtime
    calibrated, form, heads, kind = opened.calibrated, opened.form, opened.heads, opened.kind
    schemes = plan_schemes(plan, graph)
    chosen = opened.chosen(samples)
    space = calibrated.space
    assignment = plan_assignment(plan, calibrated.graph, space)

    native = _native_formats(graph)
    unrounded = native & session.rounding.left_out
    wide = compile_graph(widen(calibrated.graph, unrounded)) if unrounded else calibrated.program

    def weight(layer: int, gemm: int) -> Tensor:
        scheme = space.index(schemes[layer].name)
        if unrounded:
            return quantized_weight(calibrated, layer, scheme, gemm).dequantize().float()
        return simulated_weight(calibrated, layer, scheme, gemm)

    added = planned_weights(graph, calibrated.changes).changes.biases
    biases = {
        i: bias
        for i, bias in calibrated.changes.biases.items()
        if i in added or graph.layers[i].name not in session.rounding.biases
    }
    documented = call_documented(graph, plan, schemes, weight, session.rounding, biases)
    base = plan.schemes[plan.base].activation
    outer = {node.name for node in graph.nodes}
    unproven = {
        layer.name: reason
        for layer, scheme in zip(graph.layers, schemes, strict=True)
        if (reason := _hidden(layer, scheme, layer.name in outer))
    }
    departures = find_departures(graph) if session.is_standard else {}
    for name, reason in departures.items():
        where = name if name in {layer.name for layer in graph.layers} else "outputs"
        unproven[where] = unproven["outputs"] = (
            f"node {name!r} is run as runtimes agree to, not as the standard says ({reason}): "
            f"{runtime} proves nothing here; take onnxruntime or openvino"
        )
    nodes = {node.name: node for node in graph.nodes}
    exported = load_model(opened.path)
    readers = _layer_nodes(exported, plan, opened.path.name)
    layers = [
        _Compared(i, nodes[layer.name], tuple(readers[layer.name].input), layer, schemes[i])
        for i, layer in enumerate(graph.layers)
        if layer.name not in unproven
    ]
    wanted = _wanted(graph, layers)
    squares = np.zeros((len(layers), 2))  # of the difference, and of the simulation
    outputs = []
    for done, feeds in enumerate(chosen.iterate(), 1):
        given = {name: to_tensor(np.array(array)) for name, array in feeds.items()}
        found = session.run(feeds, wanted)
        values = {name: to_tensor(np.array(x)) for name, x in found.items()} | given
        for row, compared in enumerate(layers):
            inputs = _inputs(compared, graph, values, plan, session.rounding)
            formats = {base.format, compared.scheme.activation.format, *native}
            is_own = (
                bool(formats & session.rounding.left_out)
                or compared.layer.name in session.rounding.biases
                or any(
                    operand.value in session.rounding.byte_codes
                    for operand in read_operands(compared.layer)
                )
            )
            how = documented if is_own else space.index(compared.scheme.name)
            expected = replay(calibrated, compared.index, how, inputs)
            shown = values[compared.layer.output]
            squares[row] += squared_difference(compared.layer, shown, expected, runtime)
        simulated = run_outputs(calibrated, feeds, assignment)
        check_shapes(values, simulated, runtime)
        same_rounding = simulated
        if session.rounding != EXACT:
            fed = {name: x.float() if unrounded and _is_half(x) else x for name, x in given.items()}
            same_rounding = run_documented(wide, documented, fed)
        outputs.append(
            BatchOutputs(run_outputs(calibrated.unchanged, feeds), simulated, same_rounding, values)
        )
        if progress is not None:
            worst = float(relative_errors(squares).max(initial=0.0))
            progress(done, chosen.n_runs, f"worst layer so far differs by {worst:.2g}")
    errors = relative_errors(squares).tolist()
    tolerance = _NATIVE_TOLERANCE if native else TOLERANCE
    least = least_divergence(graph)

    def compare(found: Sequence[Mapping[str, Tensor]]) -> WholeCheck | None:
        if departures:
            return None
        sides = [replace(o, runtime=own) for o, own in zip(outputs, found, strict=True)]
        return check_whole(graph, heads, kind, form.outputs, sides, least)

    is_meant = written_by(opened.path) == runtime
    deployed = check_deployed(
        session, exported, graph, schemes, chosen.iterate(), compare, is_meant=is_meant
    )
    return Verification(
        graph.name,
        runtime,
        len(chosen),
        tolerance,
        tuple(
            LayerCheck(compared.layer.name, compared.scheme.name, error, error <= tolerance)
            for compared, error in zip(layers, errors, strict=True)
        ),
        compare([o.runtime for o in outputs]),
        unproven,
        opened.note,
        () if departures else measure_outputs(graph, chosen, form.outputs, outputs),
        deployed,
    )


def _is_half(x: Tensor) -> bool:
    return x.dtype in (torch.float16, torch.bfloat16)


def least_divergence(graph: ModelGraph) -> float:
    """Return the divergence of whole outputs below which a difference is never one that matters."""
    return max(_LEAST_DIVERGENCE, _NATIVE_TOLERANCE**2 if _native_formats(graph) else 0.0)


def _native_formats(graph: ModelGraph) -> frozenset[str]:
    """The 16-bit formats of a model's own tensors."""
    return frozenset(_NATIVE[v.dtype] for v in graph.values.values() if v.dtype in _NATIVE)


def _hidden(layer: Layer, scheme: Scheme, is_outer: bool) -> str:
    """Why a layer cannot be compared alone; "" where it can."""
    if not is_outer:
        return "lies in a branch or loop, whose values no runtime shows"
    if any(gemm.left.input_index < 0 for gemm in layer.gemms) and not scheme.activation.is_cast:
        return f"{layer.op_type} multiplies values that never leave the operator"
    return ""


def _layer_nodes(model: onnx.ModelProto, plan: Plan, name: str) -> dict[str, onnx.NodeProto]:
    """The export's nodes by name.

    Raises:
        PlanError: It is not an export of this plan.
    """
    nodes = {node.name: node for node in walk_nodes(model.graph)}
    for decision in plan.decisions:
        node = nodes.get(decision.site.node)
        props = {} if node is None else {p.key: p.value for p in node.metadata_props}
        if props.get("mpsearch.scheme") != decision.scheme:
            raise PlanError(
                f"{name} must be the export of this plan, with {decision.site.node!r} in "
                f"{decision.scheme}, got {props.get('mpsearch.scheme', 'no such layer')}"
            )
    return nodes


@dataclass(frozen=True, slots=True)
class _Compared:
    """A layer that is compared.

    Attributes:
        index: Its index in the graph.
        node: Its node there.
        reads: What its node reads in the export.
        layer: Itself.
        scheme: What it runs in.
    """

    index: int
    node: Node
    reads: tuple[str, ...]
    layer: Layer
    scheme: Scheme


def _wanted(graph: ModelGraph, layers: Sequence[_Compared]) -> list[str]:
    """Every value that the runtime must show: what layers read, rounded or not, and give, and the outputs."""
    fed = {value.name for value in graph.inputs} | set(graph.constants) | {""}
    names = [value.name for value in graph.outputs]
    for compared in layers:
        names += [*compared.node.inputs, compared.layer.output]
        names += [
            compared.reads[operand.input_index]
            for operand in read_operands(compared.layer)
            if not compared.scheme.activation.is_cast
        ]
    return [name for name in dict.fromkeys(names) if name not in fed]


def _inputs(
    compared: _Compared,
    graph: ModelGraph,
    values: Mapping[str, Tensor],
    plan: Plan,
    rounding: Rounding,
) -> dict[str, Tensor]:
    """The runtime's own inputs of a layer, rounded to its scheme as the runtime documents it.

    Rounding is idempotent, so the simulation goes on from there.
    """
    names = [name for name in compared.node.inputs if name and name not in graph.constants]
    inputs = {name: values[name] for name in names}
    spec = compared.scheme.activation
    for operand in read_operands(compared.layer):
        if operand.value in inputs and not spec.is_cast:
            seen = values[compared.reads[operand.input_index]]
            inputs[operand.value] = settle_ties(
                values[operand.value], seen, spec, operand, plan, rounding
            )
    return inputs
