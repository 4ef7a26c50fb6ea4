"""Exporting a plan: the model, the exporter by name, and a folder that appears whole or not at all."""

import json
import tempfile
from pathlib import Path

from mpsearch.data.batches import Batches
from mpsearch.errors import OutputExistsError, PlanError
from mpsearch.export.exporter import Exporter
from mpsearch.export.planned import planned_weights
from mpsearch.export.takes import check_takes
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.changes import changes_of
from mpsearch.plan.files import weights_file, write_plan
from mpsearch.plan.match import import_planned
from mpsearch.plan.plan import Plan
from mpsearch.plan.recalibrate import recalibrate_plan
from mpsearch.plan.restore import rebuild_weights
from mpsearch.registry import find
from mpsearch.space.targets import find_target

MARK = "export.json"
"""File that says that a folder is an export, and of what: only such a folder is ever replaced."""


def export_plan(
    plan: Plan,
    model: str | Path | ModelGraph,
    out_dir: str | Path,
    *,
    target: str = "onnx",
    batches: Batches | None = None,
    config: str | Path | None = None,
    recalibrate: bool = False,
) -> list[Path]:
    """Write what ``target`` takes into ``out_dir``, with a copy of the plan, and return the files.

    The folder appears whole or not at all. An earlier export in it is replaced; anything else that is
    there is refused.

    Args:
        plan: Made for the model.
        model: The user's ONNX file, or the graph that ``import_torch`` made and the plan is for.
        out_dir: Folder to make.
        target: Name of a runtime (`mpsearch list targets`), whose rules the plan must keep, or of an exporter.
        batches: The calibration data; only needed to recalibrate, or for a plan of an earlier version that recovers pruned
            weights and does not bring them. The export's copy of the plan does.
        config: Folder of the Hugging Face model (``config.json`` and its safetensors), or the ``config.json`` alone, for
            targets that write checkpoints. Without it their ``config.json`` says only how layers are quantised.
        recalibrate: The model may have other weights of the same structure: the plan's decisions are kept, and its ranges
            and weights made anew from ``batches``. The export's copy of the plan is the new one.

    Raises:
        PlanError: The plan is for another model, or the target cannot run one of its schemes, or takes no ``config``.
        ModelError: The model cannot be read.
        OutputExistsError: ``out_dir`` holds something that is no export.
        UnknownNameError: There is no such target or exporter.
    """
    exporter, facts = find_target(target)
    export = find("exporters", exporter)
    folder = Path(out_dir)
    check_replaceable(folder)
    if recalibrate:
        plan = _recalibrated(plan, model, batches)
    graph = import_planned(plan, model)
    check_takes(plan, graph, exporter, facts)
    plan = rebuild_weights(plan, graph, batches)
    if isinstance(export, Exporter):
        plan = export.prepare(plan, graph)
    elif config is not None:
        raise PlanError(f"target {target} writes no checkpoint and takes no config, got {config}")
    weights = planned_weights(graph, changes_of(plan, graph))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        made = Path(name) / "export"
        made.mkdir()
        if isinstance(export, Exporter):
            source = None if config is None else Path(config)
            written = export.write(plan, weights.graph, weights, made, source)
        else:
            written = export(plan, weights.graph, weights, made)
        write_plan(plan, made / "plan.json")
        mark = {"mpsearch": "export", "target": target, "exporter": exporter, "model": plan.model}
        (made / MARK).write_text(json.dumps(mark, indent=1) + "\n")
        check_replaceable(folder)  # again: it may have appeared meanwhile
        if folder.exists():
            folder.replace(Path(name) / "old")
        made.replace(folder)
    own = [folder / "plan.json"]
    if plan.weights is not None:
        own.append(weights_file(own[0]))
    return [folder / path.relative_to(made) for path in written] + own


def written_by(path: Path) -> str:
    """Return the name of the exporter that wrote the export's file at ``path``; "" where its folder does not say."""
    try:
        return str(json.loads((path.parent / MARK).read_text())["exporter"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _recalibrated(plan: Plan, model: str | Path | ModelGraph, batches: Batches | None) -> Plan:
    if batches is None:
        raise PlanError("to recalibrate needs calibration data: give them with --data (batches=)")
    return recalibrate_plan(plan, model, batches)


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
