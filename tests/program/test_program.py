"""Programs against onnxruntime: fused chains, control flow, recurrence."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mpsearch.data.batches import make_batches
from mpsearch.errors import ModelError
from mpsearch.graph.model import ModelGraph
from mpsearch.program.compile import compile_graph
from mpsearch.program.program import Program
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.program.tensors import to_tensor
from mpsearch.schemes import find_scheme
from mpsearch.simulate.probe import replay, simulated_weight
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import build, conv_net, imported

Array = NDArray[np.generic]


def outputs_of(program: Program, feeds: Mapping[str, Array]) -> list[Array]:
    values = program.make_values()
    for name, array in feeds.items():
        values[program.slots[name]] = to_tensor(array)
    slots = [program.slots[name] for name in program.outputs]
    with torch.inference_mode():
        run_schedule(make_schedule(program, slots), values)
    return [tensor.numpy() for slot in slots if (tensor := values[slot]) is not None]


def expected_of(model: bytes | str, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def check_against_onnxruntime(
    model: onnx.ModelProto, folder: Path, feeds: Mapping[str, Array]
) -> tuple[ModelGraph, Program]:
    graph = imported(model, folder)
    program = compile_graph(graph)
    expected = expected_of(model.SerializeToString(), feeds)
    for found, want in zip(outputs_of(program, feeds), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    return graph, program


def kinds(program: Program) -> list[str]:
    return [step.node.op_type for step in program.steps]


def hard_swish(order: str) -> list[onnx.NodeProto]:
    gate = [
        helper.make_node("Add", ["x", "three"], ["a"]),
        helper.make_node("Clip", ["a", "zero", "six"], ["c"]),
    ]
    if order == "product first":
        tail = [
            helper.make_node("Mul", ["x", "c"], ["m"]),
            helper.make_node("Div", ["m", "six"], ["y"]),
        ]
    elif order == "gate first":
        tail = [
            helper.make_node("Div", ["c", "six"], ["m"]),
            helper.make_node("Mul", ["m", "x"], ["y"]),
        ]
    else:
        tail = [helper.make_node("Mul", ["c", "sixth"], ["y"])]
    return gate + tail


GELU = [
    helper.make_node("Div", ["x", "root2"], ["d"]),
    helper.make_node("Erf", ["d"], ["e"]),
    helper.make_node("Add", ["e", "one"], ["a"]),
    helper.make_node("Mul", ["x", "a"], ["m"]),
    helper.make_node("Mul", ["m", "half"], ["y"]),
]
SWISH = [
    helper.make_node("Sigmoid", ["x"], ["s"]),
    helper.make_node("Mul", ["x", "s"], ["y"]),
]
AFFINE = [
    helper.make_node("Mul", ["half", "x"], ["m"]),
    helper.make_node("Add", ["m", "three"], ["y"]),
]
LAYER_NORM = [
    helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
    helper.make_node("Sub", ["x", "mean"], ["d"]),
    helper.make_node("Pow", ["d", "two"], ["sq"]),
    helper.make_node("ReduceMean", ["sq"], ["var"], axes=[-1]),
    helper.make_node("Add", ["var", "tiny"], ["va"]),
    helper.make_node("Sqrt", ["va"], ["r"]),
    helper.make_node("Div", ["d", "r"], ["n"]),
    helper.make_node("Mul", ["n", "gamma"], ["g"]),
    helper.make_node("Add", ["g", "beta"], ["y"]),
]
NUMBERS = {
    "zero": 0.0, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "half": 0.5,
    "sixth": 1 / 6, "root2": 2**0.5, "tiny": 1e-5,
}  # fmt: skip


def chain(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    weights: dict[str, Array] = {n: np.float32(v) for n, v in NUMBERS.items() if n in read}
    if "gamma" in read:
        weights["gamma"] = np.linspace(0.5, 1.5, 8, dtype=np.float32)
        weights["beta"] = np.linspace(-1, 1, 8, dtype=np.float32)
    return build(nodes, {"x": ["n", 4, 8]}, {name: ["n", 4, 8] for name in outputs}, weights)


@pytest.mark.parametrize(
    ("nodes", "fused"),
    [
        (hard_swish("product first"), "HardSwish"),
        (hard_swish("gate first"), "HardSwish"),
        (hard_swish("gate alone"), "HardSigmoid"),
        (GELU, "Gelu"),
        (SWISH, "Swish"),
        (LAYER_NORM, "LayerNormalization"),
        (AFFINE, "Affine"),
    ],
    ids=[
        "hard-swish",
        "hard-swish gate first",
        "hard-sigmoid",
        "gelu",
        "swish",
        "layer norm",
        "affine",
    ],
)
def test_written_out_chains_run_as_one_operator(
    nodes: list[onnx.NodeProto], fused: str, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32) * 4
    _, program = check_against_onnxruntime(chain(nodes), tmp_path, {"x": x})
    assert kinds(program) == [fused]


def test_a_chain_whose_inside_is_read_elsewhere_stays_as_it_is(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    _, program = check_against_onnxruntime(chain(GELU, ("y", "a")), tmp_path, {"x": x})
    assert "Erf" in kinds(program)


def test_other_constants_are_not_taken_for_a_known_chain(tmp_path: Path) -> None:
    model = chain(GELU)
    for tensor in model.graph.initializer:
        if tensor.name == "root2":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(1.5), "root2"))
    x = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    _, program = check_against_onnxruntime(model, tmp_path, {"x": x})
    assert "Gelu" not in kinds(program)


def looped_product(trips: int) -> onnx.ModelProto:
    """x ← tanh(x W) in a Loop: a layer that lives in a subgraph."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["p"], name="inner"),
            helper.make_node("Tanh", ["p"], ["t"], name="squash"),
            helper.make_node("Identity", ["c"], ["c2"], name="go_on"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, None),
        ],
    )
    rng = np.random.default_rng(0)
    return build(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], name="loop", body=body)],
        {"x": ["n", 16]},
        {"y": ["n", 16]},
        {
            "w": (rng.standard_normal((16, 16)) / 3).astype(np.float32),
            "trips": np.array(trips, np.int64),
        },
    )


