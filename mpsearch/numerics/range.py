"""The range of one tensor as a value; reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """What calibration found about one tensor, and the scale that follows from it.

    Attributes:
        amax: Largest magnitude seen.
        low: Smallest value seen, at most 0.
        high: Largest value seen, at least 0.
        scale: Step of a spec per tensor; tensor scale of nvfp4; 0 where scales are live or absent.
        zero_point: Of asymmetric integers.
    """

    amax: float
    low: float
    high: float
    scale: float = 0.0
    zero_point: int = 0

    def to_json(self) -> dict[str, float]:
        """Return the fields as plain numbers."""
        return asdict(self)


def range_from_json(fields: Mapping[str, float]) -> Range:
    """Return the range that :meth:`Range.to_json` wrote."""
    return Range(
        amax=float(fields["amax"]),
        low=float(fields["low"]),
        high=float(fields["high"]),
        scale=float(fields["scale"]),
        zero_point=int(fields["zero_point"]),
    )
