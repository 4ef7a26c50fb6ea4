"""Convolutions in one, two and three dimensions."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.numerics.depthwise import convolve_depthwise, is_depthwise
from mpsearch.program.operators.attributes import Builder, Kernel, integer, integers, refuse, text

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONVOLVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_pads(sizes: list[int], extents: list[int], strides: list[int], upper: bool) -> list[int]:
    """Return begins then ends of ``auto_pad`` SAME: output sizes are ceil(size / stride)."""
    begins, ends = [], []
    for size, extent, stride in zip(sizes, extents, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        less, more = total // 2, total - total // 2
        begins.append(less if upper else more)
        ends.append(more if upper else less)
    return begins + ends


def flat_pads(pads: list[int]) -> list[int]:
    """Return ONNX pads (begins, then ends) in torch's order: last axis first, begin and end."""
    rank = len(pads) // 2
    return [pads[i + side * rank] for i in range(rank - 1, -1, -1) for side in (0, 1)]


def _lay_out(x: Tensor) -> Tensor:
    """Channels last where oneDNN convolves faster so: fp32 images on the CPU."""
    if x.ndim == 4 and x.dtype == torch.float32 and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _conv(node: Node) -> Kernel:
    groups, auto = integer(node, "group", 1), text(node, "auto_pad", "NOTSET")
    strides, dilations = integers(node, "strides"), integers(node, "dilations")
    pads = integers(node, "pads")

    def kernel(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        if rank not in _CONVOLVE:
            raise refuse(node, f"a convolution over {rank} axes")
        stride, dilation = strides or [1] * rank, dilations or [1] * rank
        if auto in ("NOTSET", "VALID"):
            around = (pads if auto == "NOTSET" else None) or [0] * 2 * rank
        else:
            extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
            around = same_pads(list(x.shape[2:]), extents, stride, auto == "SAME_UPPER")
        begins = around[:rank]
        if begins != around[rank:]:
            x, begins = F.pad(x, flat_pads(around)), [0] * rank
        if is_depthwise(x, weight, groups):
            return convolve_depthwise(_lay_out(x), weight, bias, stride, begins, dilation)
        return _CONVOLVE[rank](_lay_out(x), weight, bias, stride, begins, dilation, groups)

    return kernel


def _conv_transpose(node: Node) -> Kernel:
    groups, auto = integer(node, "group", 1), text(node, "auto_pad", "NOTSET")
    strides, dilations = integers(node, "strides"), integers(node, "dilations")
    pads, extra = integers(node, "pads"), integers(node, "output_padding")
    shape = integers(node, "output_shape")

    def kernel(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        if rank not in _DECONVOLVE:
            raise refuse(node, f"a transposed convolution over {rank} axes")
        stride, dilation = strides or [1] * rank, dilations or [1] * rank
        more = extra or [0] * rank
        full = [
            (x.shape[2 + i] - 1) * stride[i] + (weight.shape[2 + i] - 1) * dilation[i] + 1 + more[i]
            for i in range(rank)
        ]
        around = pads or [0] * 2 * rank
        target = shape[-rank:] if shape is not None else None
        if target is None and auto in ("SAME_UPPER", "SAME_LOWER"):
            # the standard grows a smaller result to input · stride; see `program/departures.py`
            target = [min(full[i], x.shape[2 + i] * stride[i]) for i in range(rank)]
        if target is not None:
            totals = [max(full[i] - target[i], 0) for i in range(rank)]
            more = [more[i] + max(target[i] - full[i], 0) for i in range(rank)]
            full = [max(full[i], target[i]) for i in range(rank)]
            # ConvTranspose-11: the larger half comes first, unless auto_pad is SAME_UPPER
            halves = [total // 2 for total in totals]
            rest = [total - half for total, half in zip(totals, halves, strict=True)]
            around = halves + rest if auto == "SAME_UPPER" else rest + halves
        elif auto == "VALID":
            around = [0] * 2 * rank
        begins, ends = around[:rank], around[rank:]
        y = _DECONVOLVE[rank](x, weight, bias, stride, [0] * rank, [0] * rank, groups, dilation)
        for i in range(rank):
            missing = more[i] - ends[i]
            if missing > 0:  # rows that only the output padding adds: the bias alone
                y = _grow(y, 2 + i, missing, bias)
            y = y.narrow(2 + i, begins[i], full[i] - begins[i] - ends[i])
        return y

    return kernel


def _grow(y: Tensor, axis: int, count: int, bias: Tensor | None) -> Tensor:
    shape = list(y.shape)
    shape[axis] = count
    rows = y.new_zeros(shape)
    if bias is not None:
        rows = rows + bias.reshape((-1,) + (1,) * (y.ndim - 2))
    return torch.cat([y, rows], axis)


def _shift(x: Tensor, zero_point: Tensor | None, per_channel_axis: int | None = None) -> Tensor:
    wide = x.to(torch.float64)
    if zero_point is None:
        return wide
    zero = zero_point.to(torch.float64)
    if zero.numel() > 1 and per_channel_axis is not None:
        shape = [1] * x.ndim
        shape[per_channel_axis] = -1
        zero = zero.reshape(shape)
    return wide - zero


def _conv_integer(node: Node) -> Kernel:
    convolve = _conv(node)

    def kernel(
        x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
    ) -> Tensor:
        return convolve(_shift(x, x_zero), _shift(w, w_zero, 0)).to(torch.int32)

    return kernel


def _qlinear_conv(node: Node) -> Kernel:
    convolve = _conv(node)

    def kernel(
        x: Tensor,
        x_scale: Tensor,
        x_zero: Tensor,
        w: Tensor,
        w_scale: Tensor,
        w_zero: Tensor,
        y_scale: Tensor,
        y_zero: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        wide_bias = None if bias is None else bias.to(torch.float64)
        total = convolve(_shift(x, x_zero), _shift(w, w_zero, 0), wide_bias)
        scale = x_scale.double() * w_scale.double() / y_scale.double()
        if scale.numel() > 1:
            scale = scale.reshape((1, -1) + (1,) * (x.ndim - 2))
        limits = torch.iinfo(y_zero.dtype)
        y = torch.round(total * scale) + y_zero.to(torch.float64)
        return y.clamp(limits.min, limits.max).to(y_zero.dtype)

    return kernel


def _deform_conv(node: Node) -> Kernel:
    groups, offset_groups = integer(node, "group", 1), integer(node, "offset_group", 1)
    strides, dilations = integers(node, "strides"), integers(node, "dilations")
    pads = integers(node, "pads")

    def kernel(
        x: Tensor,
        weight: Tensor,
        offset: Tensor,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if x.ndim != 4:
            raise refuse(node, f"a deformable convolution over {x.ndim - 2} axes")
        (sy, sx), (dy, dx) = strides or [1, 1], dilations or [1, 1]
        top, left, _, _ = pads or [0, 0, 0, 0]
        n, channels, height, width = x.shape
        kh, kw = weight.shape[2:]
        oh, ow = offset.shape[2:]
        shift = offset.reshape(n, offset_groups, kh, kw, 2, oh, ow)
        rows = torch.arange(oh, device=x.device).reshape(oh, 1) * sy - top
        columns = torch.arange(ow, device=x.device).reshape(1, ow) * sx - left
        ky = torch.arange(kh, device=x.device).reshape(kh, 1, 1, 1) * dy
        kx = torch.arange(kw, device=x.device).reshape(1, kw, 1, 1) * dx
        ys = (rows + ky + shift[:, :, :, :, 0]).reshape(n * offset_groups, kh * kw * oh, ow)
        xs = (columns + kx + shift[:, :, :, :, 1]).reshape(n * offset_groups, kh * kw * oh, ow)
        # align_corners=False: coordinate c sits at (2 c + 1) / size - 1
        grid = torch.stack([(2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1], -1)
        image = x.reshape(n * offset_groups, channels // offset_groups, height, width)
        patches = F.grid_sample(image, grid.to(x.dtype), align_corners=False)
        patches = patches.reshape(n, offset_groups, -1, kh, kw, oh, ow)
        if mask is not None:
            patches = patches * mask.reshape(n, offset_groups, 1, kh, kw, oh, ow)
        patches = patches.reshape(n, groups, channels // groups * kh * kw, oh * ow)
        kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
        y = torch.einsum("gok,ngkp->ngop", kernels, patches).reshape(n, -1, oh, ow)
        return y if bias is None else y + bias.reshape(1, -1, 1, 1)

    return kernel


def _col2im(node: Node) -> Kernel:
    strides, dilations, pads = (integers(node, name) for name in ("strides", "dilations", "pads"))

    def kernel(x: Tensor, image: Tensor, block: Tensor) -> Tensor:
        sizes, kernel_sizes = image.tolist(), block.tolist()
        rank = len(sizes)
        stride, dilation = strides or [1] * rank, dilations or [1] * rank
        around = pads or [0] * 2 * rank
        full = [sizes[i] + around[i] + around[rank + i] for i in range(rank)]
        counts = [
            (full[i] - dilation[i] * (kernel_sizes[i] - 1) - 1) // stride[i] + 1
            for i in range(rank)
        ]
        index = torch.zeros([1] * 2 * rank, dtype=torch.int64, device=x.device)
        for i in range(rank):
            taps = torch.arange(kernel_sizes[i], device=x.device) * dilation[i]
            steps = torch.arange(counts[i], device=x.device) * stride[i]
            shape = [1] * 2 * rank
            shape[i], shape[rank + i] = kernel_sizes[i], counts[i]
            index = index * full[i] + (taps[:, None] + steps).reshape(shape)
        n = x.shape[0]
        taps_total = int(torch.tensor(kernel_sizes).prod())
        columns = x.reshape(n, x.shape[1] // taps_total, -1)
        where = index.reshape(-1).expand(columns.shape)
        flat = x.new_zeros(n, columns.shape[1], int(torch.tensor(full).prod()))
        y = flat.scatter_add(2, where, columns).reshape(n, -1, *full)
        for i in range(rank):
            y = y.narrow(2 + i, around[i], sizes[i])
        return y

    return kernel


BUILDERS: dict[str, Builder] = {
    "Col2Im": _col2im,
    "Conv": _conv,
    "ConvInteger": _conv_integer,
    "ConvTranspose": _conv_transpose,
    "DeformConv": _deform_conv,
    "QLinearConv": _qlinear_conv,
}
