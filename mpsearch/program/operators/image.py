"""Resizing and sampling of images."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import (
    Builder,
    Kernel,
    integer,
    integers,
    number,
    refuse,
    text,
)


def _source_positions(
    node: Node, out: int, size: int, scale: float, roi: tuple[float, float]
) -> Tensor:
    """Coordinates in the input of each of ``out`` output elements, computed in fp32, as fp64.

    Where size · scale is not whole, the standard uses it in place of ``out`` and rounds nothing;
    onnxruntime and OpenVINO agree on what stands here (see ``program/departures.py``).
    """
    mode = text(
        node, "coordinate_transformation_mode", "half_pixel" if node.version > 10 else "asymmetric"
    )
    x = torch.arange(out, dtype=torch.float32)
    factor = torch.tensor(scale, dtype=torch.float32)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and out > 1):
        places = (x + 0.5) / factor - 0.5
    elif mode == "half_pixel_symmetric":
        offset = size / 2 * (1 - out / (factor * size))
        places = offset + (x + 0.5) / factor - 0.5
    elif mode == "asymmetric":
        places = x / factor
    elif mode in ("align_corners", "pytorch_half_pixel"):
        places = x * (size - 1) / (out - 1) if out > 1 else torch.zeros_like(x)
    elif mode == "tf_half_pixel_for_nn":
        places = (x + 0.5) / factor
    elif mode == "tf_crop_and_resize":
        start, end = roi
        if out > 1:
            places = start * (size - 1) + x * (end - start) * (size - 1) / (out - 1)
        else:
            places = 0.5 * (start + end) * (size - 1) + torch.zeros_like(x)
    else:
        raise refuse(node, f"coordinate transformation {mode!r}")
    return places.double()


def _nearest(node: Node, positions: Tensor, scale: float) -> Tensor:
    mode = text(node, "nearest_mode", "round_prefer_floor")
    if node.version < 11:  # which one was not said; onnxruntime and OpenVINO agree
        return positions.ceil() if scale < 1 else positions.floor()
    if mode == "round_prefer_floor":
        return torch.ceil(positions - 0.5)
    if mode == "round_prefer_ceil":
        return torch.floor(positions + 0.5)
    return positions.floor() if mode == "floor" else positions.ceil()


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(a: float) -> Callable[[Tensor], Tensor]:
    def weigh(x: Tensor) -> Tensor:
        x = x.abs()
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))

    return weigh


def _matrix(node: Node, mode: str, positions: Tensor, size: int, scale: float) -> Tensor:
    """Interpolation along one axis as a matrix [out, size], fp64."""
    weigh = _triangle if mode == "linear" else _cubic(number(node, "cubic_coeff_a", -0.75))
    reach = 1 if mode == "linear" else 2
    stretch = 1.0
    if integer(node, "antialias", 0) and scale < 1:
        stretch = scale
    width = math.ceil(reach / stretch)
    base = positions.floor()
    taps = torch.arange(-width + 1, width + 1, dtype=torch.float64)
    where = base[:, None] + taps
    weights = weigh((positions[:, None] - where) * stretch)
    outside = (where < 0) | (where > size - 1)
    if integer(node, "exclude_outside", 0):
        weights = torch.where(outside, torch.zeros_like(weights), weights)
    if integer(node, "exclude_outside", 0) or stretch < 1:
        weights = weights / weights.sum(1, keepdim=True)
    where = where.clamp(0, size - 1).to(torch.int64)
    return torch.zeros(len(positions), size, dtype=torch.float64).scatter_add(1, where, weights)


def scaled_size(size: int, scale: float) -> int:
    """Return the output size of an axis: the product is rounded to fp32, then down."""
    return int(np.floor(np.float32(size) * np.float32(scale)))


def _resize(node: Node) -> Kernel:
    mode = text(node, "mode", "nearest")
    policy = text(node, "keep_aspect_ratio_policy", "stretch")
    fixed_axes = integers(node, "axes")
    outside = number(node, "extrapolation_value", 0.0)
    crop = text(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"

    def targets(
        x: Tensor, axes: list[int], scales: Tensor | None, sizes: Tensor | None
    ) -> list[tuple[int, float]]:
        """(output size, scale) of each axis."""
        if scales is not None and scales.numel():
            factors = [float(s) for s in scales.reshape(-1).tolist()]
            return [(scaled_size(x.shape[a], s), s) for a, s in zip(axes, factors, strict=True)]
        if sizes is None:
            raise refuse(node, "neither scales nor sizes")
        wanted = [int(s) for s in sizes.reshape(-1).tolist()]
        ratios = [w / x.shape[a] for a, w in zip(axes, wanted, strict=True)]
        if policy == "stretch":
            return list(zip(wanted, ratios, strict=True))
        factor = min(ratios) if policy == "not_larger" else max(ratios)
        return [(math.floor(x.shape[a] * factor + 0.5), factor) for a in axes]

    def kernel(
        x: Tensor,
        roi: Tensor | None = None,
        scales: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        if node.version < 11:
            roi, scales = None, roi
        axes = [a % x.ndim for a in (fixed_axes or range(x.ndim))]
        exact = x.dtype
        invalid: list[tuple[int, Tensor]] = []
        for i, (axis, (out, scale)) in enumerate(
            zip(axes, targets(x, axes, scales, sizes), strict=True)
        ):
            size = x.shape[axis]
            window = (0.0, 1.0)
            if crop and roi is not None:
                window = (float(roi[i]), float(roi[len(axes) + i]))
            if out == size and scale == 1.0 and not crop:
                continue
            positions = _source_positions(node, out, size, scale, window)
            if crop:
                invalid.append((axis, (positions < 0) | (positions > size - 1)))
            if mode == "nearest":
                index = _nearest(node, positions, scale).clamp(0, size - 1).to(torch.int64)
                x = x.index_select(axis, index.to(x.device))
            else:
                matrix = _matrix(node, mode, positions, size, scale)
                wide = x if x.is_floating_point() else x.float()
                moved = wide.movedim(axis, -1) @ matrix.T.to(wide.dtype).to(x.device)
                x = moved.movedim(-1, axis)
        for axis, bad in invalid:
            shape = [1] * x.ndim
            shape[axis] = -1
            fill = torch.tensor(outside, dtype=x.dtype, device=x.device)
            x = torch.where(bad.reshape(shape).to(x.device), fill, x)
        if x.dtype != exact:
            limits = torch.iinfo(exact)
            x = x.trunc().clamp(limits.min, limits.max)
        return x.to(exact)

    return kernel


def _upsample(node: Node) -> Kernel:
    factors = node.attributes.get("scales")
    resize = _resize(
        Node(
            node.name,
            "Resize",
            "",
            10,
            node.inputs,
            node.outputs,
            {"mode": text(node, "mode", "nearest").replace("bilinear", "linear")},
        )
    )
    if factors is not None:
        fixed = torch.tensor(factors, dtype=torch.float32)
        return lambda x: resize(x, fixed)
    return lambda x, scales: resize(x, scales)


_SAMPLING = {"linear": "bilinear", "cubic": "bicubic"}


def _grid_sample(node: Node) -> Kernel:
    mode, padding = text(node, "mode", "linear"), text(node, "padding_mode", "zeros")
    mode = _SAMPLING.get(mode, mode)
    corners = bool(integer(node, "align_corners", 0))

    def kernel(x: Tensor, grid: Tensor) -> Tensor:
        if x.ndim == 5 and mode == "bicubic":
            raise refuse(node, "cubic sampling of volumes")
        return F.grid_sample(x, grid.to(x.dtype), mode, padding, corners)

    return kernel


def _affine_grid(node: Node) -> Kernel:
    corners = bool(integer(node, "align_corners", 0))

    def ticks(size: int, theta: Tensor) -> Tensor:
        """Places of ``size`` elements in [-1, 1]; a single one on corners is the first, not the middle."""
        steps = torch.arange(size, dtype=theta.dtype, device=theta.device)
        if corners:
            return 2 * steps / max(size - 1, 1) - 1
        return (2 * steps + 1) / size - 1

    def kernel(theta: Tensor, size: Tensor) -> Tensor:
        axes = torch.meshgrid(*(ticks(n, theta) for n in size.tolist()[2:]), indexing="ij")
        places = torch.stack([*reversed(axes), torch.ones_like(axes[0])], -1)
        grid = places.reshape(-1, places.shape[-1]) @ theta.transpose(1, 2)
        return grid.reshape(theta.shape[0], *places.shape[:-1], -1)

    return kernel


def _roi_align(node: Node) -> Kernel:
    mode = text(node, "mode", "avg")
    height, width = integer(node, "output_height", 1), integer(node, "output_width", 1)
    ratio, scale = integer(node, "sampling_ratio", 0), number(node, "spatial_scale", 1.0)
    half = node.version >= 16 and (
        text(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel"
    )

    def sample(image: Tensor, ys: Tensor, xs: Tensor) -> tuple[Tensor, Tensor]:
        """Bilinear products at a grid: weights and values [C, len(ys), len(xs), 4]."""
        h, w = image.shape[1:]

        def corners(v: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            valid = (v >= -1) & (v <= size)
            v = v.clamp(min=0)
            low = v.floor().clamp(max=size - 1).to(torch.int64)
            high = (low + 1).clamp(max=size - 1)
            part = torch.where(low >= size - 1, torch.zeros_like(v), v - low)
            return low, high, part, valid

        y0, y1, fy, vy = corners(ys, h)
        x0, x1, fx, vx = corners(xs, w)
        valid = (vy[:, None] & vx[None]).to(image.dtype)
        values, weights = [], []
        for y, wy in ((y0, 1 - fy), (y1, fy)):
            for x, wx in ((x0, 1 - fx), (x1, fx)):
                values.append(image[:, y][:, :, x])
                weights.append(wy[:, None] * wx[None] * valid)
        return torch.stack(weights, -1), torch.stack(values, -1)

    def kernel(x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
        shift = 0.5 if half else 0.0
        outputs = []
        for roi, which in zip(rois, batch.tolist(), strict=True):
            x1, y1, x2, y2 = (roi * scale - shift).unbind()
            w, h = x2 - x1, y2 - y1
            if not half:
                w, h = w.clamp(min=1), h.clamp(min=1)
            nh = ratio if ratio > 0 else math.ceil(float(h) / height)
            nw = ratio if ratio > 0 else math.ceil(float(w) / width)
            ys = y1 + (torch.arange(height * nh, device=x.device, dtype=rois.dtype) + 0.5) * h / (
                height * nh
            )
            xs = x1 + (torch.arange(width * nw, device=x.device, dtype=rois.dtype) + 0.5) * w / (
                width * nw
            )
            weights, values = sample(x[which], ys.to(x.dtype), xs.to(x.dtype))
            if mode == "avg":
                points = (weights * values).sum(-1).reshape(-1, height, nh, width, nw)
                outputs.append(points.mean((2, 4)))
            else:
                points = (weights * values).amax(-1).reshape(-1, height, nh, width, nw)
                outputs.append(points.amax((2, 4)))
        return torch.stack(outputs) if outputs else x.new_zeros(0, x.shape[1], height, width)

    return kernel


BUILDERS: dict[str, Builder] = {
    "AffineGrid": _affine_grid,
    "GridSample": _grid_sample,
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "Upsample": _upsample,
}
