"""``mpsearch init``: a commented job and search space for a model, to start from."""

import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli import options as opt
from mpsearch.cli.console import Json, command, print_json

if TYPE_CHECKING:
    from mpsearch.graph.model import ModelGraph
    from mpsearch.runs.knob import Key
    from mpsearch.space.space import SearchSpace

_LIKELY_SIZES = (128, 224, 320, 640, 64, 32, 16000)
"""What is assumed of dynamic axes where neither options nor data say: tokens, pixels, samples of sound."""


@command
def init(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model.")],
    device: Annotated[
        str, typer.Option("--device", help="Device name or .toml; see `mpsearch list devices`.")
    ] = "npu_200tops",
    shape: opt.Shapes = None,
    batch_axis: opt.BatchAxes = None,
    data: opt.Data = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; default: beside the model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a job file and a search space for a model, both commented, that run as they are."""
    from mpsearch.artifacts import write_text
    from mpsearch.cost.device import read_device
    from mpsearch.errors import JobError, OutputExistsError
    from mpsearch.jobs.prepare import default_space
    from mpsearch.space.files import read_space

    folder = out if out is not None else model.parent
    job_file, space_file = folder / f"{model.stem}.job.toml", folder / f"{model.stem}.space.toml"
    for path in (job_file, space_file):
        if path.exists():
            raise OutputExistsError(f"{path.name}: exists; remove it, or give a folder with -o")
    shapes = dict(map(opt.parse_shape, shape or []))
    axes = dict(map(opt.parse_axis, batch_axis or []))
    graph, assumed = _bound_graph(model, shapes, axes, data)
    space = read_space(default_space(read_device(device)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{folder.name}: the folder cannot be made: {error.strerror}") from None
    values = {
        "model": _relative(model, folder),
        "device": device,
        "space": space_file.name,
        "shapes": shapes | assumed,
        "batch_axes": axes,
    }
    if data is not None:
        values["data"] = _relative(data, folder)
    note = "Assumed: put in what you deploy, or give data." if assumed else ""
    write_text(space_file, _space_text(graph, space, device))
    write_text(
        job_file,
        _job_text(graph, values, note),
    )
    if as_json:
        print_json({"job": job_file.name, "space": space_file.name})
        return
    print(f"written: {job_file}, {space_file}")
    for name, sizes in assumed.items():
        print(
            f"assumed: {name} of {', '.join('any' if s == 0 else str(s) for s in sizes)}; change it"
        )
    print(f"next: mpsearch search {job_file} -o runs/{model.stem}")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _bound_graph(
    model: Path,
    shapes: dict[str, tuple[int, ...]],
    batch_axes: dict[str, int],
    data: Path | None,
) -> "tuple[ModelGraph, dict[str, tuple[int, ...]]]":
    """Return the model with its axes bound by options, else by the data, else by sizes that it runs at.

    The sizes that were assumed come second; 0 is the batch.
    """
    from mpsearch.data.batches import read_batches
    from mpsearch.data.fit import data_shapes
    from mpsearch.graph.importer import import_onnx, read_inputs

    given = {name: tuple(size or None for size in sizes) for name, sizes in shapes.items()}
    axes: dict[str, int | None] = dict(batch_axes)
    if data is not None:
        of_data = data_shapes(read_batches(data, limit=1), *read_inputs(model, axes), axes)
        return import_onnx(model, shapes={**of_data, **given}, batch_axes=axes), {}
    graph = import_onnx(model, shapes=given or None, batch_axes=axes)
    free = {axis.partition("[")[0] for axis in graph.unbound}
    for size in _LIKELY_SIZES if free else ():
        assumed = {
            value.name: tuple(
                size if f"{value.name}[{axis}]" in graph.unbound else s or 0
                for axis, s in enumerate(value.shape or ())
            )
            for value in graph.inputs
            if value.name in free
        }
        sizes = {name: tuple(s or None for s in axes) for name, axes in assumed.items()}
        found = import_onnx(model, shapes=given | sizes, batch_axes=axes)
        if all(gemm.m and gemm.k for layer in found.layers for gemm in layer.gemms):
            return found, assumed
    return graph, {}


def _job_text(graph: "ModelGraph", values: dict[str, Any], note: str) -> str:
    """Every key of a job under its heading, with what it is; those that are not set are commented out.

    Args:
        graph: The model.
        values: Key to value, where it is not the default.
        note: What is said of the shapes.
    """
    from mpsearch.runs.job import Job
    from mpsearch.runs.knob import grouped_keys

    inputs = ", ".join(
        f"{value.name} {value.dtype} "
        f"[{', '.join('any' if s is None else str(s) for s in value.shape or ())}]"
        for value in graph.inputs
    )
    lines = [
        f"# A search for {graph.name}. Paths are relative to this file.",
        f"# {len(graph.layers)} layers in {len(graph.groups)} groups; inputs: {inputs}.",
        "# A line such as #key = value sets nothing, and shows how it would.",
    ]
    tables: dict[str, list[str]] = {}
    for group, keys in grouped_keys(Job).items():
        lines += ["", f"# {group}", f"# {'-' * len(group)}"]
        for key in keys:
            table, _, name = key.name.rpartition(".")
            if isinstance(key.knob.example, dict):
                sizes = values.get(name, {})
                sign = "" if sizes else "#"
                rows = [
                    f"{sign}{_toml(k)} = {_toml(v)}" for k, v in (sizes or key.knob.example).items()
                ]
                said = _said(key, note if name == "shapes" else "")
                tables[name] = [*said, f"{sign}[{name}]", *rows]
            elif table:
                head = tables.setdefault(table, [f"#[{table}]"])
                head += [*_said(key), f"#{name} = {_toml(key.knob.example)}"]
            else:
                value = values.get(name, None if key.knob.unset else key.field.default)
                shown = key.knob.example if value is None else value
                lines += _said(key)
                lines.append(f"{'#' if value is None else ''}{name} = {_toml(shown)}")
    for rows in tables.values():  # TOML wants them last
        lines += ["", *rows]
    for name in ("search", "sensitivity"):
        lines += ["", f"# {Job.model_fields[name].description}", f"#[{name}.settings]"]
    return "\n".join(lines) + "\n"


def _said(key: "Key", note: str = "") -> list[str]:
    """What a key is, as comments."""
    unset = f" Not set: {key.knob.unset}." if key.knob.unset else ""
    text = f"{key.description}{unset} {note}".strip()
    return textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    """A TOML value on one line; JSON's strings, numbers and lists are TOML's."""
    return json.dumps(value, ensure_ascii=False)


def _space_text(graph: "ModelGraph", space: "SearchSpace", device: str) -> str:
    roles = sorted({layer.role for layer in graph.layers if layer.role})
    first = json.dumps(graph.layers[0].name, ensure_ascii=False) if graph.layers else '"conv1"'
    lines = [
        f"description = {json.dumps(f'Schemes for {graph.name} on {device}', ensure_ascii=False)}",
        f"base = {json.dumps(space.base)}  # what every layer may always take",
        f"schemes = {json.dumps(list(space.names))}  # `mpsearch list schemes`",
        *(
            [
                'recovery = "none"  # "auto" recovers the finalists; "obs" the kept weights of sparse schemes in all that is measured'
            ]
            if any(scheme.sparsity for scheme in space.schemes)
            else []
        ),
        "min_block_fill = 0.0  # 0.5 forbids block formats where channels fill half a block or less",
        f"# ties = [[{first}, '*.other']]  # layers that share one scheme beside those that runtimes fuse",
        f"# untie = [{first}]  # layers that decide for themselves although runtimes fuse them",
        "",
        "# Rules take schemes away from layers. All conditions that are given must match:",
        "# role, op, name (patterns), has_weight, position (first, last), misaligned (channels % n).",
        f"# Roles in this model: {', '.join(roles) or 'none known'}.",
        "#",
        "# [[rules]]",
        f"# name = {first}",
        f"# allow = [{json.dumps(space.base)}]",
        "# reason = 'the first layer is kept'",
    ]
    for rule in space.rules:
        lines += ["", "[[rules]]"]
        for key, value in rule.model_dump(mode="json", exclude_defaults=True).items():
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
