"""Norms that onnxruntime keeps in the default domain are written as the standard names them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.problem.front import Point
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.graph_models import model, noise, save, tensor

SPACE = SearchSpace("test", tuple(map(find_scheme, ("fp16", "fp8"))), "fp16")


@pytest.mark.parametrize("runtime", ["reference", "openvino", "onnxruntime"])
def test_root_mean_square_norms_are_proven_in_runtimes(tmp_path: Path, runtime: str) -> None:
    nodes = [
        helper.make_node(
            "SimplifiedLayerNormalization", ["x", "g"], ["n"], name="norm", axis=-1, epsilon=1e-5
        ),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="product"),
    ]
    tensors = [tensor("g", 16, seed=1), tensor("w", 16, 8, seed=2)]
    path = save(model(nodes, {"x": ["n", 4, 16]}, ["y"], tensors), tmp_path)
    data = make_batches({"x": noise(32, 4, 16)}, batch_size=16)
    simulator = Simulator(mp.import_onnx(path), SPACE, data)
    plan = mp.make_plan(Point((1,) * len(simulator.groups), {}), simulator)
    (written, *_) = mp.export_plan(plan, path, tmp_path / "out")
    names = {node.op_type for node in onnx.load(written).graph.node}
    assert "RMSNormalization" in names
    assert "SimplifiedLayerNormalization" not in names
    assert mp.verify_plan(plan, path, tmp_path / "out", data, runtime=runtime).ok
    assert np.isfinite(simulator.losses(np.ones(len(simulator.groups), np.int64))).all()
