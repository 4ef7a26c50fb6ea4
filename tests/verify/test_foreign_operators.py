"""Exports that keep a runtime's own operators beside quantised layers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mpsearch.data.batches import Batches, read_batches
from mpsearch.errors import PlanError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import uniform
from mpsearch.space.files import read_space
from mpsearch.verify.verify_plan import verify_plan
from tests.support.attention_models import fused_encoder, separate_heads


def exported(
    folder: Path, model: onnx.ModelProto, inputs: dict[str, np.ndarray]
) -> tuple[Plan, Batches]:
    onnx.save(model, folder / "model.onnx")
    repeated: dict[str, Any] = {k: np.concatenate([x] * 8) for k, x in inputs.items()}
    np.savez(folder / "data.npz", **repeated)
    batches = read_batches(folder / "data.npz")
    shapes = {name: (None, *x.shape[1:]) for name, x in inputs.items()}
    graph, space = import_onnx(folder / "model.onnx", shapes=shapes), read_space("npu")
    simulator = Simulator(graph, space, batches)
    chosen = uniform(space, graph, "fp8", simulator.allowed)
    plan = make_plan(Point(tuple(chosen.tolist()), {}), simulator)
    export_plan(plan, folder / "model.onnx", folder / "exported")
    return plan, batches


def test_fused_attention_runs_in_onnxruntime_as_simulated(tmp_path: Path) -> None:
    plan, batches = exported(tmp_path, *separate_heads())
    names = [decision.site.node for decision in plan.decisions]
    assert {"mha/scores", "mha/values"} < set(names)
    found = verify_plan(
        plan, tmp_path / "model.onnx", tmp_path / "exported", batches, runtime="onnxruntime"
    )
    assert found.ok
    assert len(found.layers) == len(names)


def test_operators_that_the_reference_lacks_are_named(tmp_path: Path) -> None:
    plan, batches = exported(tmp_path, *fused_encoder())
    with pytest.raises(PlanError, match="EmbedLayerNormalization"):
        verify_plan(
            plan, tmp_path / "model.onnx", tmp_path / "exported", batches, runtime="reference"
        )