def test_loops_run_and_layers_inside_are_simulated(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((6, 16)).astype(np.float32)
    graph, _ = check_against_onnxruntime(looped_product(3), tmp_path, {"x": x})
    assert [layer.op_type for layer in graph.layers] == ["MatMul"]
    space = SearchSpace("test", tuple(map(find_scheme, ("fp16", "fp8"))))
    simulator = Simulator(graph, space, make_batches({"x": x}, batch_size=3))
    exact, noisy = (simulator.loss(np.array([s])).mean for s in (0, 1))
    assert 0 < exact < noisy / 10
    w = simulated_weight(simulator.calibrated, 0, 1).double()
    h = torch.tensor(x)
    amax = simulator.ranges[graph.layers[0].gemms[0].left.value, space.schemes[1].activation].amax
    scale = np.float32(amax) / np.float32(448)
    for _ in range(3):
        q = (h / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
        h = torch.tanh((q.double() @ w).float().half().float())
    (found,) = simulator.run({"x": x}, np.array([1])).values()
    np.testing.assert_allclose(found.numpy(), h.numpy(), atol=2e-3)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_layers_quantise_the_hidden_state_too(direction: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    d = 2 if direction == "bidirectional" else 1
    weights = {
        "w": rng.standard_normal((d, 32, 6)).astype(np.float32),
        "r": rng.standard_normal((d, 32, 8)).astype(np.float32) / 3,
        "b": rng.standard_normal((d, 64)).astype(np.float32) / 5,
    }
    node = helper.make_node(
        "LSTM", ["x", "w", "r", "b"], ["y"], name="lstm", hidden_size=8, direction=direction
    )
    turn = helper.make_node("Transpose", ["y"], ["t"], name="turn", perm=[2, 0, 1, 3])
    model = build([node, turn], {"x": [5, "n", 6]}, {"t": ["n", 5, d, 8]}, weights)
    x = rng.standard_normal((5, 4, 6)).astype(np.float32)
    graph, program = check_against_onnxruntime(model, tmp_path, {"x": x})
    assert [len(layer.gemms) for layer in graph.layers] == [2]
    space = SearchSpace("test", tuple(map(find_scheme, ("fp16", "fp8"))))
    # the model's own samples come second: here any five rows calibrate it
    data = make_batches({"x": np.concatenate([x, x[:, :1]], 1)})
    simulator = Simulator(graph, space, data)
    fp32, fp8 = (replay(simulator.calibrated, 0, s, {"x": to_tensor(x)}) for s in (None, 1))
    assert 1e-4 < float((fp8 - fp32).abs().max()) < 0.2
    assert program.fallbacks() == ()


def test_a_node_that_fails_is_named_with_its_shapes(tmp_path: Path) -> None:
    program = compile_graph(imported(conv_net(), tmp_path))
    with pytest.raises(ModelError, match=r"node 'stem' \(Conv, opset 17\).*\(1, 5, 4, 4\)"):
        outputs_of(program, {"x": np.zeros((1, 5, 4, 4), np.float32)})
