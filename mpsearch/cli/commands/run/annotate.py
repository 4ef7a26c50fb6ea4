"""``mpsearch annotate``: the model with what a run says of each layer on its nodes."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json


@command
def annotate(
    model: Annotated[Path, typer.Argument(help="The ONNX file that the run searched.")],
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write.")],
    as_json: Json = False,
) -> None:
    """Write the model with each layer's scheme, sensitivity and costs as metadata of its node, as Netron shows it."""
    from mpsearch.errors import JobError, ModelError
    from mpsearch.export.annotate import annotate_model, layer_notes
    from mpsearch.graph.importer import import_onnx
    from mpsearch.runs.run import open_run

    if not out.parent.is_dir():
        raise JobError(f"{out.name}: its folder {out.parent.name!r} must exist")
    if out.exists() and out.resolve() == model.resolve():
        raise JobError(f"{out.name}: must be another file than the model")
    found = open_run(run)
    digest = import_onnx(model).structure_digest
    if digest != found.graph.structure_digest:
        raise ModelError(f"{model.name}: must be the model of the run {run.name!r}, but is another")
    chosen = found.results.chosen if found.results is not None and found.results.chosen else None
    notes = layer_notes(found.graph, found.table, found.costs, chosen)
    left = annotate_model(model, out, notes)
    if as_json:
        print_json({"file": out.name, "nodes": len(notes) - len(left), "without_node": left})
        return
    for name in left:
        print(f"no node of its own: {name}")
    print(f"written: {out}, {len(notes) - len(left)} of {len(notes)} layers annotated")
