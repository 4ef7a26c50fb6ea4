"""Operators with a slope that ONNX's own tests never try on fp32: one small case each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.generic]
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Case:
    """One node; floating-point ``inputs`` are moved, ``constants`` are not.

    Attributes:
        op_type: The operator.
        inputs: Arrays; None is an absent one.
        domain: Its domain.
        constants: Inputs (by position) that stay.
        outputs: How many.
        attributes: Of the node.
    """

    op_type: str
    inputs: Sequence[Array | None]
    domain: str = ""
    constants: Sequence[int] = ()
    outputs: int = 1
    attributes: Mapping[str, object] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """Return the model of this one node."""
        names = ["" if x is None else f"x{i}" for i, x in enumerate(self.inputs)]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(
            self.op_type, names, outputs, domain=self.domain, **dict(self.attributes)
        )
        kinds = {i: helper.np_dtype_to_tensor_dtype(x.dtype) for i, x in self.given()}
        graph = helper.make_graph(
            [node],
            "case",
            [
                helper.make_tensor_value_info(f"x{i}", kinds[i], list(x.shape))
                for i, x in self.given()
                if i not in self.constants
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(x, f"x{i}") for i, x in self.given() if i in self.constants],
        )
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets)

    def given(self) -> list[tuple[int, Array]]:
        """Return position and array of the inputs that are there."""
        return [(i, x) for i, x in enumerate(self.inputs) if x is not None]

    def moving(self) -> list[Array]:
        """Return the inputs that are fed."""
        return [x for i, x in self.given() if i not in self.constants]


def _normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape).astype(np.float32)


def _positive(*shape: int) -> Array:
    return np.abs(_normal(*shape)) + np.float32(0.5)


def _whole(*values: int) -> Array:
    return np.array(values, np.int64)


def _fused(op_type: str, *inputs: Array | None, outputs: int = 1, **attributes: object) -> Case:
    fixed = [i for i, x in enumerate(inputs) if x is not None and x.dtype.kind in "iub"]
    return Case(op_type, inputs, MICROSOFT, fixed, outputs, attributes)


CASES = (
    Case("Affine", [_normal(3, 4)], attributes={"alpha": 0.7, "beta": -0.2}),
    Case("Cast", [_normal(3, 4)], attributes={"to": TensorProto.DOUBLE}),
    Case("CastLike", [_normal(3, 4), np.zeros(1, np.float64)], constants=[1]),
    Case("Celu", [_normal(3, 4)], attributes={"alpha": 1.5}),
    Case("Compress", [_normal(3, 4), np.array([True, False, True])], constants=[1], attributes={"axis": 0}),
    Case("CumProd", [_normal(3, 4), np.array(1, np.int64)], constants=[1]),
    Case("CumSum", [_normal(3, 4), np.array(1, np.int64)], constants=[1]),
    Case("DepthToSpace", [_normal(2, 8, 2, 3)], attributes={"blocksize": 2}),
    Case("DequantizeLinear", [np.array([3, -7, 20], np.int8), _positive(1)[0]], constants=[0]),
    Case("Einsum", [_normal(2, 3, 4), _normal(2, 4, 5)], attributes={"equation": "bij,bjk->bik"}),
    Case("GlobalLpPool", [_positive(2, 3, 4, 4)], attributes={"p": 3}),
    Case("Mod", [_normal(3, 4), _positive(3, 4)], constants=[1], attributes={"fmod": 1}),
    Case("ReduceLogSum", [_positive(3, 4), _whole(1)], constants=[1]),
    Case("ReduceLogSumExp", [_normal(3, 4), _whole(1)], constants=[1]),
    Case("Resize", [_normal(1, 2, 3, 4), None, None, _whole(1, 2, 6, 8)], constants=[3], attributes={"mode": "linear"}),
    Case("Resize", [_normal(1, 2, 3, 4), None, None, _whole(1, 2, 6, 8)], constants=[3], attributes={"mode": "nearest"}),
    Case("Resize", [_normal(1, 2, 4, 4), None, None, _whole(1, 2, 7, 7)], constants=[3], attributes={"mode": "cubic"}),
    Case("ReverseSequence", [_normal(4, 3, 2), _whole(4, 2, 3)], constants=[1]),
    Case("SimplifiedLayerNormalization", [_normal(3, 8), _positive(8)]),
    Case("SpaceToDepth", [_normal(2, 2, 4, 6)], attributes={"blocksize": 2}),
    Case("Trilu", [_normal(4, 5)], attributes={"upper": 0}),
    _fused("BiasGelu", _normal(3, 8), _normal(8)),
    _fused("EmbedLayerNormalization", np.array([[1, 0, 2]], np.int32), np.array([[0, 1, 1]], np.int32), _normal(5, 8), _normal(4, 8), _normal(2, 8), _positive(8), _normal(8), outputs=2),
    _fused("FastGelu", _normal(3, 8), _normal(8)),
    _fused("FusedConv", _normal(1, 3, 6, 6), _normal(4, 3, 3, 3), _normal(4), activation="Sigmoid"),
    _fused("FusedGemm", _normal(3, 4), _normal(4, 5), _normal(5), activation="Tanh", alpha=0.5),
    _fused("FusedMatMul", _normal(2, 3, 4), _normal(2, 5, 4), transB=1, alpha=0.25),
    _fused("Gelu", _normal(3, 8)),
    _fused("QuickGelu", _normal(3, 8), alpha=1.7),
    _fused("RotaryEmbedding", _normal(2, 2, 3, 8), np.tile(np.arange(3, dtype=np.int64), (2, 1)), _normal(5, 4), _normal(5, 4)),
    _fused("SimplifiedLayerNormalization", _normal(3, 8), _positive(8)),
    _fused("SkipLayerNormalization", _normal(2, 3, 8), _normal(2, 3, 8), _positive(8), _normal(8), _normal(8)),
    _fused("SkipSimplifiedLayerNormalization", _normal(2, 3, 8), _normal(2, 3, 8), _positive(8), _normal(8)),
)  # fmt: skip
