"""What an operator is here: a builder that does all Python work once and returns a kernel."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor

from mpsearch.errors import ModelError
from mpsearch.graph.model import Node

Kernel = Callable[..., Any]
"""Takes one tensor an input (None where absent); returns a tensor, or a tuple of several outputs."""

Builder = Callable[[Node], Kernel]


def constant_kernel(kernel: Kernel) -> Builder:
    """Return a builder of an operator without attributes."""
    return lambda node: kernel


def integer(node: Node, name: str, default: int) -> int:
    """Return the integer attribute ``name``."""
    return int(cast(int, node.attributes.get(name, default)))


def number(node: Node, name: str, default: float) -> float:
    """Return the float attribute ``name``."""
    return float(cast(float, node.attributes.get(name, default)))


def text(node: Node, name: str, default: str) -> str:
    """Return the string attribute ``name``."""
    value = node.attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def integers(node: Node, name: str) -> list[int] | None:
    """Return the attribute ``name`` as a list of integers, None where it is absent."""
    value = node.attributes.get(name)
    return None if value is None else [int(v) for v in cast(Sequence[int], value)]


def read(tensor: Tensor) -> list[int]:
    """Return the integers of a shape-carrying tensor, flattened."""
    return cast(list[int], tensor.reshape(-1).tolist())


def refuse(node: Node, what: str) -> ModelError:
    """Return the error of a node that asks for something that is not implemented."""
    return ModelError(
        f"node {node.name!r} ({node.op_type}, opset {node.version}): {what} is not supported"
    )
