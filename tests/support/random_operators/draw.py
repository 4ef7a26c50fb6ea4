"""Random nodes: what is drawn from, and what a draw gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.generic]
MICROSOFT = "com.microsoft"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True)
class Case:
    """One node with its inputs.

    Attributes:
        op_type: The operator.
        opset: Opset of its domain.
        inputs: Arrays; None is an absent one.
        attributes: Of the node.
        constants: Inputs (by position) that the file holds.
        outputs: How many; those named in ``hidden`` are not read.
        domain: Of the operator.
    """

    op_type: str
    opset: int
    inputs: tuple[Array | None, ...]
    attributes: Mapping[str, object] = field(default_factory=dict)
    constants: frozenset[int] = frozenset()
    outputs: int = 1
    domain: str = ""

    def model(self) -> onnx.ModelProto:
        """Return the model of this one node."""
        given = [(i, x) for i, x in enumerate(self.inputs) if x is not None]
        names = ["" if x is None else f"x{i}" for i, x in enumerate(self.inputs)]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(
            self.op_type, names, outputs, "node", domain=self.domain, **dict(self.attributes)
        )
        graph = helper.make_graph(
            [node],
            "case",
            [
                helper.make_tensor_value_info(
                    f"x{i}", helper.np_dtype_to_tensor_dtype(x.dtype), list(x.shape)
                )
                for i, x in given
                if i not in self.constants
            ],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(x, f"x{i}") for i, x in given if i in self.constants],
        )
        opsets = [helper.make_opsetid(self.domain, self.opset)]
        if self.domain:
            opsets.append(helper.make_opsetid("", 21))
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def feeds(self) -> dict[str, Array]:
        """Return the inputs that a run is given."""
        given = enumerate(self.inputs)
        return {f"x{i}": x for i, x in given if x is not None and i not in self.constants}

    def __str__(self) -> str:
        """Say the node as one line."""
        shapes = ", ".join(
            "-"
            if x is None
            else f"{x.dtype}{list(x.shape)}{'=' + str(x.tolist()) if x.size < 9 and i else ''}"
            for i, x in enumerate(self.inputs)
        )
        return f"{self.op_type}-{self.opset}({shapes}) {dict(self.attributes)}"


@dataclass(frozen=True, slots=True)
class Draw:
    """A random stream and the opset that is drawn for.

    Attributes:
        rng: The stream.
        op_type: The operator.
        opset: Its opset.
    """

    rng: np.random.Generator
    op_type: str
    opset: int

    def chance(self, p: float = 0.5) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def between(self, low: int, high: int) -> int:
        """Return an integer, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def several(self, count: int, low: int, high: int) -> list[int]:
        return [self.between(low, high) for _ in range(count)]

    def shape(self, low: int = 0, high: int = 4, most: int = 5, least: int = 1) -> list[int]:
        return self.several(self.between(low, high), least, most)

    def number(self, low: float, high: float) -> float:
        return float(np.float32(self.rng.uniform(low, high)))

    def float_type(self) -> str:
        return self.pick("float32", "float32", "float32", "float32", "float64", "float16")

    def floats(self, shape: Sequence[int], kind: str = "float32", scale: float = 2.0) -> Array:
        """Return normal numbers, or now and then multiples of a quarter: ties and halves."""
        x = self.rng.standard_normal(tuple(shape)) * scale
        return (np.round(x * 4) / 4 if self.chance(0.3) else x).astype(kind)

    def integers(self, shape: Sequence[int], low: int, high: int, kind: str = "int64") -> Array:
        return self.rng.integers(low, high + 1, tuple(shape)).astype(kind)

    def truths(self, shape: Sequence[int]) -> Array:
        return self.rng.random(tuple(shape)) < 0.5

    def numbers(self, shape: Sequence[int], kind: str) -> Array:
        """Return numbers of any type."""
        if kind == "bool":
            return self.truths(shape)
        if kind.startswith("float"):
            return self.floats(shape, kind)
        return self.integers(shape, 0 if kind.startswith("u") else -9, 9, kind)

    def axis(self, rank: int) -> int:
        """Return an axis, now and then counted from the end."""
        axis = self.between(0, rank - 1)
        return axis - rank if self.chance(0.4) else axis

    def axes(self, rank: int, least: int = 0) -> list[int]:
        """Return some distinct axes, in any order."""
        count = self.between(least, rank)
        chosen = [int(a) for a in self.rng.permutation(rank)[:count]]
        return [a - rank if self.chance(0.3) else a for a in chosen]

    def given(self, attributes: Mapping[str, object], p: float = 0.6) -> dict[str, object]:
        """Return each of ``attributes`` with probability ``p``."""
        return {name: value for name, value in attributes.items() if self.chance(p)}

    def case(
        self,
        *inputs: Array | None,
        outputs: int = 1,
        domain: str = "",
        fixed: Sequence[int] = (),
        attributes: Mapping[str, object] = {},
    ) -> Case:
        """Return the case; inputs in ``fixed`` are constants four times of five, others seldom."""
        constants = {
            i
            for i, x in enumerate(inputs)
            if x is not None and i > 0 and self.chance(0.8 if i in fixed else 0.15)
        }
        arrays = tuple(None if x is None else np.asarray(x) for x in inputs)
        return Case(
            self.op_type, self.opset, arrays, attributes, frozenset(constants), outputs, domain
        )


Maker = Callable[[Draw], Case]
"""Draws one case of an operator."""


def broadcastable(draw: Draw, shape: Sequence[int]) -> list[int]:
    """Return a shape that broadcasts against ``shape``."""
    kept = list(shape)[draw.between(0, len(shape)) :] if draw.chance(0.4) else list(shape)
    return [1 if draw.chance(0.3) else size for size in kept]
