"""What does a text line say? PP-OCRv4: convolutions, attention and CTC over 6 623 characters."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx

from experiments.models.ctc import character_error_rate, collapse
from experiments.models.made import (
    Floats,
    Maker,
    Run,
    Source,
    read_arrays,
    run_batched,
    write_arrays,
)
from mpsearch.demo.text_lines import draw_lines

_FILE = "ch_PP-OCRv4_rec_infer.onnx"
_SHA256 = "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"
_WIDTH = 320
_LONGEST = 24  # characters that fit without being squeezed
_CALIBRATION, _HELD_OUT = (128, 11), (256, 12)  # lines, seed


def make(folder: Path, fetched: Path) -> None:
    """Write the model, upright lines, and what the held-out ones say. No labels: the loss is KL."""
    shutil.copyfile(fetched / _FILE, folder / "model.onnx")
    for name, (n, seed) in (("calibration", _CALIBRATION), ("held_out", _HELD_OUT)):
        lines = draw_lines(4 * n, seed=seed, width=_WIDTH)
        short = np.strings.str_len(lines["texts"]) <= _LONGEST
        kept = np.flatnonzero(short & (lines["labels"] == 0))[:n]
        write_arrays(folder / f"{name}.npz", {"x": lines["images"][kept]})
        if name == "held_out":
            texts = [str(text) for text in lines["texts"][kept]]
            (folder / "answers.json").write_text(json.dumps(texts, indent=1) + "\n")


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """Exact match and character error rate of each held-out line, without case and spaces."""
    answers = json.loads((folder / "answers.json").read_text())
    alphabet = characters(folder / "model.onnx")
    arrays = read_arrays(folder / "held_out.npz")
    (probabilities,) = run_batched(run, arrays, MAKER.batch_size).values()
    read = [
        "".join(alphabet[i] for i in codes) for codes in collapse(probabilities.argmax(2), blank=0)
    ]
    pairs = [(_plain(text), _plain(answer)) for text, answer in zip(read, answers, strict=True)]
    return {
        "exact_match": np.array([text == answer for text, answer in pairs], np.float64),
        "character_error_rate": np.array([character_error_rate(*pair) for pair in pairs]),
    }


def characters(model: Path) -> list[str]:
    """Return the characters that the outputs stand for: the blank first, the space last."""
    properties = {p.key: p.value for p in onnx.load(model).metadata_props}
    return ["", *properties["character"].split("\n"), " "]


def _plain(text: str) -> str:
    return "".join(text.lower().split())


MAKER = Maker(
    about="text recogniser PP-OCRv4, convolutions + attention + CTC, 11 MB; 48x320 lines, KL loss",
    source=Source(
        "rapidocr-onnxruntime==1.4.4",
        {f"rapidocr_onnxruntime/models/{_FILE}": _SHA256},
        "Apache-2.0",
    ),
    make=make,
    score=score,
    batch_size=16,
)
