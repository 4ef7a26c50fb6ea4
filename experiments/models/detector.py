"""Where on a page is text? PP-OCRv4's detector (DBNet): a map of how likely each pixel is text."""

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

from experiments.models.made import (
    Floats,
    Maker,
    Run,
    Source,
    read_arrays,
    run_batched,
    write_arrays,
)
from mpsearch.demo.text_lines import font_files, license_words

Box = tuple[float, float, float, float]  # left, top, right, bottom

_FILE = "ch_PP-OCRv4_det_infer.onnx"
_CALIBRATION, _HELD_OUT = (16, 41), (32, 42)  # pages, seed
_SIZE = 480
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_THRESHOLD, _BOX_THRESHOLD, _UNCLIP, _SMALLEST = 0.3, 0.6, 1.6, 9  # the detector's own defaults


def make(folder: Path, fetched: Path) -> None:
    """Write the model, pages of text, and the box of every line of the held-out ones."""
    shutil.copyfile(fetched / _FILE, folder / "model.onnx")
    words, fonts = license_words(), font_files()
    for name, (n, seed) in (("calibration", _CALIBRATION), ("held_out", _HELD_OUT)):
        pages = [draw_page(words, fonts, np.random.default_rng([seed, i])) for i in range(n)]
        write_arrays(folder / f"{name}.npz", {"x": np.stack([pixels for pixels, _ in pages])})
        if name == "held_out":
            text = json.dumps([boxes for _, boxes in pages], indent=1)
            (folder / "answers.json").write_text(text + "\n")


def draw_page(
    words: list[str], fonts: list[Path], rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[Box]]:
    """Return a page [3, 480, 480] as the detector takes it, and the box of each of its lines."""
    paper = tuple(int(c) for c in rng.integers(200, 256, 3))
    page = Image.new("RGB", (_SIZE, _SIZE), paper)
    pen = ImageDraw.Draw(page)
    boxes: list[Box] = []
    y = float(rng.integers(12, 40))
    while True:
        size = int(rng.integers(14, 34))
        font = ImageFont.truetype(str(fonts[int(rng.integers(len(fonts)))]), size)
        start = int(rng.integers(0, len(words) - 6))
        text = " ".join(words[start : start + int(rng.integers(1, 6))])
        x = float(rng.integers(8, 120))
        ink = tuple(int(c) for c in rng.integers(0, 120, 3))
        left, top, right, bottom = pen.textbbox((x, y), text, font=font)
        if bottom > _SIZE - 8:
            break
        if right <= _SIZE - 8:
            pen.text((x, y), text, fill=ink, font=font)
            boxes.append((float(left), float(top), float(right), float(bottom)))
        y = bottom + float(rng.integers(8, 34))
    page = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.9))))
    pixels = np.asarray(page, np.float64)[:, :, ::-1] + rng.normal(0, 8, (_SIZE, _SIZE, 3))
    scaled = (np.clip(pixels, 0, 255) / 255 - _MEAN) / _STD
    return scaled.transpose(2, 0, 1).astype(np.float32), boxes


def find_boxes(likely: NDArray[np.floating]) -> list[Box]:
    """Return the boxes of the text that a map [height, width] shows: its regions, grown again."""
    labels, _ = ndimage.label(likely > _THRESHOLD, structure=np.ones((3, 3)))
    boxes = []
    for i, region in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = region
        height, width = rows.stop - rows.start, columns.stop - columns.start
        inside = labels[region] == i
        if min(height, width) < 3 or likely[region][inside].mean() < _BOX_THRESHOLD:
            continue
        grow = height * width * _UNCLIP / (2 * (height + width))  # the kernel was shrunk by this
        box = (columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow)
        if min(box[2] - box[0], box[3] - box[1]) >= _SMALLEST:
            boxes.append(box)
    return boxes


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """F1 of each held-out page: a box is right if it overlaps a line's with IoU of at least .5."""
    answers = json.loads((folder / "answers.json").read_text())
    arrays = read_arrays(folder / "held_out.npz")
    (maps,) = run_batched(run, arrays, MAKER.batch_size).values()
    found = [find_boxes(page[0]) for page in maps]
    return {
        "f1_at_iou_50": np.array(
            [
                2 * _matches(boxes, truth) / max(1, len(boxes) + len(truth))
                for boxes, truth in zip(found, answers, strict=True)
            ]
        )
    }


def _matches(boxes: list[Box], truth: list[Box]) -> int:
    """How many boxes of ``truth`` are found, each by another box, the best overlaps first."""
    pairs = sorted(
        ((_overlap(b, t), i, j) for i, b in enumerate(boxes) for j, t in enumerate(truth)),
        reverse=True,
    )
    used: set[int] = set()
    met: set[int] = set()
    for overlap, i, j in pairs:
        if overlap >= 0.5 and i not in used and j not in met:
            used.add(i)
            met.add(j)
    return len(met)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


MAKER = Maker(
    about="text detector PP-OCRv4 (DBNet), 4.7 MB; 480x480 pages with the box of every line",
    source=Source(
        "rapidocr-onnxruntime==1.4.4",
        {
            f"rapidocr_onnxruntime/models/{_FILE}": (
                "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"
            )
        },
        "Apache-2.0",
    ),
    make=make,
    score=score,
    batch_size=4,
)
