"""An exported checkpoint, run in a runtime of such, against the simulation of the plan that it holds.

Each layer is fed what its module read in the runtime, so that its error is its own. Then the outputs of the whole
model are compared.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.data.fit import check_batches
from mpsearch.errors import PlanError
from mpsearch.export.checkpoint.modules import module_of
from mpsearch.export.checkpoint.source import find_name
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.losses.outputs import choose_heads, read_heads
from mpsearch.plan.files import read_plan
from mpsearch.plan.match import import_planned, plan_assignment, plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.plan.restore import restore
from mpsearch.problem.tables import Progress
from mpsearch.program.tensors import to_tensor
from mpsearch.runtimes.checkpoint import CheckpointSession, Shown
from mpsearch.runtimes.rounding import weight_in_bf16
from mpsearch.simulate.batch_form import find_batch_form
from mpsearch.simulate.probe import quantized_weight, replay, run_outputs
from mpsearch.verify.compare import check_shapes, relative_errors, squared_difference
from mpsearch.verify.oracle import call_documented, run_documented
from mpsearch.verify.verification import LayerCheck, Verification
from mpsearch.verify.whole import BatchOutputs, check_whole, measure_outputs

TOLERANCE = 1e-3
_LEAST_DIVERGENCE = 1e-6


def find_folder(exported: str | Path | Sequence[str | Path]) -> Path:
    """Return the folder of an exported checkpoint.

    Args:
        exported: Itself, or the paths that the export returned.

    Raises:
        PlanError: It holds no plan.
    """
    given = [exported] if isinstance(exported, str | Path) else list(exported)
    folder = Path(given[0]) if given else Path()
    folder = folder if folder.is_dir() else folder.parent
    if not (folder / "plan.json").is_file():
        raise PlanError(
            f"{folder.name}: must be a folder that an export of a checkpoint wrote, with its plan.json"
        )
    return folder


def verify_checkpoint(
    plan: Plan,
    model: str | Path | ModelGraph,
    folder: Path,
    batches: Batches,
    session: CheckpointSession,
    runtime: str,
    samples: int | None,
    progress: Progress | None,
) -> Verification:
    """Run a checkpoint and compare it with the simulation of its plan; see :func:`mpsearch.verify.verify_plan.verify_plan`.

    Args:
        plan: What was exported; the export's own copy says with which scales fused layers are stored.
        model: The user's model.
        folder: The export.
        batches: Data to run.
        session: The checkpoint in its runtime.
        runtime: The runtime's name.
        samples: How many of the samples are run; None is all.
        progress: Called with (batches done, batches, the worst layer so far).

    Raises:
        PlanError: Plan, model and export do not belong together, or the runtime fails while it runs.
        DataError: The data do not fit the model.
        NumericsError: The runtime or the simulation gives NaN or Inf; the message names the layer.
    """
    stored = read_plan(folder / "plan.json")
    if (stored.decisions, stored.weights_digest) != (plan.decisions, plan.weights_digest):
        raise PlanError(f"{folder.name} must be the export of this plan, but is one of another")
    plan = stored
    graph = import_planned(plan, model)
    schemes, rounding = plan_schemes(plan, graph), session.rounding
    batches = check_batches(batches, graph)
    heads, kind = choose_heads(read_heads(graph), None, replace(batches, labels=None), graph)
    calibrated = restore(plan, graph)
    form = find_batch_form(graph, calibrated.program, batches, [head.output for head in heads])
    chosen = form.keep_size(graph).apply(batches if samples is None else batches.take(samples))
    space = calibrated.space

    def weight(layer: int, gemm: int) -> Tensor:
        scheme = space.index(schemes[layer].name)
        return weight_in_bf16(quantized_weight(calibrated, layer, scheme, gemm))

    modules = {
        i: find_name(module_of(layer), session.modules)
        for i, layer in enumerate(graph.layers)
        if layer.has_weight and module_of(layer)
    }
    unproven = {
        layer.name: _hidden(layer) for i, layer in enumerate(graph.layers) if i not in modules
    }
    own = {i: bias.float() for i, m in modules.items() if (bias := session.bias(m)) is not None}
    alone = {i: bias for i, bias in own.items() if graph.layers[i].op_type == "MatMul"}
    alone_call = call_documented(graph, plan, schemes, weight, rounding, alone)
    whole_call = call_documented(
        graph, plan, schemes, weight, rounding, dict(calibrated.changes.biases)
    )
    assignment = plan_assignment(plan, calibrated.graph, space)
    squares, outputs = np.zeros((len(modules), 2)), []
    for done, feeds in enumerate(chosen.iterate(), 1):
        shown = session.run(feeds, list(dict.fromkeys(modules.values())))
        for row, (i, module) in enumerate(modules.items()):
            read, gave = shown.modules[module]
            layer = graph.layers[i]
            inputs = {layer.gemms[0].left.value: read.float()}
            expected = replay(calibrated, i, alone_call, inputs)
            squares[row] += squared_difference(layer, gave.float(), expected, runtime)
        simulated = run_outputs(calibrated, feeds, assignment)
        found = name_outputs(graph, shown, runtime)
        check_shapes(found, simulated, runtime)
        given = {name: to_tensor(np.array(array)) for name, array in feeds.items()}
        same_rounding = run_documented(
            calibrated.program, whole_call, given, in_bf16=rounding.in_bf16
        )
        exact = run_outputs(calibrated.unchanged, feeds)
        outputs.append(BatchOutputs(exact, simulated, same_rounding, found))
        if progress is not None:
            worst = float(relative_errors(squares).max(initial=0.0))
            progress(done, chosen.n_runs, f"worst layer so far differs by {worst:.2g}")
    errors = relative_errors(squares).tolist()
    return Verification(
        graph.name,
        runtime,
        len(chosen),
        TOLERANCE,
        tuple(
            LayerCheck(graph.layers[i].name, schemes[i].name, error, error <= TOLERANCE)
            for i, error in zip(modules, errors, strict=True)
        ),
        check_whole(graph, heads, kind, form.outputs, outputs, _LEAST_DIVERGENCE),
        unproven,
        session.note,
        measure_outputs(graph, chosen, form.outputs, outputs),
    )


def _hidden(layer: Layer) -> str:
    if layer.has_weight:
        return "is no module that the runtime shows"
    return "multiplies two activations inside of a module, and is proven as part of the whole"


def name_outputs(graph: ModelGraph, shown: Shown, runtime: str) -> dict[str, Tensor]:
    """Return the model's outputs by their names, in fp32.

    Raises:
        PlanError: The runtime gives fewer.
    """
    if len(shown.outputs) < len(graph.outputs):
        raise PlanError(
            f"{runtime}: the model must give {len(graph.outputs)} outputs, got {len(shown.outputs)}"
        )
    named = zip((value.name for value in graph.outputs), shown.outputs, strict=False)
    return {name: tensor.float() for name, tensor in named}
