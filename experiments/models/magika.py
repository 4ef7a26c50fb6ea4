"""What type is a file? Google's magika, on 512-byte fragments of text files of known types.

The fragments come from the Python packages and the standard library that are installed here, so that
the score depends on their versions; which files were taken is written beside the data.
"""

import json
import shutil
import sysconfig
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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

_CALIBRATION, _HELD_OUT = (200, 61), (800, 62)  # fragments, seed
_FRAGMENT, _BEGIN, _END, _PADDING = 512, 1024, 1024, 256
_TYPES = {
    ".py": "python",
    ".h": "c",
    ".c": "c",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".js": "javascript",
    ".css": "css",
    ".html": "html",
    ".toml": "toml",
    ".rst": "rst",
    ".md": "markdown",
    ".f90": "fortran",
    ".cmake": "cmake",
    ".pem": "pem",
}
_A_TYPE_AT_MOST = 60


def make(folder: Path, fetched: Path) -> None:
    """Write the model and fragments with the index of their type as ``labels``."""
    shutil.copyfile(fetched / "model.onnx", folder / "model.onnx")
    config = json.loads((fetched / "config.min.json").read_text())
    classes: list[str] = config["target_labels_space"]
    files = find_files()
    used: dict[str, list[str]] = {}
    for name, (n, seed) in (("calibration", _CALIBRATION), ("held_out", _HELD_OUT)):
        rng = np.random.default_rng(seed)
        half = 0 if name == "calibration" else 1  # no file is in both
        kinds = sorted(kind for kind, paths in files.items() if len(paths) > 1)
        rows, labels, taken = [], [], []
        for i in range(n):
            kind = kinds[i % len(kinds)]
            mine = files[kind][half::2]
            path = mine[int(rng.integers(len(mine)))]
            data = path.read_bytes()
            start = int(rng.integers(0, max(1, len(data) - _FRAGMENT)))
            rows.append(encode(data[start : start + _FRAGMENT]))
            labels.append(classes.index(kind))
            taken.append(f"{path.name}@{start}")
        used[name] = taken
        arrays: Arrays = {"bytes": np.stack(rows), "labels": np.array(labels, np.int64)}
        write_arrays(folder / f"{name}.npz", arrays)
    (folder / "fragments.json").write_text(json.dumps(used, indent=1) + "\n")


def find_files() -> dict[str, list[Path]]:
    """Return type → files of that type among the installed packages, sorted, some of each."""
    found: dict[str, list[Path]] = defaultdict(list)
    for place in ("purelib", "stdlib"):
        root = Path(sysconfig.get_path(place))
        for path in sorted(root.rglob("*")):
            kind = _TYPES.get(path.suffix)
            if kind and path.is_file() and path.stat().st_size >= _FRAGMENT:
                found[kind].append(path)
    return {kind: paths[:: max(1, len(paths) // _A_TYPE_AT_MOST)] for kind, paths in found.items()}


def encode(fragment: bytes) -> NDArray[np.int32]:
    """Return the first and the last 1024 bytes without white space around them, padded with 256."""
    row = np.full(_BEGIN + _END, _PADDING, np.int32)
    head, tail = fragment.lstrip()[:_BEGIN], fragment.rstrip()[-_END:]
    row[: len(head)] = list(head)
    if tail:
        row[-len(tail) :] = list(tail)
    return row


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """Accuracy and negative log-likelihood of each held-out fragment."""
    arrays = read_arrays(folder / "held_out.npz")
    labels = arrays.pop("labels")
    (probabilities,) = run_batched(run, arrays, MAKER.batch_size).values()
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        "accuracy": (probabilities.argmax(1) == labels).astype(np.float64),
        "nll": -np.log(np.maximum(of_label, 1e-12)),
    }


MAKER = Maker(
    about="magika file types, 3.2 MB; 512-byte fragments of installed files with labels",
    source=Source(
        "magika==1.0.3",
        {
            "magika/models/standard_v3_3/model.onnx": (
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
            ),
            "magika/models/standard_v3_3/config.min.json": "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
        },
        "Apache-2.0",
    ),
    make=make,
    score=score,
    batch_size=50,
)
