"""Exporting a plan: the model, the exporter by name, and a folder that appears whole or not at all."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.errors import ModelError, OutputExistsError
from mpsearch.export.onnx.canonical import Weights
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.files import weights_file, write_plan
from mpsearch.plan.match import check_weights, plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.plan.restore import changed_weights, rebuild_weights
from mpsearch.program.tensors import to_tensor
from mpsearch.registry import find
from mpsearch.schemes import Scheme
from mpsearch.simulate.layer_weight import quantize_layer_weight

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
        batches: The calibration data; only needed for a plan of an earlier version that recovers pruned weights
            and does not bring them. The export's copy of the plan does.

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
    plan = rebuild_weights(plan, graph, batches)
    weights = planned_weights(graph, changed_weights(plan, graph, plan_schemes(plan, graph)))
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
    own = [folder / "plan.json"]
    if plan.weights is not None:
        own.append(weights_file(own[0]))
    return [folder / path.relative_to(made) for path in written] + own


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


def planned_weights(graph: ModelGraph, changed: Mapping[tuple[int, int], Tensor] = {}) -> Weights:
    """Return what gives the weights of ``graph`` as schemes store them.

    Args:
        graph: The model.
        changed: (layer, gemm) to the fp32 weight that the plan puts in the place of the model's.
    """

    def weights(layer: int, gemm: int, scheme: Scheme) -> QuantizedTensor:
        owner = graph.layers[layer]
        weight = changed.get((layer, gemm))
        if weight is None:
            weight = to_tensor(graph.constants[owner.gemms[gemm].right.value])
        return quantize_layer_weight(owner, gemm, scheme, weight)

    return weights
