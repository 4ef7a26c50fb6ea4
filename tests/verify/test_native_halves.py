"""Models whose own tensors are of 16 bits are exported and proven as fp32 ones are."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpsearch.data.batches import make_batches
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.verify.verify_plan import verify_plan

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def native(kind: int, *, cast_weights: bool) -> onnx.ModelProto:
    """Two products in 16 bits between casts, or fp32 ones whose 16-bit weights are cast."""
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        values = (rng.standard_normal(shape) / 4).astype(np.float32)
        return helper.make_tensor(name, kind, shape, values.ravel())

    node = helper.make_node
    if cast_weights:
        nodes = [
            node("Cast", ["w1"], ["v1"], "cast1", to=TensorProto.FLOAT),
            node("MatMul", ["x", "v1"], ["a"], "first"),
            node("Relu", ["a"], ["r"], "relu"),
            node("Cast", ["w2"], ["v2"], "cast2", to=TensorProto.FLOAT),
            node("MatMul", ["r", "v2"], ["y"], "second"),
        ]
    else:
        nodes = [
            node("Cast", ["x"], ["h"], "in", to=kind),
            node("MatMul", ["h", "w1"], ["a"], "first"),
            node("Add", ["a", "b"], ["s"], "bias"),
            node("Relu", ["s"], ["r"], "relu"),
            node("MatMul", ["r", "w2"], ["z"], "second"),
            node("Cast", ["z"], ["y"], "out", to=TensorProto.FLOAT),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16])],
        [tensor("w1", 32, 32), tensor("w2", 32, 16), *([] if cast_weights else [tensor("b", 32)])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize("cast_weights", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_native_16_bit_model_is_proven_in_every_scheme(
    kind: str, cast_weights: bool, tmp_path: Path
) -> None:
    onnx.save(native(KINDS[kind], cast_weights=cast_weights), tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
    graph, space, batches = (
        import_onnx(tmp_path / "m.onnx"),
        read_space("npu"),
        make_batches({"x": x}),
    )
    simulator = Simulator(graph, space, batches)
    for scheme in range(3):
        plan = make_plan(Point((scheme,) * 2, {}), simulator)
        export_plan(plan, tmp_path / "m.onnx", tmp_path / "out")
        for runtime in ("reference", "openvino"):
            found = verify_plan(
                plan, tmp_path / "m.onnx", tmp_path / "out", batches, runtime=runtime
            )
            assert found.ok, str(found)
            assert not found.unproven
