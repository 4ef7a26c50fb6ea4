"""``mpsearch data``: pictures, text or a table made into calibration data for a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

import typer

from mpsearch.cli import options as opt
from mpsearch.cli.console import Json, command, print_json

if TYPE_CHECKING:
    from mpsearch.data.sources import Made
    from mpsearch.graph.model import ModelGraph

_Choice = TypeVar("_Choice", bound=str)


@command
def data(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES|TEXT|CSV",
            help="A folder of pictures, a .txt of one sample a line, or a .csv or .tsv table.",
        ),
    ],
    model: Annotated[Path, typer.Option("--for", "-m", help="The model that the data are for.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npz file to write.")],
    shape: opt.Shapes = None,
    batch_axis: opt.BatchAxes = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Samples at most.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Pictures: .csv of file and label. Text: one label a line."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="nchw or nhwc; else as the input's shape says.")
    ] = None,
    resize: Annotated[
        str, typer.Option("--resize", help="stretch, crop (fill and cut) or pad (fit and fill).")
    ] = "stretch",
    order: Annotated[str, typer.Option("--order", help="Channels: rgb or bgr.")] = "rgb",
    scale: Annotated[
        str, typer.Option("--scale", help="Pixels are multiplied by it: a number or 1/255.")
    ] = "1/255",
    mean: Annotated[
        str, typer.Option("--mean", help="Subtracted after scaling: 0.5, or one a channel.")
    ] = "0",
    std: Annotated[
        str, typer.Option("--std", help="Divided by at last: 0.5, or one a channel.")
    ] = "1",
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="tokenizer.json; else the one beside the model."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=1, help="Tokens of a sample at most.")
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--as", help="NAME=ids|mask|types|positions|empty for an input; repeatable."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Table: the column that holds the labels.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make calibration data for a model from pictures, text or a table, and say how in one line."""
    from mpsearch.data.batches import RESERVED, make_batches, read_batches
    from mpsearch.data.columns import read_table
    from mpsearch.data.fit import check_batches
    from mpsearch.data.pictures import SUFFIXES, Layout, Order, Resize, read_pictures
    from mpsearch.data.sources import write_arrays
    from mpsearch.data.text import read_text
    from mpsearch.errors import DataError, JobError, OutputExistsError
    from mpsearch.graph.importer import import_onnx

    if out.suffix != ".npz":
        raise JobError(f"-o must name an .npz file, got {out.name!r}")
    if out.exists():
        raise OutputExistsError(f"{out.name}: exists; remove it, or give another name with -o")
    if not out.parent.is_dir():
        raise JobError(f"{out.name}: the folder {out.parent.name!r} must exist")
    shapes = dict(map(opt.parse_shape, shape or []))
    bound = {name: tuple(size or None for size in sizes) for name, sizes in shapes.items()}
    graph = import_onnx(
        model, shapes=bound or None, batch_axes=dict(map(opt.parse_axis, batch_axis or []))
    )
    kind = source.suffix.lower()
    if source.is_dir():
        made = read_pictures(
            source,
            graph,
            layout=_choice("layout", layout, get_args(Layout)) if layout else None,
            resize=_choice("resize", resize, get_args(Resize)),
            order=_choice("order", order, get_args(Order)),
            scale=_numbers("scale", scale)[0],
            mean=_numbers("mean", mean),
            std=_numbers("std", std),
            labels=labels,
            limit=limit,
        )
    elif kind in (".csv", ".tsv"):
        made = read_table(source, graph, label=label, limit=limit)
    elif kind in (".txt", ".text"):
        made = read_text(
            source,
            graph,
            tokenizer=tokenizer or model.with_name("tokenizer.json"),
            max_length=max_length,
            kinds=dict(map(_pair, kinds or [])),
            labels=labels,
            limit=limit,
        )
    elif kind in SUFFIXES:
        raise DataError(f"{source.name}: pictures are taken from a folder, give the one it lies in")
    else:
        raise DataError(
            f"{source.name}: must be a folder of pictures, a .txt, a .csv or a .tsv file"
            + ("" if source.exists() else "; it does not exist")
        )
    check_batches(make_batches(made.arrays, source=source.name), graph)
    partial = out.with_name(f".{out.name}")
    try:
        write_arrays(made.arrays, partial)
        batches = read_batches(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    if as_json:
        shown = {n: list(a.shape) for n, a in made.arrays.items() if n not in RESERVED}
        print_json(
            {
                "file": out.name,
                "samples": len(batches),
                "shapes": shown,
                "how": made.how,
                "labels": made.labelled,
                "classes": list(made.classes),
                "digest": batches.digest,
            }
        )
        return
    print(_summary(out, graph, made, len(batches)))


def _summary(out: Path, graph: "ModelGraph", made: "Made", n: int) -> str:
    arrays = ", ".join(
        f"{v.name} {made.arrays[v.name].dtype} {list(made.arrays[v.name].shape)}"
        for v in graph.inputs
    )
    return f"{out}: {n} samples, {arrays}: {made.how}; labels: {made.labelled or 'none'}"


def _choice(name: str, given: str, choices: tuple[_Choice, ...]) -> _Choice:
    from mpsearch.errors import JobError

    for choice in choices:
        if choice == given:
            return choice
    raise JobError(f"--{name} must be one of {', '.join(choices)}; got {given!r}")


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Return numbers such as ``0.5``, ``1/255`` or ``0.4,0.4,0.5``."""
    from math import isfinite

    from mpsearch.errors import JobError

    numbers = []
    for part in text.split(","):
        above, _, below = part.partition("/")
        try:
            numbers.append(float(above) / float(below or 1))
        except (ValueError, ZeroDivisionError):
            numbers.append(float("nan"))
    if not all(map(isfinite, numbers)) or (name == "scale" and len(numbers) > 1):
        raise JobError(f"--{name} must be a number such as 0.5 or 1/255, got {text!r}")
    return tuple(numbers)


def _pair(text: str) -> tuple[str, str]:
    from mpsearch.errors import JobError

    name, equals, kind = text.rpartition("=")
    if not equals:
        raise JobError(f"--as must read like input_ids=ids, got {text!r}")
    return name, kind
