"""What a device file says of measured kernels: parameters of a curve, and what the curve leaves."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from mpsearch.artifacts import Content

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class FittedKernels(Content):
    """Kernels of one operand format and sparsity, as one library runs them on one device.

    Attributes:
        format: Operand format (:func:`mpsearch.cost.device.operand_format`).
        sparsity: ``dense``, or the pattern of the weights.
        library: Where the kernels come from.
        launch_us: Time of an empty kernel.
        power: ``p`` of the smooth maximum of computing and moving.
        efficiency: Share of the peak that full waves of large tiles reach; of a sparse kernel, of the peak
            that its pattern would allow (twice the dense one at 2:4).
        memory_efficiency: Share of the bandwidth; above 1 where measurements ran from warm caches.
        cache_gain: ln of the gain in bandwidth where everything fits in the last cache.
        stream: Bandwidth that one multiprocessor can draw, over its even share.
        prologue_k: Reduction steps that a tile takes beside its own.
        tile_loss: What small tiles lose, in rows or columns of a tile.
        split_loss: Traffic of the partial sums where the reduction is split.
        wide_loss: What very wide results lose.
        large_loss: What long kernels lose (clocks that fall under power).
        least_us: Least time beside the launch, of kernels whose tiles are large: one tile's.
        relative_error: Relative standard error of the curve alone.
        error_scale: Factor that makes errors of kernels left out of the fit as large as predicted.
        points: Measured kernels that were fitted.
        cross_validated: Mean relative error of kernels whose (N, K) was left out; None where none was.
        borrowed_from: Device and format that the parameters come from where nothing was measured.
        residual: "N K" to "M r, M r, …": what the curve leaves at fitted kernels, in thousandths of ln.
        source: Where the measurements come from.
    """

    format: str
    sparsity: str = "dense"
    library: str = ""
    launch_us: Positive
    power: Annotated[float, Field(gt=1)]
    efficiency: Positive
    memory_efficiency: Positive
    cache_gain: float = 0.0
    stream: Positive
    prologue_k: NotNegative
    tile_loss: NotNegative
    split_loss: NotNegative
    wide_loss: NotNegative = 0.0
    large_loss: NotNegative = 0.0
    least_us: NotNegative = 0.0
    relative_error: Positive
    error_scale: Positive = 1.0
    points: Annotated[int, Field(ge=0)] = 0
    cross_validated: NotNegative | None = None
    borrowed_from: str = ""
    residual: Mapping[str, str] = Field(default_factory=dict)
    source: str = ""

    @model_validator(mode="after")
    def _residuals_can_be_read(self) -> "FittedKernels":
        residual_points(self.residual)
        return self


class QuantizationKernel(Content):
    """The kernel that rounds an activation to a narrower format, as measured.

    Attributes:
        format: Operand format that it writes.
        launch_us: Time of an empty kernel.
        memory_efficiency: Share of the bandwidth at which it reads and writes.
        source: Where the measurements come from.
    """

    format: str
    launch_us: NotNegative
    memory_efficiency: Positive
    source: str = ""


def residual_points(residual: Mapping[str, str]) -> list[tuple[int, int, int, int]]:
    """Return (M, N, K, thousandths of ln) of each fitted kernel.

    Raises:
        ValueError: A line does not read like ``"2048 4096" = "64 -12, 128 7"``.
    """
    points = []
    for shape, line in residual.items():
        try:
            n, k = (int(size) for size in shape.split())
            for pair in line.split(","):
                m, left = (int(part) for part in pair.split())
                points.append((m, n, k, left))
        except ValueError:
            raise ValueError(
                f'residual must read like "2048 4096" = "64 -12, 128 7", got {shape!r} = {line[:40]!r}'
            ) from None
    if any(min(point[:3]) < 1 for point in points):
        raise ValueError("sizes of residuals must be positive")
    return points


def residual_lines(points: list[tuple[int, int, int, int]]) -> dict[str, str]:
    """Return the mapping that :func:`residual_points` reads."""
    lines: dict[str, list[str]] = {}
    for m, n, k, left in sorted(points, key=lambda point: (point[1], point[2], point[0])):
        lines.setdefault(f"{n} {k}", []).append(f"{m} {left}")
    return {shape: ", ".join(pairs) for shape, pairs in lines.items()}
