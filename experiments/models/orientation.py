"""Is a text line upside down? PaddleOCR's MobileNetV3 classifier, 53 convolutions and one MatMul."""

import shutil
from pathlib import Path

import numpy as np

from experiments.models.made import (
    Floats,
    Maker,
    Run,
    Source,
    read_arrays,
    run_batched,
    write_arrays,
)
from mpsearch.demo.text_lines import orientation_arrays

_FILE = "ch_ppocr_mobile_v2.0_cls_infer.onnx"
_SHA256 = "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
_CALIBRATION, _HELD_OUT = (250, 1), (800, 2)  # lines, seed


def make(folder: Path, fetched: Path) -> None:
    """Write the model and lines of known orientation; ``labels``: 1 is upside down."""
    shutil.copyfile(fetched / _FILE, folder / "model.onnx")
    for name, (n, seed) in (("calibration", _CALIBRATION), ("held_out", _HELD_OUT)):
        write_arrays(folder / f"{name}.npz", orientation_arrays(n, seed=seed))


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """Accuracy and negative log-likelihood of each held-out line."""
    arrays = read_arrays(folder / "held_out.npz")
    labels = arrays.pop("labels")
    (probabilities,) = run_batched(run, arrays, MAKER.batch_size).values()
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "accuracy": (probabilities.argmax(1) == labels).astype(np.float64),
        "nll": -np.log(np.maximum(of_label, 1e-12)),
    }


MAKER = Maker(
    about="text orientation 0/180, MobileNetV3, 0.6 MB; 48x192 lines with labels",
    source=Source(
        "rapidocr-onnxruntime==1.4.4",
        {f"rapidocr_onnxruntime/models/{_FILE}": _SHA256},
        "Apache-2.0",
    ),
    make=make,
    score=score,
    batch_size=50,
)
