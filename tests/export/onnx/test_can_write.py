"""What export can write works from model to proof; what it cannot is said by one predicate."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.export.export_plan import export_plan
from mpsearch.export.onnx.can_write import can_write
from mpsearch.export.onnx.opset import upgrade_model
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.verify.verify_plan import verify_plan
from tests.support.random_operators.compare import run_onnxruntime

RNG = np.random.default_rng(0)
Array = NDArray[np.float32]


def draw(*shape: int) -> Array:
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    x: list[int | str] | None,
    outputs: dict[str, list[int | str] | None],
    weights: dict[str, Array],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def product(value: str, output: str, weight: str = "w") -> onnx.NodeProto:
    return helper.make_node("MatMul", [value, weight], [output], f"to_{output}")


def prove(made: onnx.ModelProto, x: Array, folder: Path) -> None:
    """Export and verify three uniform plans."""
    onnx.save(made, folder / "m.onnx")
    graph, batches = import_onnx(folder / "m.onnx"), make_batches({"x": x})
    simulator = Simulator(graph, read_space("npu"), batches)
    for scheme in range(3):
        assert simulator.allowed[:, scheme].all()
        plan = make_plan(Point((scheme,) * len(graph.groups), {}), simulator)
        export_plan(plan, folder / "m.onnx", folder / "out")
        for runtime in ("reference", "openvino"):
            found = verify_plan(plan, folder / "m.onnx", folder / "out", batches, runtime=runtime)
            assert found.ok, str(found)
            assert not found.unproven


def test_a_weight_that_is_also_an_output_is_still_one(tmp_path: Path) -> None:
    w = draw(32, 16)
    made = model([product("x", "y")], ["N", 32], {"y": ["N", 16], "w": [32, 16]}, {"w": w})
    prove(made, draw(64, 32), tmp_path)
    kept = {t.name: t for t in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer}
    assert np.array_equal(numpy_helper.to_array(kept["w"]), w)


@pytest.mark.parametrize("shape", [(64, 32), (8, 5, 32)])
def test_products_of_unknown_rank_are_written_as_matrices(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    nodes = [
        product("x", "a"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        product("r", "y", "v"),
    ]
    made = model(nodes, None, {"y": None}, {"w": draw(32, 40), "v": draw(40, 16)})
    prove(made, draw(*shape), tmp_path)


def test_convolutions_of_unknown_rank_have_that_of_their_weight(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    prove(model([node], None, {"y": None}, {"w": draw(16, 8, 3, 3)}), draw(16, 8, 6, 6), tmp_path)


def test_what_cannot_be_written_has_a_reason(tmp_path: Path) -> None:
    turned = helper.make_node("MatMul", ["w", "x"], ["y"], "left")
    onnx.save(model([turned], None, {"y": None}, {"w": draw(16, 32)}), tmp_path / "m.onnx")
    graph = import_onnx(tmp_path / "m.onnx")
    for layer in graph.layers:
        assert can_write(graph, layer, find_scheme("fp8")) == ""
        assert "ONNX must have a type for tf32" in can_write(graph, layer, find_scheme("tf32"))
        reason = can_write(graph, layer, find_scheme("nvfp4"))
        assert reason == "" or "the rank of 'x' must be known for nvfp4" in reason


def branch(number: str) -> onnx.GraphProto:
    nodes = [
        helper.make_node("MatMul", ["x", f"w{number}"], [f"b{number}"], f"in{number}"),
        helper.make_node("MatMul", [f"b{number}", f"own{number}"], [f"d{number}"], f"deep{number}"),
        helper.make_node(
            "ReduceMean", [f"d{number}"], [f"e{number}"], f"mean{number}", axes=[1], keepdims=1
        ),
        helper.make_node("Add", [f"d{number}", f"e{number}"], [f"h{number}"], f"add{number}"),
    ]
    own = numpy_helper.from_array(draw(16, 16), f"own{number}")
    out = helper.make_tensor_value_info(f"h{number}", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, f"branch{number}", [], [out], [own])


@pytest.mark.filterwarnings("ignore::mpsearch.simulate.observation.SilentActivationWarning")
@pytest.mark.parametrize("sign", [1, -1])
def test_layers_in_branches_are_written_and_the_whole_is_proven(sign: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], "mean", keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"], "positive"),
        helper.make_node(
            "If", ["c"], ["h"], "if", then_branch=branch("1"), else_branch=branch("2")
        ),
        product("h", "y", "w3"),
    ]
    weights = {"w1": draw(32, 16), "w2": draw(32, 16), "w3": draw(16, 8)}
    made = model(nodes, ["N", 32], {"y": ["N", 8]}, weights | {"zero": np.float32(0)})  # type: ignore[dict-item]
    onnx.save(made, tmp_path / "m.onnx")
    x = draw(64, 32) + np.float32(sign)
    graph, batches = import_onnx(tmp_path / "m.onnx"), make_batches({"x": x})
    simulator = Simulator(graph, read_space("npu"), batches)
    names = [layer.name for layer in graph.layers if "/" in layer.name]
    assert len(names) == 4
    for scheme in range(3):
        plan = make_plan(Point((scheme,) * len(graph.groups), {}), simulator)
        export_plan(plan, tmp_path / "m.onnx", tmp_path / "out")
        for runtime in ("reference", "openvino"):
            found = verify_plan(
                plan, tmp_path / "m.onnx", tmp_path / "out", batches, runtime=runtime
            )
            assert found.ok, str(found)
            assert set(found.unproven) == set(names)
            assert scheme == 0 or found.whole is None or found.whole.simulation > 1e-6


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_stay_in_floats_without_scales_and_are_proven(
    op_type: str, tmp_path: Path
) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[1, 0, 2]),
        helper.make_node(op_type, ["t", "w", "r"], ["s"], "loop", hidden_size=8),
        helper.make_node("Transpose", ["s"], ["b"], "back", perm=[2, 0, 1, 3]),
        helper.make_node("Flatten", ["b"], ["f"], "flat"),
        product("f", "y", "v"),
    ]
    weights = {"w": draw(1, gates * 8, 6), "r": draw(1, gates * 8, 8), "v": draw(24, 4)}
    made = model(nodes, ["N", 3, 6], {"y": ["N", 4]}, weights)
    onnx.save(made, tmp_path / "m.onnx")
    graph, batches = import_onnx(tmp_path / "m.onnx"), make_batches({"x": draw(16, 3, 6)})
    simulator = Simulator(graph, read_space("npu"), batches)
    loop = [layer.name for layer in graph.layers].index("loop")
    assert simulator.allowed[loop].tolist() == [True, False, False, False, False]
    assert (
        f"{op_type} multiplies values that never leave the operator"
        in simulator.reasons["loop", "fp8"]
    )
    choice = [0, 0]
    choice[1 - loop] = 2
    plan = make_plan(Point(tuple(choice), {}), simulator)
    export_plan(plan, tmp_path / "m.onnx", tmp_path / "out")
    for runtime in ("reference", "openvino"):
        found = verify_plan(plan, tmp_path / "m.onnx", tmp_path / "out", batches, runtime=runtime)
        assert found.ok, str(found)
        assert not found.unproven


@pytest.mark.parametrize(
    ("op_type", "opset", "mode", "scales"),
    [
        ("Upsample", 9, "linear", [2.5, 3]),
        ("Upsample", 9, "nearest", [2.5, 3]),
        ("Resize", 10, "linear", [2.5, 0.6]),
        ("Resize", 10, "nearest", [2.5, 3]),
        ("Resize", 10, "nearest", [0.6, 0.8]),
        ("Resize", 10, "nearest", [2.5, 0.6]),
    ],
)
def test_old_resizes_keep_their_meaning_at_a_later_opset(
    op_type: str, opset: int, mode: str, scales: list[float], tmp_path: Path
) -> None:
    node = helper.make_node(op_type, ["x", "s"], ["y"], "up", mode=mode)
    factors = np.array([1, 1, *scales], np.float32)
    made = model([node], ["N", 2, 5, 7], {"y": None}, {"s": factors})
    made.opset_import[0].version = opset
    x = draw(2, 2, 5, 7)
    later = upgrade_model(made, 23, set())
    expected, found = (run_onnxruntime(m, {"x": x})[0] for m in (made, later))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_old_hardmax_takes_all_that_follows_its_axis_as_one_row() -> None:
    made = model([helper.make_node("Hardmax", ["x"], ["y"], "hard")], ["N", 3, 4], {"y": None}, {})
    made.opset_import[0].version = 11
    x = draw(2, 3, 4)
    expected, found = (
        run_onnxruntime(m, {"x": x})[0] for m in (made, upgrade_model(made, 23, set()))
    )
    np.testing.assert_array_equal(found, expected)
