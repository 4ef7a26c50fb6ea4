"""What does a captcha say? ddddocr's network, which knows 8 210 characters and takes one picture at a time."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.models.captcha_pictures import draw_captcha
from experiments.models.ctc import character_error_rate, collapse
from experiments.models.made import Arrays, Floats, Maker, Run, Source, read_arrays, write_arrays

_CALIBRATION, _HELD_OUT = (64, 71), (200, 72)  # pictures, seed
_WIDTH, _HEIGHT = 170, 64
_DRAWN = "23456789abcdefghjkmnpqrstuvwxyz"


def make(folder: Path, fetched: Path) -> None:
    """Write the model, grey captchas of four characters, its alphabet and the answers."""
    shutil.copyfile(fetched / "common.onnx", folder / "model.onnx")
    alphabet = read_alphabet(fetched / "charsets.py")
    answers: list[str] = []
    for name, (n, seed) in (("calibration", _CALIBRATION), ("held_out", _HELD_OUT)):
        answers, pictures = [], []
        for i in range(n):
            rng = np.random.default_rng([seed, i])
            answers.append("".join(rng.choice(list(_DRAWN), 4)))
            picture = draw_captcha(answers[-1], rng)
            grey = picture.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS).convert("L")
            pictures.append(np.asarray(grey, np.float32)[None] / 255)
        write_arrays(folder / f"{name}.npz", {"input1": np.stack(pictures)})
    text = json.dumps({"alphabet": alphabet, "texts": answers}, ensure_ascii=False)
    (folder / "answers.json").write_text(text + "\n", encoding="utf-8")


def read_alphabet(path: Path) -> list[str]:
    """Return the model's characters from the package's source, which is parsed and never run."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="CHARSET_BETA")], value=value):
                alphabet: list[str] = ast.literal_eval(value)
                return alphabet
    raise RuntimeError(f"{path.name}: holds no CHARSET_BETA")


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """Exact match and character error rate of each held-out captcha, without case."""
    known = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    alphabet, answers = known["alphabet"], known["texts"]
    read = [
        "".join(alphabet[i] for i in _codes(run({"input1": picture[None]}))).lower()
        for picture in read_arrays(folder / "held_out.npz")["input1"]
    ]
    pairs = list(zip(read, answers, strict=True))
    return {
        "exact_match": np.array([text == answer for text, answer in pairs], np.float64),
        "character_error_rate": np.array([character_error_rate(*pair) for pair in pairs]),
    }


def _codes(outputs: Arrays) -> list[int]:
    """Time stands first, then the one sample."""
    (logits,) = outputs.values()
    return collapse(logits[:, 0].argmax(1)[None], blank=0)[0]


MAKER = Maker(
    about="ddddocr captchas, 54 MB; 64x170 grey captchas of four characters, one at a time",
    source=Source(
        "ddddocr==1.6.1",
        {
            "ddddocr/common.onnx": (
                "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8"
            ),
            "ddddocr/charsets.py": "ae99cf71e1dd738d50d2c2d2bf8544c16a7d23452e9b64346d3ac4dbff83510f",
        },
        "MIT",
    ),
    make=make,
    score=score,
    batch_size=1,
)
