"""``mpsearch init``: a commented job and search space for a model, to start from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpsearch.cli import options as opt
from mpsearch.cli.console import Json, command, print_json

if TYPE_CHECKING:
    from mpsearch.graph.model import ModelGraph
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
    graph, assumed = _bound_graph(model, shapes, data)
    space = read_space(default_space(read_device(device)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{folder.name}: the folder cannot be made: {error.strerror}") from None
    write_text(space_file, _space_text(graph, space, device))
    write_text(
        job_file,
        _job_text(graph, model, folder, device, space_file, shapes | assumed, data, assumed),
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


def _bound_graph(
    model: Path, shapes: dict[str, tuple[int, ...]], data: Path | None
) -> "tuple[ModelGraph, dict[str, tuple[int, ...]]]":
    """Return the model with its axes bound by options, else by the data, else by sizes that it runs at.

    The sizes that were assumed come second; 0 is the batch.
    """
    from mpsearch.data.batches import data_shapes, read_batches
    from mpsearch.graph.importer import import_onnx, read_inputs

    given = {name: tuple(size or None for size in sizes) for name, sizes in shapes.items()}
    if data is not None:
        of_data = data_shapes(read_batches(data, limit=1), *read_inputs(model))
        return import_onnx(model, shapes={**of_data, **given}), {}
    graph = import_onnx(model, shapes=given or None)
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
        found = import_onnx(model, shapes=given | sizes)
        if all(gemm.m and gemm.k for layer in found.layers for gemm in layer.gemms):
            return found, assumed
    return graph, {}


def _job_text(
    graph: "ModelGraph",
    model: Path,
    folder: Path,
    device: str,
    space_file: Path,
    shapes: dict[str, tuple[int, ...]],
    data: Path | None,
    assumed: dict[str, tuple[int, ...]],
) -> str:
    import json
    import os

    def relative(path: Path) -> str:
        return json.dumps(Path(os.path.relpath(path, folder)).as_posix(), ensure_ascii=False)

    inputs = ", ".join(
        f"{value.name} {value.dtype} "
        f"[{', '.join('any' if s is None else str(s) for s in value.shape or ())}]"
        for value in graph.inputs
    )
    lines = [
        f"# A search for {graph.name}. Paths are relative to this file.",
        f"# {len(graph.layers)} layers in {len(graph.groups)} groups; inputs: {inputs}.",
        "",
        f"model = {relative(model)}",
        "",
        "# Calibration data: an .npz with one array an input, first axis = samples. Without it only",
        "# shapes, cost and size can be said. With an array `labels` the loss is the increase of the",
        "# negative log-likelihood, else the divergence from the fp32 model.",
        f"data = {relative(data)}" if data is not None else '# data = "calib.npz"',
        "",
        "# Held-out data, on which the plans of the final table are scored.",
        '# eval = "held_out.npz"',
        "",
        "# What latencies are modelled for: `mpsearch list devices`, or a .toml of your own.",
        f"device = {json.dumps(device)}",
        "batch = 1            # samples that one latency is for",
        "",
        "# Which schemes a layer may take; the file beside this one, or `mpsearch list spaces`.",
        f"space = {json.dumps(space_file.name)}",
        "# keep = ['*head*']  # layers that stay in the base format, by name pattern",
        "",
        'metric = "calibrated"  # `mpsearch list metrics`',
        'method = "exact"         # `mpsearch list searchers`',
        "samples = 128            # calibration samples at most; 0 uses all",
        "batch_size = 32          # rows simulated together; part of what makes results repeatable",
        "measure = 12             # points of the front that are measured",
        "refine = 60              # measurements spent on better points to choose from",
        "seed = 0",
        "",
        "# With eval: take the fastest plan that is known to lose no more of this than max_drop.",
        '# quality = "accuracy"',
        "# max_drop = 0.01",
        "# confidence = 0.95       # judge limits and choices by upper bounds at this level",
        "",
        "# What the chosen plan must keep to. Without limits plans are chosen that are faster, smaller,",
        "# or both at no more loss than the least lossy uniform plan.",
        "# [limits]",
        "# latency_us = 100.0",
        "# effective_bits = 6.0",
        "# loss = 0.01",
    ]
    if shapes:
        note = " Assumed: put in what you deploy, or give data." if assumed else ""
        lines += ["", f"# Sizes of dynamic axes; 0 leaves an axis to the model.{note}", "[shapes]"]
        lines += [f"{json.dumps(name)} = {list(sizes)}" for name, sizes in shapes.items()]
    return "\n".join(lines) + "\n"


def _space_text(graph: "ModelGraph", space: "SearchSpace", device: str) -> str:
    import json

    roles = sorted({layer.role for layer in graph.layers if layer.role})
    first = json.dumps(graph.layers[0].name, ensure_ascii=False) if graph.layers else '"conv1"'
    lines = [
        f"description = {json.dumps(f'Schemes for {graph.name} on {device}', ensure_ascii=False)}",
        f"base = {json.dumps(space.base)}  # what every layer may always take",
        f"schemes = {json.dumps(list(space.names))}  # `mpsearch list schemes`",
        *(
            ['recovery = "none"  # "obs" updates the kept weights of sparse schemes on the data']
            if any(scheme.sparsity for scheme in space.schemes)
            else []
        ),
        "min_block_fill = 0.0  # 0.5 forbids block formats where channels fill half a block or less",
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
