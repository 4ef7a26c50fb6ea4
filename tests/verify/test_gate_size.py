"""The gate weighs what an export stores of decided weights, tables that stay and pattern codes included."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpsearch.data.batches import make_batches
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.runtimes.session import find_model
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.files import read_space
from mpsearch.verify.gate import Limits
from mpsearch.verify.run_gate import check_size
from tests.support.sized_models import MODELS

SOME = ("tied table", "read by others", "same in branches", "convolutions", "recurrent", "bf16")


@pytest.mark.parametrize("target", ["npu", "onnx"])
@pytest.mark.parametrize("name", SOME)
def test_what_is_told_of_a_mixed_plan_is_stored(name: str, target: str, tmp_path: Path) -> None:
    proto, feeds = MODELS[name]()
    onnx.save(proto, tmp_path / "m.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = import_onnx(tmp_path / "m.onnx")
        space = read_space("npu", target="npu" if target == "npu" else None)
        simulator = Simulator(graph, space, make_batches(feeds, batch_size=4))
        graph = simulator.graph
        choices = [np.flatnonzero(row)[::-1] for row in simulator.allowed]
        point = Point(tuple(int(row[g % len(row)]) for g, row in enumerate(choices)), {})
        plan = make_plan(point, simulator)
        export_plan(plan, tmp_path / "m.onnx", tmp_path / "out", target=target)
    model = find_model(tmp_path / "out")
    found = check_size(plan, graph, tmp_path / "out", model, Limits())
    assert found.verdict == "pass", found
    assert found.value is not None
    assert found.value <= 0.02
    tight = check_size(plan, graph, tmp_path / "out", model, Limits(size_tolerance=-1.0))
    assert tight.verdict == "fail"
