"""Exporting a plan: the model, the exporter by name, and a folder that appears whole or not at all."""

import json
import tempfile
from pathlib import Path

from mpsearch.data.batches import Batches
from mpsearch.errors import ModelError, OutputExistsError, PlanError
from mpsearch.export.onnx.canonical import Weights
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.files import write_plan
from mpsearch.plan.match import check_weights, plan_schemes
from mpsearch.plan.plan import Plan, plan_space
from mpsearch.program.tensors import to_tensor
from mpsearch.registry import find
from mpsearch.schemes import Scheme
from mpsearch.simulate.calibrated import calibrate
from mpsearch.simulate.layer_weight import quantize_layer_weight
from mpsearch.simulate.probe import quantized_weight

MARK = "export.json"
"""File that says that a folder is an export, and of what: only such a folder is ever replaced."""


def export_plan(
    plan: Plan,
    model: str | Path,
    out_dir: str | Path,
    *,
    target: str = "onnx",
    batches: Batches | None = None,
) -> list[Path]:
    """Write what ``target`` takes into ``out_dir``, with a copy of the plan, and return the files.

    The folder appears whole or not at all. An earlier export in it is replaced; anything else that is
    there is refused.

    Args:
        plan: Made for the model.
        model: The user's ONNX file.
        out_dir: Folder to make.
        target: Name of an exporter.
        batches: The calibration data; only needed where a scheme recovers pruned weights.

    Raises:
        PlanError: The plan is for another model, or the target cannot run one of its schemes.
        ModelError: The model cannot be read.
        OutputExistsError: ``out_dir`` holds something that is no export.
        UnknownNameError: There is no such exporter.
    """
    export = find("exporters", target)
    folder = Path(out_dir)
    check_replaceable(folder)
    graph = import_planned(plan, model)
    schemes = plan_schemes(plan, graph)
    if any(scheme.recovery != "none" for scheme in schemes):
        weights = _recovered_weights(plan, graph, batches)
    else:
        weights = plain_weights(graph)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        made = Path(name) / "export"
        made.mkdir()
        written = export(plan, graph, weights, made)
        write_plan(plan, made / "plan.json")
        mark = {"mpsearch": "export", "target": target, "model": plan.model}
        (made / MARK).write_text(json.dumps(mark, indent=1) + "\n")
        check_replaceable(folder)  # again: it may have appeared meanwhile
        if folder.exists():
            folder.replace(Path(name) / "old")
        made.replace(folder)
    return [folder / path.relative_to(made) for path in written] + [folder / "plan.json"]


def import_planned(plan: Plan, model: str | Path) -> ModelGraph:
    """Return the model of ``plan``, its free axes bound as the plan's ranges and figures hold for.

    Raises:
        ModelError: The file cannot be read.
        PlanError: It is another model, or has other weights.
    """
    try:
        graph = import_onnx(model, shapes=plan.shapes or None, batch_axes=plan.batch_axes or None)
    except ModelError:
        plan_schemes(plan, import_onnx(model))  # another model is the likelier reason
        raise
    plan_schemes(plan, graph)
    check_weights(plan, graph)
    return graph


def check_replaceable(folder: Path) -> None:
    """Check that ``folder`` is absent, empty or an earlier export.

    Raises:
        OutputExistsError: It is anything else.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputExistsError(f"{folder.name} must be a folder or absent, but is something else")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        own = json.loads((folder / MARK).read_text())["mpsearch"] == "export"
    except (OSError, ValueError, KeyError, TypeError):
        own = False
    if not own:
        raise OutputExistsError(
            f"{folder.name} must be absent, empty or an earlier export, but holds other files; "
            "choose another folder"
        )


def plain_weights(graph: ModelGraph) -> Weights:
    """Return what gives the weights of ``graph`` as schemes store them, without recovery."""

    def weights(layer: int, gemm: int, scheme: Scheme) -> QuantizedTensor:
        owner = graph.layers[layer]
        weight = to_tensor(graph.constants[owner.gemms[gemm].right.value])
        return quantize_layer_weight(owner, gemm, scheme, weight)

    return weights


def _recovered_weights(plan: Plan, graph: ModelGraph, batches: Batches | None) -> Weights:
    if batches is None:
        raise PlanError(
            "a plan with recovered sparse weights must be exported with the calibration data that it "
            "was made with; give them as `batches`"
        )
    calibrated = calibrate(graph, plan_space(plan), batches)

    def weights(layer: int, gemm: int, scheme: Scheme) -> QuantizedTensor:
        return quantized_weight(calibrated, layer, calibrated.space.index(scheme.name), gemm)

    return weights
