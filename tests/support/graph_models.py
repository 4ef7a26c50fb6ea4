"""Small models for the tests, and onnxruntime as the judge of what folding did."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.write import to_onnx

Shape = Sequence[int | str | None] | None


def tensor(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    """Return a float tensor of small random numbers."""
    values = np.random.default_rng([seed, len(name), *name.encode()]).standard_normal(shape)
    return numpy_helper.from_array(values.astype(np.float32) * 0.3, name)


def integers(name: str, values: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.int64), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    tensors: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    types: Mapping[str, int] = {},
    value_info: Sequence[onnx.ValueInfoProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [
            helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), None)
            for name in outputs
        ],
        list(tensors),
        value_info=list(value_info),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    made.ir_version = 10
    return made


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def run(proto: onnx.ModelProto, feeds: Mapping[str, NDArray[np.generic]]) -> list[object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return list(session.run(None, dict(feeds)))


def assert_same_outputs(
    original: onnx.ModelProto,
    graph: ModelGraph,
    feeds: Mapping[str, NDArray[np.generic]],
    *,
    tolerance: float = 1e-5,
) -> None:
    """Hold that the folded graph, written out again, computes what the file computes."""
    expected, found = run(original, feeds), run(to_onnx(graph), feeds)
    for one, other in zip(expected, found, strict=True):
        assert isinstance(one, np.ndarray)
        assert isinstance(other, np.ndarray)
        assert one.shape == other.shape
        scale = max(float(np.abs(one).max(initial=0.0)), 1e-12)
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * scale)


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
