"""Gathering, scattering, sorting and choosing."""

import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import (
    Builder,
    Kernel,
    constant_kernel,
    integer,
    read,
    refuse,
    text,
)
from mpsearch.program.tensors import ELEMENT_TYPES, carrier

_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _gather(node: Node) -> Kernel:
    axis = integer(node, "axis", 0)

    def kernel(x: Tensor, indices: Tensor) -> Tensor:
        along = axis % x.ndim
        if indices.ndim == 0:
            return x.select(along, int(indices))
        flat = indices.reshape(-1).to(torch.int64)
        flat = torch.where(flat < 0, flat + x.shape[along], flat)
        chosen = x.index_select(along, flat)
        return chosen.reshape(x.shape[:along] + indices.shape + x.shape[along + 1 :])

    return kernel


def _positive(indices: Tensor, length: int) -> Tensor:
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + length, indices)


def _gather_elements(node: Node) -> Kernel:
    axis = integer(node, "axis", 0)
    return lambda x, indices: torch.gather(x, axis, _positive(indices, x.shape[axis]))


def _gather_nd(node: Node) -> Kernel:
    batch_dims = integer(node, "batch_dims", 0)

    def kernel(x: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[-1]
        parts = [_positive(indices[..., i], x.shape[batch_dims + i]) for i in range(depth)]
        grid = [
            torch.arange(x.shape[i], device=x.device).reshape((-1,) + (1,) * (indices.ndim - 2 - i))
            for i in range(batch_dims)
        ]
        return x[tuple(grid + parts)]

    return kernel


def _scatter_elements(node: Node) -> Kernel:
    axis, mode = integer(node, "axis", 0), text(node, "reduction", "none")
    if mode != "none" and mode not in _REDUCE:
        raise refuse(node, f"reduction {mode!r}")

    def kernel(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        where = _positive(indices, x.shape[axis])
        if mode == "none":
            return x.scatter(axis, where, updates)
        return x.scatter_reduce(axis, where, updates, _REDUCE[mode], include_self=True)

    return kernel


def _scatter_nd(node: Node) -> Kernel:
    mode = text(node, "reduction", "none")
    if mode != "none" and mode not in _REDUCE:
        raise refuse(node, f"reduction {mode!r}")

    def kernel(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        inner = x.shape[depth:]
        rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
        for i in range(depth):
            rows = rows * x.shape[i] + _positive(indices[..., i], x.shape[i])
        flat = x.reshape(-1, *inner)
        rows = rows.reshape(-1)
        new = updates.reshape(rows.shape[0], *inner)
        if mode == "none":
            return flat.index_copy(0, rows, new).reshape(x.shape)
        where = rows.reshape((-1,) + (1,) * len(inner)).expand(new.shape)
        return flat.scatter_reduce(0, where, new, _REDUCE[mode]).reshape(x.shape)

    return kernel


def _one_hot(node: Node) -> Kernel:
    axis = integer(node, "axis", -1)

    def kernel(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        classes = int(depth.reshape(-1)[0].item())
        where = indices.to(torch.int64)
        where = torch.where(where < 0, where + classes, where)
        along = axis % (indices.ndim + 1)
        shape = [1] * (indices.ndim + 1)
        shape[along] = classes
        hot = where.unsqueeze(along) == torch.arange(classes, device=where.device).reshape(shape)
        return torch.where(hot, values[1], values[0])

    return kernel


def _top_k(node: Node) -> Kernel:
    axis, largest = integer(node, "axis", -1), bool(integer(node, "largest", 1))
    fixed = integer(node, "k", 0)

    def kernel(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = fixed if k is None else int(k.reshape(-1)[0].item())
        # a stable sort: of equal elements ONNX takes the lower index
        ordered, where = torch.sort(x, dim=axis, descending=largest, stable=True)
        return ordered.narrow(axis, 0, count), where.narrow(axis, 0, count)

    return kernel


def _non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).T if x.ndim else torch.nonzero(x.reshape(1)).T[:0]


def _compress(node: Node) -> Kernel:
    along = None if node.attributes.get("axis") is None else integer(node, "axis", 0)

    def kernel(x: Tensor, condition: Tensor) -> Tensor:
        x, axis = (x.reshape(-1), 0) if along is None else (x, along)
        return x.index_select(axis, torch.nonzero(condition).reshape(-1))

    return kernel


def _unique(node: Node) -> Kernel:
    along = None if node.attributes.get("axis") is None else integer(node, "axis", 0)
    ordered = bool(integer(node, "sorted", 1))

    def kernel(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, axis = (x.reshape(-1), 0) if along is None else (x, along)
        values, inverse, counts = torch.unique(
            x, sorted=True, return_inverse=True, return_counts=True, dim=axis
        )
        length = x.shape[axis]
        first = torch.full((len(counts),), length, dtype=torch.int64, device=x.device)
        first = first.scatter_reduce(
            0, inverse.reshape(-1), torch.arange(length, device=x.device), "amin"
        )
        if not ordered:
            order = torch.argsort(first)
            rank = torch.argsort(order)
            values, counts, first = values.index_select(axis, order), counts[order], first[order]
            inverse = rank[inverse]
        return values, first, inverse.reshape(-1), counts

    return kernel


def _eye_like(node: Node) -> Kernel:
    offset, to = integer(node, "k", 0), integer(node, "dtype", 0)

    def kernel(x: Tensor) -> Tensor:
        rows, columns = x.shape
        grid = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device)[:, None]
        return (grid == offset).to(carrier(ELEMENT_TYPES[to]) if to else x.dtype)

    return kernel


def _tensor_scatter(node: Node) -> Kernel:
    axis, mode = integer(node, "axis", -2), text(node, "mode", "linear")

    def kernel(cache: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
        along = axis % cache.ndim
        length, size = update.shape[along], cache.shape[along]
        result = cache.clone()
        for sample in range(cache.shape[0]):
            start = 0 if starts is None else int(starts[sample])
            where = torch.arange(start, start + length, device=cache.device)
            where = where % size if mode == "circular" else where
            result[sample] = result[sample].index_copy(along - 1, where, update[sample])
        return result

    return kernel


def _non_max_suppression(node: Node) -> Kernel:
    centered = integer(node, "center_point_box", 0)

    def corners(boxes: Tensor) -> Tensor:
        if centered:
            x, y, w, h = boxes.unbind(-1)
            return torch.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
        a, b = boxes[..., :2], boxes[..., 2:]
        return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)

    def kernel(
        boxes: Tensor,
        scores: Tensor,
        limit: Tensor | None = None,
        overlap: Tensor | None = None,
        threshold: Tensor | None = None,
    ) -> Tensor:
        most = 0 if limit is None else read(limit)[0]
        iou_limit = 0.0 if overlap is None else float(overlap.reshape(-1)[0])
        least = None if threshold is None else float(threshold.reshape(-1)[0])
        chosen: list[tuple[int, int, int]] = []
        for batch in range(scores.shape[0]):
            found = corners(boxes[batch])
            area = (found[:, 2:] - found[:, :2]).prod(-1)
            for label in range(scores.shape[1]):
                score = scores[batch, label]
                order = torch.argsort(score, descending=True, stable=True)
                if least is not None:
                    order = order[score[order] > least]
                kept: list[int] = []
                while len(order) and len(kept) < most:
                    best, order = int(order[0]), order[1:]
                    kept.append(best)
                    low = torch.maximum(found[best, :2], found[order, :2])
                    high = torch.minimum(found[best, 2:], found[order, 2:])
                    shared = (high - low).clamp(min=0).prod(-1)
                    union = area[best] + area[order] - shared
                    order = order[~(shared > iou_limit * union)]
                chosen += [(batch, label, box) for box in kept]
        return torch.tensor(chosen, dtype=torch.int64).reshape(-1, 3)

    return kernel


BUILDERS: dict[str, Builder] = {
    "Compress": _compress,
    "EyeLike": _eye_like,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonMaxSuppression": _non_max_suppression,
    "NonZero": constant_kernel(_non_zero),
    "OneHot": _one_hot,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
    "TopK": _top_k,
    "Unique": _unique,
}
