"""Operators that move elements without changing them."""

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import (
    Builder,
    Kernel,
    constant_kernel,
    integer,
    integers,
    read,
    refuse,
    text,
)
from mpsearch.program.tensors import to_tensor


def _constant(node: Node) -> Kernel:
    for name, value in node.attributes.items():
        if name == "value":
            tensor = to_tensor(value)  # type: ignore[arg-type]  # an array by the standard
        elif name in ("value_float", "value_floats"):
            tensor = torch.tensor(value, dtype=torch.float32)
        elif name in ("value_int", "value_ints"):
            tensor = torch.tensor(value, dtype=torch.int64)
        else:
            raise refuse(node, f"a constant given as {name}")
        return lambda: tensor
    raise refuse(node, "a constant without a value")


def _reshape(node: Node) -> Kernel:
    allow_zero = integer(node, "allowzero", 0)

    def kernel(x: Tensor, shape: Tensor) -> Tensor:
        sizes = read(shape)
        if not allow_zero:
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        if -1 in sizes and x.numel() == 0:
            known = math.prod(s for s in sizes if s != -1)
            sizes = [(0 if known == 0 else x.numel() // known) if s == -1 else s for s in sizes]
        return x.reshape(sizes)

    return kernel


def _transpose(node: Node) -> Kernel:
    order = integers(node, "perm")
    if order is None:
        return lambda x: x.permute(tuple(range(x.ndim - 1, -1, -1)))
    return lambda x: x.permute(order)


def _concat(node: Node) -> Kernel:
    axis = integer(node, "axis", 1)
    return lambda *tensors: torch.cat(tensors, axis)


def _split(node: Node) -> Kernel:
    axis, sizes = integer(node, "axis", 0), integers(node, "split")
    outputs = integer(node, "num_outputs", len(node.outputs))

    def kernel(x: Tensor, split: Tensor | None = None) -> tuple[Tensor, ...]:
        if split is not None:
            return torch.split(x, read(split), axis)
        if sizes is not None:
            return torch.split(x, sizes, axis)
        length = x.shape[axis]
        step = -(-length // outputs)
        starts = [min(i * step, length) for i in range(outputs + 1)]
        starts[-1] = length
        return torch.split(x, [b - a for a, b in itertools.pairwise(starts)], axis)

    return kernel


def _slice_axis(x: Tensor, start: int, end: int, axis: int, step: int) -> Tensor:
    """``x[start:end:step]`` along one axis; with a negative step a start before the first element is it."""
    length = x.shape[axis]
    start, end = (v + length if v < 0 else v for v in (start, end))
    if step > 0:
        start, end = (min(max(v, 0), length) for v in (start, end))
        index = (slice(None),) * (axis % x.ndim) + (slice(start, max(start, end), step),)
        return x[index]
    start, end = (min(max(v, low), length - 1) for v, low in ((start, 0), (end, -1)))
    positions = range(start, end, step)
    return x.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=x.device))


def _slice(node: Node) -> Kernel:
    if node.version < 10:
        starts, ends = integers(node, "starts") or [], integers(node, "ends") or []
        axes = integers(node, "axes") or list(range(len(starts)))

        def fixed(x: Tensor) -> Tensor:
            for start, end, axis in zip(starts, ends, axes, strict=True):
                x = _slice_axis(x, start, end, axis, 1)
            return x

        return fixed

    def kernel(
        x: Tensor,
        starts: Tensor,
        ends: Tensor,
        axes: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> Tensor:
        begin, stop = read(starts), read(ends)
        along = list(range(len(begin))) if axes is None else read(axes)
        strides = [1] * len(begin) if steps is None else read(steps)
        for start, end, axis, step in zip(begin, stop, along, strides, strict=True):
            x = _slice_axis(x, start, end, axis, step)
        return x

    return kernel


def _squeeze(node: Node) -> Kernel:
    fixed = integers(node, "axes")

    def kernel(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = fixed if axes is None else read(axes)
        return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))

    return kernel


def _unsqueeze(node: Node) -> Kernel:
    fixed = integers(node, "axes")

    def kernel(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = (fixed or []) if axes is None else read(axes)
        rank = x.ndim + len(chosen)
        for axis in sorted(axis % rank for axis in chosen):
            x = x.unsqueeze(axis)
        return x

    return kernel


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, read(shape)))


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(read(repeats))


def _flatten(node: Node) -> Kernel:
    axis = integer(node, "axis", 1)

    def kernel(x: Tensor) -> Tensor:
        start = axis if axis >= 0 else axis + x.ndim
        return x.reshape(math.prod(x.shape[:start]), math.prod(x.shape[start:]))

    return kernel


def _shape(node: Node) -> Kernel:
    start, end = integer(node, "start", 0), node.attributes.get("end")
    window = slice(start, None if end is None else integer(node, "end", 0))
    return lambda x: torch.tensor(x.shape[window], dtype=torch.int64)


