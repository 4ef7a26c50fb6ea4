"""Which notes sound when? Spotify's basic-pitch, a small convolutional network over a constant-Q spectrum."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.models.made import (
    Floats,
    Maker,
    Run,
    Source,
    read_arrays,
    run_batched,
    write_arrays,
)

_FILE = "nmp.onnx"
_CALIBRATION, _HELD_OUT = (24, 31), (48, 32)  # windows, seed
_RATE, _SAMPLES, _FRAMES, _HOP, _KEYS = 22050, 43844, 172, 256, 88
_LOWEST_MIDI = 21  # A0, the first key
_THRESHOLD = 0.3  # the package's own for frames
_INPUT, _NOTES = "serving_default_input_2:0", "StatefulPartitionedCall:1"


def make(folder: Path, fetched: Path) -> None:
    """Write the model, windows of synthetic music and the keys that are down in each frame."""
    shutil.copyfile(fetched / _FILE, folder / "model.onnx")
    for name, (n, seed) in (("calibration", _CALIBRATION), ("held_out", _HELD_OUT)):
        windows = [play(np.random.default_rng([seed, i])) for i in range(n)]
        audio = np.stack([sound for sound, _ in windows])[:, :, None]
        write_arrays(folder / f"{name}.npz", {_INPUT: audio})
        if name == "held_out":
            write_arrays(folder / "answers.npz", {"keys": np.stack([keys for _, keys in windows])})


def play(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return two seconds of up to three voices [samples], and which key is down [frames, keys]."""
    sound = np.zeros(_SAMPLES)
    keys = np.zeros((_FRAMES, _KEYS), np.bool_)
    for _ in range(int(rng.integers(1, 4))):
        start = float(rng.uniform(0, 0.3))
        while start < 1.6:
            length = float(rng.uniform(0.25, 0.8))
            midi = int(rng.integers(45, 82))
            first, last = int(start * _RATE), min(_SAMPLES, int((start + length) * _RATE))
            sound[first:last] += _note(midi, last - first, rng)
            keys[round(first / _HOP) : round(last / _HOP), midi - _LOWEST_MIDI] = True
            start += length + float(rng.uniform(0, 0.15))
    sound += rng.normal(0, 0.002, _SAMPLES)
    return (0.7 * sound / np.abs(sound).max()).astype(np.float32), keys


def _note(midi: int, n: int, rng: np.random.Generator) -> Floats:
    """A struck string: harmonics that fade, the higher the faster."""
    time = np.arange(n) / _RATE
    pitch = 440.0 * 2 ** ((midi - 69) / 12)
    harmonics = np.arange(1, 9)[:, None]
    partials = np.sin(2 * np.pi * pitch * harmonics * time + rng.uniform(0, 2 * np.pi, (8, 1)))
    strength = harmonics ** -float(rng.uniform(1.0, 2.0))
    fading = np.exp(-time * harmonics * float(rng.uniform(0.3, 1.5)))
    attack = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
    return (partials * strength * fading).sum(0) * attack * float(rng.uniform(0.4, 1.0))


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """F1 of the keys that are down, over the frames of each held-out window."""
    keys = read_arrays(folder / "answers.npz")["keys"]
    heard = run_batched(run, read_arrays(folder / "held_out.npz"), MAKER.batch_size)[_NOTES]
    said = heard > _THRESHOLD
    right = (said & keys).sum((1, 2))
    return {"frame_f1": 2 * right / np.maximum(said.sum((1, 2)) + keys.sum((1, 2)), 1)}


MAKER = Maker(
    about="basic-pitch note transcription, 0.2 MB; two seconds of synthetic music a sample",
    source=Source(
        "basic-pitch==0.4.0",
        {
            f"basic_pitch/saved_models/icassp_2022/{_FILE}": (
                "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"
            )
        },
        "Apache-2.0",
    ),
    make=make,
    score=score,
    batch_size=8,
)
