"""Where the reduction of a tensor runs: any tensor seen as rows × positions × channels.

Rows are what scales are never shared across (output channels of a weight, everything else of an
activation); positions are kernel positions; channels are those of one convolution group, in order.
Blocks and sparse groups run along channels and never cross a position.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from torch import Tensor

from mpsearch.errors import SchemeError


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor's view as [rows, positions, channels], and the way back.

    Attributes:
        shape: The tensor's own shape.
        split: That shape with the reduction axis split into (groups, channels).
        order: Permutation of ``split`` to (rows..., positions..., channels).
        rows: Output channels (weights) or all other elements (activations), groups included.
        positions: Kernel positions.
        channels: Elements along the reduction inside one group.
        strided: The tensor in memory order as [outer, channels, inner].
        rows_lead: Whether memory order is rows first, so that a row is one run of memory.
        row_axis: The one axis of the tensor that indexes rows, if there is just one.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    rows: int
    positions: int
    channels: int
    strided: tuple[int, int, int]
    rows_lead: bool
    row_axis: int | None

    def to_rows(self, x: Tensor) -> Tensor:
        """Return ``x`` as contiguous [rows, positions, channels]; a view where that is possible."""
        permuted = x.reshape(self.split).permute(self.order)
        return permuted.reshape(self.rows, self.positions, self.channels).contiguous()

    def from_rows(self, rows: Tensor) -> Tensor:
        """Return [rows, positions, channels] in the tensor's own shape, contiguous."""
        permuted = rows.reshape([self.split[axis] for axis in self.order])
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return permuted.permute(back).reshape(self.shape).contiguous()


@lru_cache(maxsize=4096)
def find_layout(
    shape: tuple[int, ...],
    *,
    reduction_axis: int,
    channel_axes: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Layout:
    """Return the layout of a tensor of ``shape``.

    Args:
        shape: Any; a 0-d tensor counts as one element.
        reduction_axis: Axis along which blocks run; may be negative.
        channel_axes: Axes that together index output channels; the rest are positions. None: every
            other axis belongs to the rows (activations).
        groups: Convolution groups that the reduction axis spans, outermost.

    Raises:
        SchemeError: An axis is missing or named twice, or the groups do not divide the reduction.
    """
    dims = shape or (1,)
    axis = _check_axis(reduction_axis, dims, "reduction_axis")
    if groups < 1 or dims[axis] % groups:
        raise SchemeError(
            f"`size % groups == 0` must hold along the reduction, got size {dims[axis]} with groups={groups}"
        )
    others = [i for i in range(len(dims)) if i != axis]
    if channel_axes is None:
        rows = others
    else:
        rows = [_check_axis(i, dims, "channel_axes") for i in channel_axes]
        if axis in rows or len(set(rows)) != len(rows):
            raise SchemeError(
                "`channel_axes` must be distinct and without the reduction axis, "
                f"got {channel_axes} with reduction_axis={reduction_axis}"
            )
    positions = [i for i in others if i not in rows]
    split = (*dims[:axis], groups, dims[axis] // groups, *dims[axis + 1 :])
    moved = [i + (i > axis) for i in range(len(dims))]  # axes after the split
    order = (axis, *(moved[i] for i in rows), *(moved[i] for i in positions), axis + 1)
    if channel_axes is None:  # activations: keep memory order, the group just before its channels
        order = (*(moved[i] for i in rows), axis, axis + 1)
    return Layout(
        shape=shape,
        split=split,
        order=order,
        rows=groups * prod(dims[i] for i in rows),
        positions=prod(dims[i] for i in positions),
        channels=dims[axis] // groups,
        strided=(
            prod(dims[:axis]) * groups,
            dims[axis] // groups,
            prod(dims[axis + 1 :]),
        ),
        rows_lead=groups == 1 and rows == list(range(len(rows))),
        row_axis=rows[0] if len(rows) == 1 and groups == 1 else None,
    )


def _check_axis(axis: int, dims: tuple[int, ...], name: str) -> int:
    if not -len(dims) <= axis < len(dims):
        raise SchemeError(
            f"`{name}` must name an axis of the tensor, but axis {axis} is missing: "
            f"its shape is {tuple(dims)}, so choose from {-len(dims)}..{len(dims) - 1}"
        )
    return axis % len(dims)
