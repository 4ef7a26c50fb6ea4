"""Is somebody speaking? Silero's voice activity detector: a spectrum as convolution, then an LSTM over frames.

A sample is one frame of a clip, and the frames of a clip run together, since the LSTM goes over them: take
``--batch-size 94``. Speech is synthesised (pulses through formants), with pauses and noise.
"""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.models.made import Floats, Maker, Run, Source, read_arrays, write_arrays

_FILE = "silero_vad_16k_sequence.onnx"
_CALIBRATION, _HELD_OUT = (4, 41), (16, 42)  # clips, seed
_RATE, _HOP, _CONTEXT, _FRAMES, _STATE = 16000, 512, 64, 94, 128
# First three resonances of five vowels, in Hz (Peterson and Barney 1952, male averages).
_VOWELS = (
    (730, 1090, 2440),
    (530, 1840, 2480),
    (270, 2290, 3010),
    (570, 840, 2410),
    (300, 870, 2240),
)


def make(folder: Path, fetched: Path) -> None:
    """Write the model, frames of synthetic clips and which of them hold speech."""
    shutil.copyfile(fetched / _FILE, folder / "model.onnx")
    for name, (n, seed) in (("calibration", _CALIBRATION), ("held_out", _HELD_OUT)):
        clips = [speak(np.random.default_rng([seed, i])) for i in range(n)]
        frames = np.concatenate([cut(sound) for sound, _ in clips])
        zero = np.zeros((len(frames), 1, 1, _STATE), np.float32)
        write_arrays(folder / f"{name}.npz", {"input": frames, "h": zero, "c": zero})
        if name == "held_out":
            write_arrays(folder / "answers.npz", {"speech": np.stack([s for _, s in clips])})


def cut(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the frames of a clip [frames, context + hop]."""
    padded = np.concatenate([np.zeros(_CONTEXT, np.float32), sound])
    return np.stack([padded[i * _HOP : i * _HOP + _CONTEXT + _HOP] for i in range(_FRAMES)])


def speak(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return three seconds of phrases and pauses [samples], and which frames hold speech."""
    n = _FRAMES * _HOP
    sound, voiced = np.zeros(n), np.zeros(n, np.bool_)
    start = int(rng.uniform(0.1, 0.6) * _RATE)
    while start < n - _RATE // 2:
        phrase = _phrase(rng)[: n - start]
        sound[start : start + len(phrase)] += phrase
        voiced[start : start + len(phrase)] = True
        start += len(phrase) + int(rng.uniform(0.4, 1.0) * _RATE)
    sound = 0.3 * sound / np.abs(sound).max() + rng.normal(0, rng.uniform(0.001, 0.01), n)
    return sound.astype(np.float32), voiced.reshape(_FRAMES, _HOP).mean(1) > 0.5


def _phrase(rng: np.random.Generator) -> Floats:
    """A few syllables: a hiss at times, then a vowel that glides into the next."""
    parts = []
    pitch = float(rng.uniform(90, 220))
    vowel = np.array(_VOWELS[rng.integers(len(_VOWELS))], float)
    for _ in range(int(rng.integers(3, 7))):
        if rng.random() < 0.5:
            hiss = np.diff(rng.normal(0, 0.04, int(rng.uniform(0.03, 0.09) * _RATE)), prepend=0.0)
            parts.append(hiss * np.hanning(len(hiss)))
        following = np.array(_VOWELS[rng.integers(len(_VOWELS))], float)
        length = int(rng.uniform(0.12, 0.28) * _RATE)
        parts.append(_vowel(vowel, following, pitch, length, rng))
        vowel, pitch = following, pitch * float(rng.uniform(0.9, 1.08))
    return np.concatenate(parts)


def _vowel(first: Floats, last: Floats, pitch: float, n: int, rng: np.random.Generator) -> Floats:
    """Harmonics of a voice, each as strong as the resonances around it let it be."""
    time = np.linspace(0, 1, n)
    bend = pitch * (1 + 0.05 * np.sin(np.pi * time) + 0.01 * rng.normal())
    phase = 2 * np.pi * np.cumsum(bend) / _RATE
    formants = first[:, None] * (1 - time) + last[:, None] * time
    sound = np.zeros(n)
    for harmonic in range(1, int(4000 / pitch)):
        gains = 1 / (1 + ((harmonic * bend - formants) / np.array([[60], [90], [130]])) ** 2)
        strength = (gains * np.array([[1.0], [0.6], [0.3]])).sum(0) / harmonic**0.5
        sound += strength * np.sin(harmonic * phase)
    return sound * np.minimum(1, 8 * np.minimum(time, 1 - time))


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """Area under the ROC curve of each held-out clip's frames."""
    speech = read_arrays(folder / "answers.npz")["speech"]
    data = read_arrays(folder / "held_out.npz")
    areas = []
    for clip, truth in enumerate(speech):
        rows = slice(clip * _FRAMES, (clip + 1) * _FRAMES)
        said = run({"input": data["input"][rows], "h": data["h"][0], "c": data["c"][0]})
        areas.append(_area(np.asarray(said["speech_probs"]).reshape(-1), truth))
    return {"frame_auc": np.array(areas)}


def _area(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Share of pairs of a speech and another frame that the scores order rightly."""
    pairs = scores[truth][:, None] - scores[~truth]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


MAKER = Maker(
    about="Silero voice activity, 1.2 MB; one frame of a synthetic clip a sample, 94 frames a clip",
    source=Source(
        "silero-vad==6.2.3",
        {
            f"silero_vad/data/{_FILE}": (
                "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
            )
        },
        "MIT",
    ),
    make=make,
    score=score,
    batch_size=_FRAMES,
)
