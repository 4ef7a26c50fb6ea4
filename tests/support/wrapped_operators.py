"""Random operators between layers: models of one drawn node, a layer before and one behind."""

import zlib

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.support.random_operators.compare import run_onnxruntime
from tests.support.random_operators.draw import Case
from tests.support.random_operators.table import draw_case

Array = NDArray[np.generic]
ROWS = 4
# Operators that treat samples alike wherever their first axis is not touched.
NAMES = (
    "AveragePool", "BatchNormalization", "Celu", "Clip", "Conv", "ConvTranspose", "DepthToSpace", "Elu",
    "Erf", "Exp", "Flatten", "Gelu", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
    "GroupNormalization", "HardSigmoid", "HardSwish", "InstanceNormalization", "LRN",
    "LayerNormalization", "LeakyRelu", "LogSoftmax", "LpPool", "MaxPool", "Mish", "PRelu",
    "RMSNormalization", "Resize", "Selu", "Shrink", "Sigmoid", "Softmax", "Softplus", "Softsign",
    "SpaceToDepth", "Swish", "Tanh", "ThresholdedRelu", "Trilu", "Upsample",
)  # fmt: skip


def draw_wrapped(number: int) -> tuple[str, onnx.ModelProto, dict[str, Array]] | None:
    """Return operator, model and inputs of a number; None where the drawn node mixes samples or is refused."""
    op_type = NAMES[number % len(NAMES)]
    case = draw_case("", op_type, zlib.crc32(str(number).encode()) % 100_000)
    x = case.inputs[0]
    if x is None or x.dtype != np.float32 or x.ndim < 2 or not x.size or case.opset < 7:
        return None
    rng = np.random.default_rng([7, number])
    shape = (2 * ROWS, *x.shape[1:])
    array = (rng.standard_normal(shape) * 1.5).astype(np.float32)
    model = wrap(case, array, rng)
    if model is None:
        return None
    try:
        whole = run_onnxruntime(model, {"x": array})[0]
        apart = [run_onnxruntime(model, {"x": array[i : i + 1]})[0] for i in range(len(array))]
    except Exception:  # onnxruntime's own have no common base
        return None
    is_alike = whole.shape[0] == len(array) and np.allclose(whole, np.concatenate(apart), atol=1e-4)
    return (op_type, model, {"x": array}) if is_alike and np.isfinite(whole).all() else None


def wrap(case: Case, array: Array, rng: np.random.Generator) -> onnx.ModelProto | None:
    """Return x · A → node → reshape → · B, with the node's other inputs as constants."""
    width = array.shape[-1]
    names = ["t"] + [f"c{i}" if c is not None else "" for i, c in enumerate(case.inputs) if i]
    tensors = [
        numpy_helper.from_array(c, f"c{i}")
        for i, c in enumerate(case.inputs)
        if i and c is not None
    ]
    node = helper.make_node(case.op_type, names, ["n"], "drawn", **dict(case.attributes))
    alone = helper.make_graph(
        [node],
        "alone",
        [helper.make_tensor_value_info("t", 1, ["N", *array.shape[1:]])],
        [helper.make_empty_tensor_value_info("n")],
        tensors,
    )
    opsets = [helper.make_opsetid("", case.opset)]
    try:
        made = helper.make_model(alone, opset_imports=opsets, ir_version=10)
        (seen,) = run_onnxruntime(made, {"t": array})
    except Exception:  # it was drawn for another number of samples
        return None
    size = int(np.prod(seen.shape[1:]))
    if seen.dtype != np.float32 or not size or size > 4000:
        return None

    def weight(*shape: int) -> Array:
        return (rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)

    tensors += [
        numpy_helper.from_array(weight(width, width), "before"),
        numpy_helper.from_array(weight(size, 5), "behind"),
        numpy_helper.from_array(np.array([-1, size]), "flat"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "before"], ["t"], "first"),
        node,
        helper.make_node("Reshape", ["n", "flat"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "behind"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "wrapped",
        [helper.make_tensor_value_info("x", 1, ["N", *array.shape[1:]])],
        [helper.make_tensor_value_info("y", 1, ["N", 5])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
