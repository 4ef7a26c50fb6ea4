"""Memory: what a process holds under a bound, and what is made anew where it does not fit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from mpsearch.data.batches import make_batches
from mpsearch.program.compile import compile_graph
from mpsearch.program.memory_of_machine import anonymous_memory
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.schemes import find_scheme
from mpsearch.simulate.memory_budget import MemoryWarning, live_bytes
from mpsearch.simulate.simulator import Simulator
from mpsearch.simulate.weight_cache import WeightStore
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import build, conv_net, images, imported

SWEEP = """
import sys, threading
import numpy as np
from mpsearch.data.batches import make_batches
from mpsearch.program.memory_of_machine import anonymous_memory
from mpsearch.simulate.simulator import Simulator
from mpsearch.graph.importer import import_onnx
from mpsearch.schemes import find_scheme
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.space.space import SearchSpace

space = SearchSpace("test", tuple(map(find_scheme, ("fp16", "nvfp4"))))
batches = make_batches({"x": np.ones((2, 2048), np.float32)})

def sweep(path, limit):
    simulator = Simulator(import_onnx(path), space, batches, max_memory=limit)
    return score_sensitivity(simulator, metric="perturbation")

sweep(sys.argv[1], None)  # a small one, so that kernels are compiled before anything is measured
limit = anonymous_memory() + 60_000_000
peak, done = [0], threading.Event()

def sample():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous_memory())

thread = threading.Thread(target=sample)
thread.start()
table = sweep(sys.argv[2], limit)
done.set()
thread.join()
print(limit, peak[0], len(table.groups))
"""


def tall_model(path: Path, blocks: int, *, is_narrow: bool, width: int = 2048) -> None:
    """Write x ← relu(x W) with external weights of 16 MiB each, or of 8 MiB that are cast to fp32."""
    kind = TensorProto.FLOAT16 if is_narrow else TensorProto.FLOAT
    data, size = path.with_suffix(".data"), (2 if is_narrow else 4) * width * width
    noise = np.random.default_rng(0).standard_normal(width * width) * (1.4 / width**0.5)
    data.write_bytes(noise.astype(np.float16 if is_narrow else np.float32).tobytes() * blocks)
    weights, nodes = [], []
    for i in range(blocks):
        weight = onnx.TensorProto(name=f"w{i}", data_type=kind, dims=[width, width])
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": data.name, "offset": i * size, "length": size}.items():
            weight.external_data.add(key=key, value=str(value))
        weights.append(weight)
        wide = f"wide{i}" if is_narrow else f"w{i}"
        if is_narrow:
            nodes.append(helper.make_node("Cast", [f"w{i}"], [wide], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("MatMul", [f"x{i}" if i else "x", wide], [f"p{i}"]))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [f"x{i + 1}"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name in ("x", f"x{blocks}")
    ]
    graph = helper.make_graph(nodes, "tall", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RssAnon is Linux's")
@pytest.mark.parametrize(
    "is_narrow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["mapped", "computed"]
)
def test_a_sweep_of_a_model_larger_than_its_memory_stays_within_it(
    is_narrow: bool, tmp_path: Path
) -> None:
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    tall_model(small, 1, is_narrow=is_narrow)
    tall_model(large, 8, is_narrow=is_narrow)
    assert large.with_suffix(".data").stat().st_size > (60_000_000 if is_narrow else 120_000_000)
    command = [sys.executable, "-c", SWEEP, str(small), str(large)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    limit, peak, groups = map(int, done.stdout.split())
    assert groups == 8
    assert limit - 60_000_000 < peak <= limit


def test_constants_that_do_not_fit_are_made_anew_with_the_same_result(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((256, 256)).astype(np.float16) / np.float16(16),
        "v": rng.standard_normal((256, 256)).astype(np.float32) / 16,
    }
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="second"),
    ]
    graph = imported(build(nodes, {"x": ["n", 256]}, {"y": ["n", 256]}, weights), tmp_path)
    x = torch.from_numpy(rng.standard_normal((3, 256)).astype(np.float32))
    found = []
    for max_held in (sys.maxsize, 0):
        program = compile_graph(graph, max_held=max_held)
        slot = program.slots[graph.layers[0].gemms[0].right.value]
        assert program.constants.not_held(slot) == (max_held == 0)
        values = program.make_values()
        values[program.slots["x"]] = x
        wanted = program.slots["y"]
        run_schedule(make_schedule(program, [wanted]), values)
        found.append(values[wanted])
        assert torch.equal(
            program.constants[slot], torch.from_numpy(graph.constants["wide"].copy())
        )
    assert torch.equal(*found)
    space = SearchSpace("test", tuple(map(find_scheme, ("fp16", "fp8"))))
    data = make_batches({"x": x.numpy()})
    losses = [
        Simulator(graph, space, data, max_memory=limit).losses(np.array([1, 0]))
        for limit in (None, 0)
    ]
    assert np.array_equal(*losses)


def test_of_weights_that_do_not_fit_the_most_used_are_kept(tmp_path: Path) -> None:
    graph = imported(conv_net(), tmp_path)
    program, scheme = compile_graph(graph), find_scheme("fp8")
    sizes = [4 * layer.parameters for layer in graph.layers]
    store = WeightStore(graph, program, sizes[0] + sizes[1])
    first = store.simulated(0, scheme)
    for _ in range(3):
        for layer in range(4):  # a run walks through all of them
            store.simulated(layer, scheme)
    assert store.simulated(0, scheme) is first
    again = [store.simulated(2, scheme) for _ in range(9)]
    assert again[-1] is again[-2]
    assert store.simulated(0, scheme) is not first


def test_memory_that_cannot_hold_one_run_is_said_with_the_batch_size(tmp_path: Path) -> None:
    graph = imported(conv_net(), tmp_path)
    space = SearchSpace("test", (find_scheme("fp16"),))
    with pytest.warns(MemoryWarning, match=r"run on 4 samples needs about .* MB"):
        Simulator(graph, space, images(), max_memory=anonymous_memory() + 50_000)


def test_live_bytes_are_those_of_the_widest_moment(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="a"),
        helper.make_node("Sigmoid", ["a"], ["b"], name="b"),
        helper.make_node("Add", ["a", "b"], ["c"], name="c"),
        helper.make_node("ReduceMean", ["c"], ["y"], name="y", axes=[1], keepdims=0),
    ]
    program = compile_graph(imported(build(nodes, {"x": ["n", 8]}, {"y": ["n"]}, {}), tmp_path))
    schedule = make_schedule(program, [program.slots["y"]])
    sizes = {program.slots[name]: size for name, size in zip("xabcy", (8, 8, 8, 8, 1), strict=True)}
    assert live_bytes(schedule, sizes) == 24