def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _constant_of_shape(node: Node) -> Kernel:
    value = node.attributes.get("value")
    fill = torch.zeros(1) if value is None else to_tensor(value)  # type: ignore[arg-type]
    number = fill.reshape(-1)[0].item()
    return lambda shape: torch.full(read(shape), number, dtype=fill.dtype, device=shape.device)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, step = start.reshape(-1)[0].item(), delta.reshape(-1)[0].item()
    count = max(math.ceil((limit.reshape(-1)[0].item() - first) / step), 0)
    steps = torch.arange(count, device=start.device)
    return (first + steps * step).to(start.dtype)


_PAD_MODES = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}


def pad(x: Tensor, pads: list[int], axes: list[int], mode: str, value: float) -> Tensor:
    """Pad ``x`` by ``pads`` (begins, then ends, of ``axes``) as ONNX Pad does; negative ones crop."""
    count = len(axes)
    for i, axis in enumerate(axes):
        low, high = pads[i], pads[count + i]
        if low < 0 or high < 0:
            length = x.shape[axis] + min(low, 0) + min(high, 0)
            x = x.narrow(axis, max(-low, 0), length)
    low_high = {
        axis % x.ndim: (max(pads[i], 0), max(pads[count + i], 0)) for i, axis in enumerate(axes)
    }
    if mode == "constant":
        flat: list[int] = []
        for axis in range(x.ndim - 1, -1, -1):
            flat += low_high.get(axis, (0, 0))
        return F.pad(x, flat, value=value)
    for axis, (low, high) in low_high.items():
        if low or high:
            x = x.index_select(axis, _pad_positions(x.shape[axis], low, high, mode, x.device))
    return x


def _pad_positions(length: int, low: int, high: int, mode: str, device: torch.device) -> Tensor:
    positions = torch.arange(-low, length + high, device=device)
    if mode == "edge":
        return positions.clamp(0, length - 1)
    if mode == "wrap":
        return positions % length
    period = max(2 * (length - 1), 1)
    folded = positions % period
    return torch.minimum(folded, period - folded) if length > 1 else torch.zeros_like(positions)


def _pad(node: Node) -> Kernel:
    mode = text(node, "mode", "constant")
    if mode not in _PAD_MODES:
        raise refuse(node, f"mode {mode!r}")
    fixed = integers(node, "pads")
    if fixed is None:
        fixed = integers(node, "paddings")
    value = float(node.attributes.get("value", 0.0))  # type: ignore[arg-type]

    def kernel(
        x: Tensor,
        pads: Tensor | None = None,
        constant: Tensor | None = None,
        axes: Tensor | None = None,
    ) -> Tensor:
        amounts = (fixed or []) if pads is None else read(pads)
        along = list(range(x.ndim)) if axes is None else read(axes)
        if constant is None or constant.numel() == 0:
            return pad(x, amounts, along, mode, value)
        if constant.requires_grad and mode == "constant":
            inside = pad(torch.ones_like(x), amounts, along, mode, 0.0)
            return pad(x, amounts, along, mode, 0.0) + (1 - inside) * constant
        return pad(x, amounts, along, mode, constant.reshape(-1)[0].item())

    return kernel


def _depth_to_space(node: Node) -> Kernel:
    size, mode = integer(node, "blocksize", 1), text(node, "mode", "DCR")

    def kernel(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if mode == "CRD":
            return F.pixel_shuffle(x, size)
        x = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, c // size**2, h * size, w * size)

    return kernel


def _space_to_depth(node: Node) -> Kernel:
    size = integer(node, "blocksize", 1)

    def kernel(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * size**2, h // size, w // size)

    return kernel


def _triangle(node: Node) -> Kernel:
    cut = torch.triu if integer(node, "upper", 1) else torch.tril
    return lambda x, k=None: cut(x, 0 if k is None else int(k.item()))


def _reverse_sequence(node: Node) -> Kernel:
    batch_axis, time_axis = integer(node, "batch_axis", 1), integer(node, "time_axis", 0)

    def kernel(x: Tensor, lengths: Tensor) -> Tensor:
        moved = x.movedim((batch_axis, time_axis), (0, 1))
        time = torch.arange(moved.shape[1], device=x.device).expand(moved.shape[0], -1)
        ends = lengths.reshape(-1, 1).to(x.device)
        order = torch.where(time < ends, ends - 1 - time, time)
        order = order.reshape(order.shape + (1,) * (x.ndim - 2)).expand(moved.shape)
        return torch.gather(moved, 1, order).movedim((0, 1), (batch_axis, time_axis))

    return kernel


def _center_crop_pad(node: Node) -> Kernel:
    fixed = integers(node, "axes")

    def kernel(x: Tensor, shape: Tensor) -> Tensor:
        axes = list(range(x.ndim)) if fixed is None else fixed
        for axis, size in zip(axes, read(shape), strict=True):
            length = x.shape[axis]
            if size < length:
                x = x.narrow(axis, (length - size) // 2, size)
            else:
                low = (size - length) // 2
                x = pad(x, [low, size - length - low], [axis], "constant", 0)
        return x

    return kernel


BUILDERS: dict[str, Builder] = {
    "CenterCropPad": _center_crop_pad,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": constant_kernel(_expand),
    "Flatten": _flatten,
    "Identity": constant_kernel(lambda x: x),
    "Pad": _pad,
    "Range": constant_kernel(_range),
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "Shape": _shape,
    "Size": constant_kernel(_size),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": constant_kernel(_tile),
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
