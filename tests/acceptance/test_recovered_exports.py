"""What recovery makes of a plan is what its file scores, what its export computes, and what every runtime shows."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

import mpsearch as mp
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.schemes import find_scheme
from mpsearch.stats.estimates import Estimate
from tests.support.torch_models import attention_net, conv_net, images, sentences

RUNTIMES = ["reference"] + (["openvino"] if find_spec("openvino") else [])
NETS = {"conv": (conv_net, images), "attention": (attention_net, sentences)}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", ["nvfp4", "fp8_2of4", "w4a16_g32"])
def test_a_recovered_plan_is_proven_layer_by_layer(tmp_path: Path, net: str, name: str) -> None:
    make, data = NETS[net]
    path = tmp_path / "net.onnx"
    onnx.save(make(), path)
    space = mp.SearchSpace("s", tuple(map(find_scheme, ("fp16", name))), "fp16")
    simulator = mp.Simulator(mp.import_onnx(path), space, data(60))
    chosen = simulator.allowed[:, 1].astype(np.int64)
    plan = mp.make_plan(mp.Point(tuple(map(int, chosen)), {}), simulator)
    made = mp.recover_plan(plan, simulator, methods="gptq,bias")
    assert made.recovery == ("gptq", "bias")
    assert made.changes
    write_plan(made, tmp_path / "plan.json")
    held = data(40, seed=9) if net == "conv" else data(40)
    losses = [
        mp.score_plan(which, path, held).mean for which in (plan, read_plan(tmp_path / "plan.json"))
    ]
    assert losses[1] < losses[0]
    mp.export_plan(made, path, tmp_path / "out")
    for runtime in RUNTIMES:
        found = mp.verify_plan(made, path, tmp_path / "out", held, runtime=runtime)
        assert found.ok, str(found)
        assert max(check.error for check in found.layers) <= 1e-3
    assert isinstance(made.measured["loss"], Estimate)


@pytest.mark.parametrize("net", NETS)
def test_a_transformed_plan_is_proven_layer_by_layer(tmp_path: Path, net: str) -> None:
    make, data = NETS[net]
    path = tmp_path / "net.onnx"
    onnx.save(make(), path)
    space = mp.SearchSpace("s", tuple(map(find_scheme, ("fp16", "nvfp4"))), "fp16")
    simulator = mp.Simulator(mp.import_onnx(path), space, data(60))
    chosen = simulator.allowed[:, 1].astype(np.int64)
    plan = mp.make_plan(mp.Point(tuple(map(int, chosen)), {}), simulator)
    made = mp.recover_plan(plan, simulator, methods="smooth,gptq,bias")
    assert made.transforms == ("smooth",)
    write_plan(made, tmp_path / "plan.json")
    made = read_plan(tmp_path / "plan.json")
    held = data(40)
    assert mp.score_plan(made, path, held).mean < mp.score_plan(plan, path, held).mean
    mp.export_plan(made, path, tmp_path / "out")
    for runtime in RUNTIMES:
        found = mp.verify_plan(made, path, tmp_path / "out", held, runtime=runtime)
        assert found.ok, str(found)
