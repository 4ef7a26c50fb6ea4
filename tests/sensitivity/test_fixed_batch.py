"""A model whose batch is fixed scores as the same model does whose batch is free: what fills a run up counts nowhere."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from mpsearch.data.batches import make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.problem.tables import Table
from mpsearch.registry import list_names
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.simulate.simulator import Simulator
from tests.support.small_models import random_weights, space_of, write_mlp

ROWS = 4


def score(path: Path, metric: str, n: int) -> Table:
    x = np.random.default_rng(2).standard_normal((n, 12), dtype=np.float32)
    batches = make_batches({"x": x}, batch_size=ROWS)
    simulator = Simulator(import_onnx(path), space_of("fp32", "fp8", "nvfp4"), batches)
    return score_sensitivity(simulator, metric=metric, seed=3)


@pytest.mark.parametrize("n", [12, 10])
@pytest.mark.parametrize("metric", list_names("metrics"))
def test_what_fills_a_fixed_batch_up_counts_nowhere(metric: str, n: int, tmp_path: Path) -> None:
    free = write_mlp(tmp_path / "free.onnx", random_weights(12, 16, 5))
    proto = onnx.load(free)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = ROWS
    fixed = tmp_path / "fixed.onnx"
    onnx.save(proto, fixed)
    assert import_onnx(fixed).inputs[0].shape == (ROWS, 12)
    found, expected = score(fixed, metric, n), score(free, metric, n)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-3, atol=1e-9)
