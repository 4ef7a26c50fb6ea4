"""What does a captcha say? A DenseNet and an unrolled bidirectional LSTM, read by CTC."""

import json
import shutil
from pathlib import Path

import numpy as np

from experiments.models.captcha_pictures import draw_captcha
from experiments.models.ctc import character_error_rate, collapse
from experiments.models.made import (
    Arrays,
    Floats,
    Maker,
    Run,
    Source,
    read_arrays,
    run_batched,
    write_arrays,
)

_FILE = "captcha_crnn.onnx"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BLANK = len(_ALPHABET)
_DRAWN = [c for c in _ALPHABET if c not in "01IO"]  # people cannot tell those apart either
_CALIBRATION, _HELD_OUT = (100, 51), (300, 52)  # pictures, seed


def make(folder: Path, fetched: Path) -> None:
    """Write the model, captchas of four characters, and what the held-out ones say."""
    shutil.copyfile(fetched / _FILE, folder / "model.onnx")
    for name, (n, seed) in (("calibration", _CALIBRATION), ("held_out", _HELD_OUT)):
        texts, pictures = [], []
        for i in range(n):
            rng = np.random.default_rng([seed, i])
            texts.append("".join(rng.choice(_DRAWN, 4)))
            pixels = np.asarray(draw_captcha(texts[-1], rng), np.float32)
            pictures.append(pixels[:, :, ::-1].transpose(2, 0, 1))  # blue first, 0 to 255
        write_arrays(folder / f"{name}.npz", {"image": np.stack(pictures)})
        if name == "held_out":
            (folder / "answers.json").write_text(json.dumps(texts, indent=1) + "\n")


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """Exact match and character error rate of each held-out captcha."""
    answers = json.loads((folder / "answers.json").read_text())
    inputs = read_arrays(folder / "held_out.npz")

    def by_sample(rows: Arrays) -> Arrays:
        (logits,) = run(rows).values()
        return {"logits": logits.transpose(1, 0, 2)}  # the model puts time first

    logits = run_batched(by_sample, inputs, MAKER.batch_size)["logits"]
    read = [
        "".join(_ALPHABET[i] for i in codes) for codes in collapse(logits.argmax(2), blank=_BLANK)
    ]
    pairs = list(zip(read, answers, strict=True))
    return {
        "exact_match": np.array([text == answer for text, answer in pairs], np.float64),
        "character_error_rate": np.array([character_error_rate(*pair) for pair in pairs]),
    }


MAKER = Maker(
    about="captcha CRNN (DenseNet + unrolled BiLSTM), 19 MB; 60x160 captchas of four characters",
    source=Source(
        "captcha-whisperer==0.1.0",
        {
            f"captcha_whisperer/models/{_FILE}": (
                "7298347e85a4dfe3265b73874f1af42b17f0a8979688b48a44eaec4a50100c7b"
            )
        },
        "MIT",
    ),
    make=make,
    score=score,
    batch_size=20,
)
