"""A folder of pictures as the input of a vision model."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mpsearch.data.batches import Array
from mpsearch.data.sources import (
    Labels,
    Made,
    check_bytes,
    inside,
    listed,
    read_labels,
    read_lines,
    spread,
)
from mpsearch.errors import DataError, MissingExtraError
from mpsearch.graph.model import ModelGraph, Value

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

Layout = Literal["nchw", "nhwc"]
Resize = Literal["stretch", "crop", "pad"]
Order = Literal["rgb", "bgr"]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a picture must become."""

    value: Value
    layout: Layout
    channels: int
    height: int
    width: int


def read_pictures(
    folder: Path,
    graph: ModelGraph,
    *,
    layout: Layout | None = None,
    resize: Resize = "stretch",
    order: Order = "rgb",
    scale: float = 1 / 255,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    labels: Path | None = None,
    limit: int | None = None,
) -> Made:
    """Return the pictures below ``folder`` as (x · scale − mean) / std in the model's own layout.

    Height, width and channels are the model's. Integer inputs get the pixels as they are. Labels
    are the names of the sub-folders where every picture lies in one of several, or a table's.

    Args:
        folder: Holds pictures, also in sub-folders.
        graph: The model, its picture's axes bound.
        layout: Where the channels are; None reads it from the model's input.
        resize: ``stretch``; ``crop`` fills the frame and cuts the longer side; ``pad`` fits the picture
            in and fills right and bottom with 0.
        order: Of the channels.
        scale: What pixels of 0 to 255 are multiplied by.
        mean: Subtracted then, one value or one a channel.
        std: Divided by then, one value or one a channel.
        labels: ``.csv`` of file name and label; only its files are read.
        limit: At most so many pictures, evenly spread over the sorted names.

    Raises:
        MissingExtraError: pillow is not installed.
        DataError: A picture cannot be read (it is named), or the model takes no pictures.
    """
    if find_spec("PIL") is None:
        raise MissingExtraError(
            "pictures need the package 'pillow'; install it with: pip install 'mpsearch[data]'"
        )
    frame = _find_frame(graph, layout)
    for name, given in (("mean", mean), ("std", std)):
        if len(given) not in (1, frame.channels):
            raise DataError(
                f"--{name} must hold one value or one for each of {frame.channels} channels, "
                f"got {len(given)}"
            )
    if not all(std):
        raise DataError("--std must not hold 0")
    paths, words, origin = _find_files(folder, labels)
    chosen = spread(len(paths), limit)
    paths = [paths[i] for i in chosen]
    found: Labels | None = None
    if words:  # indices of classes do not depend on the limit
        every = read_labels(words, origin)
        found = Labels(every.values[chosen], every.classes)
    dtype = frame.value.dtype or "float32"
    check_bytes(len(paths), (frame.channels, frame.height, frame.width), dtype, folder.name)
    affine = (scale, mean, std) if np.dtype(dtype).kind == "f" else None
    first = _read(paths[0], folder, frame, resize, order, affine)
    stack = np.empty((len(paths), *first.shape), dtype)
    stack[0] = first
    for index, path in enumerate(paths[1:], 1):
        stack[index] = _read(path, folder, frame, resize, order, affine)
    arrays: dict[str, Array] = {frame.value.name: stack}
    arrays["sample_id"] = np.array(
        [path.relative_to(folder.resolve()).as_posix() for path in paths]
    )
    if found is not None:
        arrays["labels"] = found.values
    colours = {1: "grey", 3: order, 4: order + "a"}[frame.channels]
    done = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}[resize]
    how = f"{colours} {frame.layout}, {done} to {frame.height}×{frame.width}"
    if affine is not None:
        how += f", (x·{scale:.5g} − {_numbers(mean)}) / {_numbers(std)}"
    return Made(
        arrays,
        how,
        found.describe(origin) if found is not None else "",
        found.classes if found is not None else (),
    )


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"({', '.join(f'{v:g}' for v in values)})"


