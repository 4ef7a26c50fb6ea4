"""``ranges.json``: how large the values are that layers read, and where each scheme cuts them off."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpsearch.artifacts import Content, read_artifact, write_artifact

LOWEST, HIGHEST, STEP = -30.0, 20.0, 0.5
"""Octaves (log2 of magnitudes) of the histograms: both ends, and the width of a bin."""


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """What calibration saw of one layer's input.

    Attributes:
        layer: The layer.
        value: The tensor that it reads.
        shares: Share of all elements in each bin of magnitudes from 2^:data:`LOWEST`; smaller ones are in the first.
        zeros: Share of elements that are zero.
        amax: Largest magnitude.
        clips: Scheme to the largest magnitude that it can hold here; static ranges only.
        clipped: Scheme to the share of elements beyond that, to within a bin.
    """

    layer: str
    value: str
    shares: tuple[float, ...]
    zeros: float
    amax: float
    clips: Mapping[str, float]
    clipped: Mapping[str, float]


class _Content(Content):
    samples: int
    layers: tuple[Magnitudes, ...]


def write_ranges(path: Path, layers: tuple[Magnitudes, ...], samples: int) -> None:
    """Write what calibration saw on so many samples."""
    write_artifact(path, "ranges", _Content(samples=samples, layers=layers))


def read_ranges(path: Path) -> tuple[tuple[Magnitudes, ...], int]:
    """Return the layers' inputs, and on how many samples they were seen.

    Raises:
        ArtifactError: The file is missing, damaged or of another kind.
    """
    content = read_artifact(path, "ranges", _Content)
    return content.layers, content.samples
