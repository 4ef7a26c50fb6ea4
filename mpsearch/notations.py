"""Short notations inside specs and schemes: how ranges are found (``percentile:99.9``), how sums are kept (``fp16:64``)."""

import re
from dataclasses import dataclass
from math import nan
from types import MappingProxyType

from mpsearch.errors import SchemeError


@dataclass(frozen=True, slots=True)
class Estimator:
    """How a range is chosen from data.

    Attributes:
        name: One of ``ESTIMATORS``.
        value: Its number: a percentage, a momentum, a count of batches; 0 where it takes none.
    """

    name: str
    value: float = 0.0

    @property
    def needs_batches(self) -> bool:
        """Whether it follows batches one after the other."""
        return self.name in ("moving", "history")


ESTIMATORS = MappingProxyType(
    {"amax": 0.0, "mse": 0.0, "entropy": 0.0, "percentile": 99.99, "moving": 0.9, "history": 16.0}
)
"""Name of each estimator to the number that it takes unless told; 0 where it takes none."""


def parse_estimator(text: str) -> Estimator:
    """Return what ``amax``, ``percentile``, ``percentile:99.9``, … stand for.

    Raises:
        SchemeError: No estimator has this name, or its number is out of its range.
    """
    name, colon, number = text.partition(":")
    if name not in ESTIMATORS:
        raise SchemeError(f"`estimator` must be one of {', '.join(ESTIMATORS)}; got {text!r}")
    if not colon:
        return Estimator(name, ESTIMATORS[name])
    must = {
        "percentile": ("a percentage from 50 to 100", lambda v: 50 < v <= 100),
        "moving": ("a momentum of at least 0 and below 1", lambda v: 0 <= v < 1),
        "history": ("a whole number of batches, at least 1", lambda v: v >= 1 and v % 1 == 0),
    }
    if name not in must:
        raise SchemeError(f"estimator {name} takes no number, got {text!r}")
    said, holds = must[name]
    try:
        value = float(number)
    except ValueError:
        value = nan
    if not holds(value):
        raise SchemeError(f"estimator {name} takes {said}, got {text!r}")
    return Estimator(name, value)


@dataclass(frozen=True, slots=True)
class Accumulator:
    """What a product's partial sums are kept in.

    Attributes:
        format: A plain format.
        chunk: Products that are summed exactly before each addition in that format.
    """

    format: str
    chunk: int


def parse_accumulator(text: str) -> Accumulator | None:
    """Return what ``fp16:64`` stands for; None is ``fp32``, in which sums are exact.

    Raises:
        SchemeError: It is neither.
    """
    if text == "fp32":
        return None
    match = re.fullmatch(r"(fp16|bf16):([1-9]\d*)", text)
    if match is None:
        raise SchemeError(
            f"`accumulate` must be fp32, or fp16 or bf16 with the products of a chunk, such as fp16:64; got {text!r}"
        )
    return Accumulator(match[1], int(match[2]))
