"""Random numbers: every node draws the same ones on each run, from its seed or its name."""

import zlib

import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer, integers, number
from mpsearch.program.tensors import ELEMENT_TYPES, carrier


def _generator(node: Node) -> torch.Generator:
    seed = node.attributes.get("seed")
    known = zlib.crc32(node.name.encode()) if seed is None else int(1000 * float(seed))  # type: ignore[arg-type]
    return torch.Generator().manual_seed(known & 0x7FFFFFFF)


def _dtype(node: Node, default: torch.dtype) -> torch.dtype:
    to = integer(node, "dtype", 0)
    return carrier(ELEMENT_TYPES[to]) if to else default


def _fill(node: Node, shape: torch.Size | list[int]) -> Tensor:
    if node.op_type.startswith("RandomNormal"):
        drawn = torch.randn(shape, generator=_generator(node), dtype=torch.float64)
        return drawn * number(node, "scale", 1.0) + number(node, "mean", 0.0)
    low, high = number(node, "low", 0.0), number(node, "high", 1.0)
    drawn = torch.rand(shape, generator=_generator(node), dtype=torch.float64)
    return low + (high - low) * drawn


def _random(node: Node) -> Kernel:
    shape = integers(node, "shape") or []
    return lambda: _fill(node, shape).to(_dtype(node, torch.float32))


def _random_like(node: Node) -> Kernel:
    return lambda x: _fill(node, x.shape).to(_dtype(node, x.dtype)).to(x.device)


def _bernoulli(node: Node) -> Kernel:
    def kernel(p: Tensor) -> Tensor:
        drawn = torch.rand(p.shape, generator=_generator(node), dtype=torch.float64)
        return (drawn.to(p.device) < p).to(_dtype(node, p.dtype))

    return kernel


def _multinomial(node: Node) -> Kernel:
    count = integer(node, "sample_size", 1)

    def kernel(scores: Tensor) -> Tensor:
        p = torch.softmax(scores.double().cpu(), -1)
        drawn = torch.multinomial(p, count, replacement=True, generator=_generator(node))
        return drawn.to(_dtype(node, torch.int32)).to(scores.device)

    return kernel


BUILDERS: dict[str, Builder] = {
    "Bernoulli": _bernoulli,
    "Multinomial": _multinomial,
    "RandomNormal": _random,
    "RandomNormalLike": _random_like,
    "RandomUniform": _random,
    "RandomUniformLike": _random_like,
}
