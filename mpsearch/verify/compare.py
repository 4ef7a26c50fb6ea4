"""What a runtime gives beside what the simulation gives: shapes, and the error of one layer."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mpsearch.errors import NumericsError, PlanError
from mpsearch.graph.model import Layer
from mpsearch.stats.estimates import Floats


def check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], runtime: str) -> None:
    """Check that the model's outputs have the simulation's shapes.

    Raises:
        PlanError: One has another.
    """
    for name, want in expected.items():
        got = found.get(name, want)
        if got.shape != want.shape:
            raise PlanError(
                f"{runtime}: output {name!r} must have shape {list(want.shape)}, got {list(got.shape)}"
            )


def squared_difference(
    layer: Layer, found: Tensor, expected: Tensor, runtime: str
) -> tuple[float, float]:
    """Squared norm of the difference and of the simulation.

    Raises:
        NumericsError: One of them is not finite.
    """
    if found.shape != expected.shape:
        raise PlanError(
            f"{runtime}: layer {layer.name!r} must give shape {list(expected.shape)}, "
            f"got {list(found.shape)}"
        )
    for who, x in ((runtime, found), ("the simulation", expected)):
        if not bool(torch.isfinite(x).all()):
            raise NumericsError(f"layer {layer.name!r} must be finite in {who}, but is not")
    difference = (found.double() - expected.double()).square().sum()
    return float(difference), float(expected.double().square().sum())


def relative_errors(squares: Floats) -> Floats:
    """Norm of each difference relative to the simulation's; 1 where only the simulation is zero."""
    difference, power = squares.T
    return np.sqrt(np.where(power > 0, difference / np.maximum(power, 1e-300), difference > 0))
