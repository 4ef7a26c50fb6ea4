"""Pooling: windows and whole images."""

import itertools
from collections.abc import Callable

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
    number,
    read,
    text,
)
from mpsearch.program.operators.convolution import flat_pads, same_pads


def _geometry(node: Node) -> Callable[[Tensor], tuple[list[int], list[int], list[int], list[int]]]:
    """Return a function from the input to (strides, dilations, pads, output sizes)."""
    kernel = integers(node, "kernel_shape") or []
    rank = len(kernel)
    strides, dilations = integers(node, "strides") or [1] * rank, integers(node, "dilations")
    dilation = dilations or [1] * rank
    fixed, auto = integers(node, "pads") or [0] * 2 * rank, text(node, "auto_pad", "NOTSET")
    ceil = bool(integer(node, "ceil_mode", 0))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]

    def measure(x: Tensor) -> tuple[list[int], list[int], list[int], list[int]]:
        sizes = list(x.shape[2:])
        pads = fixed
        if auto == "VALID":
            pads = [0] * 2 * rank
        elif auto != "NOTSET":
            pads = same_pads(sizes, extents, strides, auto == "SAME_UPPER")
        outputs = []
        for i in range(rank):
            span = sizes[i] + pads[i] + pads[rank + i] - extents[i]
            count = -(-span // strides[i]) + 1 if ceil else span // strides[i] + 1
            if ceil and (count - 1) * strides[i] >= sizes[i] + pads[i]:
                count -= 1  # the last window must start inside the image or its begin padding
            outputs.append(count)
        return strides, dilation, pads, outputs

    return measure


def _reach(
    x: Tensor, kernel: list[int], geometry: tuple[list[int], list[int], list[int], list[int]]
) -> list[int]:
    """Pads (begins, ends) that make every window of the wanted output complete."""
    strides, dilations, pads, outputs = geometry
    rank = len(kernel)
    ends = [
        (outputs[i] - 1) * strides[i]
        + (kernel[i] - 1) * dilations[i]
        + 1
        - x.shape[2 + i]
        - pads[i]
        for i in range(rank)
    ]
    return pads[:rank] + ends


def _windows(
    x: Tensor, kernel: list[int], geometry: tuple[list[int], list[int], list[int], list[int]]
) -> list[Tensor]:
    """One view of the padded ``x`` for each kernel position, in row-major order."""
    strides, dilations, _, outputs = geometry
    views = []
    for taps in itertools.product(*(range(k) for k in kernel)):
        view = x
        for i, tap in enumerate(taps):
            start = tap * dilations[i]
            view = view.narrow(2 + i, start, (outputs[i] - 1) * strides[i] + 1)
        index = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
        views.append(view[index])
    return views


_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _max_pool(node: Node) -> Kernel:
    kernel_shape = integers(node, "kernel_shape") or []
    rank, measure = len(kernel_shape), _geometry(node)
    with_indices = len(node.outputs) > 1 and bool(node.outputs[1])
    column_major = integer(node, "storage_order", 0)

    def kernel(x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        geometry = measure(x)
        strides, dilations, _pads, _ = geometry
        around = _reach(x, kernel_shape, geometry)
        exact = x.is_floating_point() and x.dtype.itemsize > 2
        if exact and not with_indices:
            begins = around[:rank]
            small = all(2 * p <= k for p, k in zip(begins, kernel_shape, strict=True))
            if begins != around[rank:] or not small:
                x = F.pad(x, flat_pads(around), value=float("-inf"))
                begins = [0] * rank
            return _MAX_POOL[rank](x, kernel_shape, strides, begins, dilations)
        low = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        views = torch.stack(
            _windows(F.pad(x, flat_pads(around), value=low), kernel_shape, geometry)
        )
        if not with_indices:
            return views.amax(0)
        places = torch.arange(x[0, 0].numel(), device=x.device).reshape(x.shape[2:])
        if column_major:
            turned = torch.arange(x[0, 0].numel(), device=x.device)
            places = turned.reshape(tuple(reversed(x.shape[2:]))).permute(*range(rank - 1, -1, -1))
        planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * x[0, 0].numel()
        flat = places + planes.reshape(*x.shape[:2], *([1] * rank))
        flat = F.pad(flat, flat_pads(around), value=0)
        best = views.argmax(0, keepdim=True)
        where = torch.stack(_windows(flat, kernel_shape, geometry))
        return views.gather(0, best)[0], where.gather(0, best)[0]

    return kernel


def _average_pool(node: Node) -> Kernel:
    kernel_shape = integers(node, "kernel_shape") or []
    rank, measure = len(kernel_shape), _geometry(node)
    include = bool(integer(node, "count_include_pad", 0))

    def kernel(x: Tensor) -> Tensor:
        geometry = measure(x)
        strides, dilations, pads, _ = geometry
        around = _reach(x, kernel_shape, geometry)
        if not any(around) and max(dilations) == 1:
            return _AVERAGE_POOL[rank](x, kernel_shape, strides)
        inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        if include:  # padding counts, the overhang of ceil mode does not
            inside = F.pad(inside, flat_pads(pads), value=1.0)
            rest = around[:rank] + [a - p for a, p in zip(around[rank:], pads[rank:], strict=True)]
            inside = F.pad(inside, flat_pads([0] * rank + rest[rank:]))
        else:
            inside = F.pad(inside, flat_pads(around))
        padded = F.pad(x, flat_pads(around))
        total = torch.stack(_windows(padded, kernel_shape, geometry)).sum(0)
        return total / torch.stack(_windows(inside, kernel_shape, geometry)).sum(0)

    return kernel


def _lp_pool(node: Node) -> Kernel:
    kernel_shape = integers(node, "kernel_shape") or []
    measure, order = _geometry(node), number(node, "p", 2)

    def kernel(x: Tensor) -> Tensor:
        geometry = measure(x)
        padded = F.pad(x, flat_pads(_reach(x, kernel_shape, geometry)))
        views = torch.stack(_windows(padded, kernel_shape, geometry))
        return views.abs().pow(order).sum(0).pow(1 / order)

    return kernel


def _axes(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _global_lp(node: Node) -> Kernel:
    order = number(node, "p", 2)
    return lambda x: torch.linalg.vector_norm(x, order, _axes(x), keepdim=True)


def _max_unpool(node: Node) -> Kernel:
    kernel_shape = integers(node, "kernel_shape") or []
    rank = len(kernel_shape)
    strides, pads = (
        integers(node, "strides") or [1] * rank,
        integers(node, "pads") or [0] * 2 * rank,
    )

    def kernel(x: Tensor, indices: Tensor, shape: Tensor | None = None) -> Tensor:
        natural = [
            (x.shape[2 + i] - 1) * strides[i] + kernel_shape[i] - pads[i] - pads[rank + i]
            for i in range(rank)
        ]
        sizes = [*x.shape[:2], *natural]
        total = int(torch.tensor(sizes).prod())
        flat = x.new_zeros(total).scatter(0, indices.reshape(-1), x.reshape(-1))
        y = flat.reshape(sizes)
        if shape is None:
            return y
        wanted = read(shape)
        return F.pad(y, flat_pads([0] * rank + [wanted[2 + i] - natural[i] for i in range(rank)]))

    return kernel


BUILDERS: dict[str, Builder] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": constant_kernel(lambda x: x.mean(_axes(x), keepdim=True)),
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": constant_kernel(lambda x: torch.amax(x, _axes(x), keepdim=True)),
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
}