def _find_frame(graph: ModelGraph, layout: Layout | None) -> _Frame:
    """Return what the model's one picture input must hold."""
    pictures = [v for v in graph.inputs if v.shape is not None and len(v.shape) == 4]
    if len(graph.inputs) != 1 or len(pictures) != 1:
        raise DataError(
            f"{graph.name} must take one picture, an input of 4 axes; it takes {listed(graph.inputs)}"
        )
    value = pictures[0]
    _, a, b, c = value.shape or (None,) * 4
    if layout is None:
        first, last = a in _MODES, c in _MODES
        if first == last and not (first and a == 3 != c):
            raise DataError(
                f"input {listed([value])} must show where its channels are: give --layout nchw or nhwc"
                + ("" if a or c else f", and its sizes with --shape {value.name}=?,3,224,224")
            )
        layout = "nchw" if first else "nhwc"
    channels, height, width = (a, b, c) if layout == "nchw" else (c, a, b)
    if not (channels and height and width):
        example = "?,3,224,224" if layout == "nchw" else "?,224,224,3"
        raise DataError(
            f"sizes of the picture must be known, but the model takes {listed([value])}: "
            f"give them with --shape {value.name}={example}"
        )
    if channels not in _MODES:
        raise DataError(f"pictures have 1, 3 or 4 channels, but {listed([value])} has {channels}")
    return _Frame(value, layout, channels, height, width)


def _find_files(folder: Path, labels: Path | None) -> tuple[list[Path], list[str], str]:
    """Return the files, their labels in words (if any) and where those come from."""
    if labels is not None:
        rows = list(csv.reader(read_lines(labels)))
        rows = [row for row in rows if row]
        if rows and len(rows[0]) == 2 and Path(rows[0][0]).suffix.lower() not in SUFFIXES:
            rows = rows[1:]  # a header
        for line, row in enumerate(rows, 1):
            if len(row) != 2:
                raise DataError(
                    f"{labels.name}: rows must be file name and label, row {line} has {len(row)} cells"
                )
        if not rows:
            raise DataError(f"{labels.name}: must name pictures and their labels, got no row")
        files = [inside(folder, row[0].strip(), labels.name) for row in rows]
        return files, [row[1].strip() for row in rows], f"of {labels.name}"
    root = folder.resolve()
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not names:
        raise DataError(
            f"{folder.name}: must hold pictures ({', '.join(sorted(SUFFIXES))}), got none"
        )
    files = [inside(folder, name, folder.name) for name in names]
    parents = [name.rpartition("/")[0] for name in names]
    named = all(parents) and len(set(parents)) > 1
    return files, parents if named else [], "from the names of the folders"


def _read(
    path: Path,
    folder: Path,
    frame: _Frame,
    resize: Resize,
    order: Order,
    affine: tuple[float, Sequence[float], Sequence[float]] | None,
) -> Array:
    """Return one picture as [C, H, W] or [H, W, C]."""
    import warnings

    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                turned = ImageOps.exif_transpose(opened).convert(_MODES[frame.channels])
                pixels = np.asarray(_fit(turned, frame, resize))
    except Exception as error:  # pillow raises what the format's decoder raises
        said = " ".join(str(error).replace(str(path), path.name).split()) or type(error).__name__
        name = path.relative_to(folder.resolve()).as_posix()
        raise DataError(f"{name}: cannot be read as a picture: {said}") from None
    pixels = pixels.reshape(frame.height, frame.width, frame.channels)
    if order == "bgr" and frame.channels >= 3:
        pixels = pixels[..., [2, 1, 0, *range(3, frame.channels)]]
    if affine is not None:
        scale, mean, std = affine
        pixels = (pixels * np.float32(scale) - np.array(mean, np.float32)) / np.array(
            std, np.float32
        )
    return pixels.transpose(2, 0, 1) if frame.layout == "nchw" else pixels


def _fit(picture: "Image", frame: _Frame, resize: Resize) -> "Image":
    from PIL import Image, ImageOps

    size = (frame.width, frame.height)
    if resize == "stretch":
        return picture.resize(size, Image.Resampling.BILINEAR)
    if resize == "crop":
        return ImageOps.fit(picture, size, Image.Resampling.BILINEAR)
    small = ImageOps.contain(picture, size, Image.Resampling.BILINEAR)
    canvas = Image.new(picture.mode, size)
    canvas.paste(small, (0, 0))
    return canvas
