"""Bytes of a graph's tensors at the batch and the tokens that are priced."""

from dataclasses import dataclass

import numpy as np

from mpsearch.cost.kernels import tokens_of
from mpsearch.graph.model import ModelGraph, Value

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators that give the same elements another shape."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is priced.

    Attributes:
        batch: Samples that run together.
        tokens: Tokens of a sample; None: as in the graph.
        context: Tokens that attention reads; None: as in the graph.
    """

    batch: int = 1
    tokens: int | None = None
    context: int | None = None


def value_bytes(graph: ModelGraph, width: float, sizes: Sizes) -> dict[str, float]:
    """Return the bytes of every value but constants; 0 where the shape is not known.

    Args:
        graph: The model.
        width: Bytes of an element that is a float.
        sizes: What is priced.
    """
    own = tokens_of(graph) if sizes.tokens is not None else None
    values = {**graph.values, **{value.name: value for value in graph.inputs}}
    return {
        name: _bytes(graph, value, width, sizes, own)
        for name, value in values.items()
        if name not in graph.constants
    }


def _bytes(graph: ModelGraph, value: Value, width: float, sizes: Sizes, own: int | None) -> float:
    if value.shape is None:
        return 0.0
    shape = [size or sizes.batch for size in value.shape]  # the batch alone is free
    elements = float(np.prod(shape)) * (1 if None in value.shape else sizes.batch / graph.batch)
    if own is not None and sizes.tokens is not None:
        elements *= _longer(value.shape, own, sizes.tokens, sizes.context or own)
    if value.dtype is None or value.dtype.startswith(("float", "bfloat")):
        return elements * width
    return elements * (1 if value.dtype == "string" else np.dtype(value.dtype).itemsize)


def _longer(shape: tuple[int | None, ...], own: int, tokens: int, context: int) -> float:
    """What the tokens change: the first axis that is as long as they were, and a second, the context."""
    axes = [size for size in shape if size == own]
    factors = [new / own for new, _ in zip((tokens, context), axes, strict=False)]
    return float(np.prod(factors))
