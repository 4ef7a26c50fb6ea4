"""Models whose samples mix at any batch but their own, from search to proof in real runtimes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.errors import PlanError
from mpsearch.plan.files import read_plan
from tests.support.command_line import Mpsearch

NODE = helper.make_node
NETS = {  # each right in onnxruntime at its own batch of 1
    "softmax over axis 0": [
        NODE("MatMul", ["x", "w"], ["h"]),
        NODE("Softmax", ["h"], ["p"], axis=0),
        NODE("MatMul", ["p", "w1"], ["y"]),
    ],
    "attention behind a Reshape to [1, -1, 16]": [
        NODE("MatMul", ["x", "w"], ["h0"]),
        NODE("Reshape", ["h0", "r"], ["h"]),
        NODE("MatMul", ["h", "w1"], ["q"]),
        NODE("Transpose", ["h"], ["k"], perm=[0, 2, 1]),
        NODE("MatMul", ["q", "k"], ["s"]),
        NODE("Softmax", ["s"], ["p"], axis=-1),
        NODE("MatMul", ["p", "h"], ["y"]),
    ],
    "attention behind a Reshape to [1, 8, 16]": [
        NODE("MatMul", ["x", "w"], ["h0"]),
        NODE("Reshape", ["h0", "r8"], ["h"]),
        NODE("MatMul", ["h", "w1"], ["q"]),
        NODE("Transpose", ["h"], ["k"], perm=[0, 2, 1]),
        NODE("MatMul", ["q", "k"], ["s"]),
        NODE("Softmax", ["s"], ["p"], axis=-1),
        NODE("MatMul", ["p", "h"], ["y"]),
    ],
}


def write(path: Path, nodes: Sequence[onnx.NodeProto]) -> None:
    rng = np.random.default_rng(0)
    w, w1 = (rng.standard_normal((2, 16, 16)) / 4).astype(np.float32)
    constants = {"w": w, "w1": w1, "r": np.array([1, -1, 16]), "r8": np.array([1, 8, 16])}
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 8, 16])],
        [helper.make_tensor_value_info("y", 1, [1, 8, 16])],
        [numpy_helper.from_array(x, name) for name, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)


@pytest.mark.parametrize("name", NETS)
def test_the_loss_is_that_of_single_samples_at_any_batch_size(
    tmp_path: Path, name: str, mpsearch: Mpsearch
) -> None:
    write(tmp_path / "m.onnx", NETS[name])
    x = np.random.default_rng(1).standard_normal((16, 8, 16)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    losses = []
    for size in (32, 5):
        out = tmp_path / f"run{size}"
        done = mpsearch(
            *("search", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "-o", out),
            *("--device", "npu_200tops", "--batch-size", size, "--measure", 1, "--refine", 0),
        )
        assert done.code == 0, done.err
        plan = json.loads((out / "plans/uniform_nvfp4.json").read_text())["content"]
        losses.append(plan["measured"]["loss"]["mean"])
    assert losses[0] == losses[1] > 0
    plan = read_plan(out / "plans/uniform_fp8.json")
    mp.export_plan(plan, tmp_path / "m.onnx", tmp_path / "export")
    for runtime in ("openvino", "onnxruntime"):
        proof = mp.verify_plan(
            plan,
            tmp_path / "m.onnx",
            tmp_path / "export",
            mp.read_batches(tmp_path / "d.npz"),
            runtime=runtime,
        )
        assert proof.ok


def test_a_time_first_model_is_searched_along_the_axis_that_is_named(
    tmp_path: Path, mpsearch: Mpsearch
) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((1, 32, 4)).astype(np.float32),
        "r": rng.standard_normal((1, 32, 8)).astype(np.float32),
        "v": rng.standard_normal((8, 3)).astype(np.float32),
        "one": np.array([1]),
    }
    graph = helper.make_graph(
        [
            NODE("LSTM", ["x", "w", "r"], ["s"], "lstm", hidden_size=8),
            NODE("Squeeze", ["s", "one"], ["z"]),
            NODE("MatMul", ["z", "v"], ["y"], "head"),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["t", "n", 4])],
        [helper.make_tensor_value_info("y", 1, ["t", "n", 3])],
        [numpy_helper.from_array(x, name) for name, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=rng.standard_normal((12, 7, 4)).astype(np.float32))
    for said in ((), ("--batch-axis", "x=1")):
        out = tmp_path / f"run{len(said)}"
        done = mpsearch(
            *("search", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "-o", out, *said),
            *("--device", "npu_200tops", "--measure", 1, "--refine", 0),
        )
        assert done.code == 0, done.err
        shown = mp.open_run(out).graph
        assert [layer.m for layer in shown.layers] == [7, 7]
        plan = read_plan(next((out / "plans").glob("uniform_fp*.json")))
        assert plan.batch_axes == {"x": 1}
        assert plan.shapes == {"x": (7, None, 4)}
    assert mpsearch("search", tmp_path / "m.onnx", "--batch-axis", "x:1").code != 0


def test_blocks_along_a_reduction_that_the_batch_sizes_are_refused_and_the_rest_is_right(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [NODE("MatMul", ["adj", "x"], ["h"]), NODE("MatMul", ["h", "w"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("adj", 1, ["N", "N"]),
            helper.make_tensor_value_info("x", 1, ["N", 16]),
        ],
        [helper.make_tensor_value_info("y", 1, ["N", 8])],
        [numpy_helper.from_array(rng.standard_normal((16, 8)).astype(np.float32) / 4, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path, space = tmp_path / "m.onnx", mp.read_space("npu")
    onnx.save(model, path)
    small, large = (
        make_batches({name: rng.standard_normal((n, k)).astype(np.float32) for name, k in widths})
        for n, widths in ((6, (("adj", 6), ("x", 16))), (21, (("adj", 21), ("x", 16))))
    )
    simulator = mp.Simulator(mp.import_onnx(path), space, small)
    (gather, dense) = range(len(simulator.groups))
    nvfp4 = space.index("nvfp4")
    assert not simulator.allowed[gather, nvfp4]
    assert simulator.allowed[dense, nvfp4]
    with pytest.raises(PlanError, match="as long as the batch"):
        mp.make_plan(mp.Point((nvfp4, nvfp4), {}), simulator)
    for first in (space.index("fp16"), space.index("fp8")):
        plan = mp.make_plan(mp.Point((first, nvfp4), {}), simulator)
        mp.export_plan(plan, path, tmp_path / f"export{first}")
        for batches in (small, large):
            for runtime in ("reference", "openvino"):
                assert mp.verify_plan(
                    plan, path, tmp_path / f"export{first}", batches, runtime=runtime
                ).ok
