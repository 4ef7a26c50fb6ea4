"""What goes wrong is named: gradients without end, schemes that overflow, budgets that do not reach."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.errors import NumericsError
from mpsearch.graph.importer import import_onnx
from mpsearch.registry import list_names
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.sqnr import decibels
from mpsearch.simulate.simulator import Simulator
from tests.support.small_models import mlp_simulator, random_weights, space_of

BACKWARD = ("fisher", "gradient", "hessian", "gauss_newton", "eigenvalue", "calibrated")


def square_root_simulator(folder: Path) -> Simulator:
    """The root of a square: at zero an infinite slope times none, in every second unit."""
    first, second = random_weights(8, 8, 3)
    first[:, ::2] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("Mul", ["a", "a"], ["r"], "square"),
        helper.make_node("Sqrt", ["r"], ["s"], "root"),
        helper.make_node("MatMul", ["s", "w1"], ["b"], "second"),
        helper.make_node("Softmax", ["b"], ["y"], "softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "root",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate((first, second))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "root.onnx")
    x = np.random.default_rng(0).standard_normal((12, 8), dtype=np.float32)
    space = space_of("fp32", "fp8", "nvfp4")
    graph_value = import_onnx(folder / "root.onnx")
    return Simulator(graph_value, space, make_batches({"x": x}), device="cpu")


@pytest.mark.parametrize("metric", BACKWARD)
def test_a_gradient_that_is_not_finite_names_its_layer_or_weight(
    metric: str, tmp_path: Path
) -> None:
    with pytest.raises(NumericsError, match=r"first|w0") as error:
        score_sensitivity(square_root_simulator(tmp_path), metric=metric, budget=3)
    assert "\n" not in str(error.value)


def test_metrics_without_gradients_score_such_a_model(tmp_path: Path) -> None:
    simulator = square_root_simulator(tmp_path)
    for metric in ("perturbation", "sqnr", "output_perturbation", "calibrated"):
        assert (score_sensitivity(simulator, metric=metric).values[:, 1:] > 0).all()


def brim_simulator(folder: Path) -> Simulator:
    """The first layer's output fits fp16 in fp32 and not when its weights are rounded to fp8."""
    rng = np.random.default_rng(0)
    first, second = random_weights(16, 16, 3)
    first = np.abs(first)
    x = np.abs(rng.standard_normal((12, 16), dtype=np.float32))
    first *= np.float32(65500 / (x @ first).max())
    return mlp_simulator(
        folder, [first, second * np.float32(1e-5)], schemes=("fp16", "fp8", "nvfp4"), x=x
    )


@pytest.mark.parametrize("metric", list_names("metrics"))
def test_what_overflows_only_in_a_scheme_is_refused_by_name_and_the_rest_is_scored(
    metric: str, tmp_path: Path
) -> None:
    simulator = brim_simulator(tmp_path)
    refused = []
    for s in (1, 2):
        try:
            simulator.losses(np.array([s, 0]))
        except NumericsError:
            refused.append(s)
    assert refused, "the case must overflow in a scheme"
    table = score_sensitivity(simulator, metric=metric)
    assert np.isfinite(table.values).all()
    assert np.isfinite(table.stderr).all()
    assert (table.values[1, 1:] > 0).all()
    if metric in ("perturbation", "kl", "fisher", "calibrated"):
        assert not table.allowed[0, refused].any()
        reason = table.reasons["fc0", table.schemes[refused[0]]]
        assert "overflows on the data" in reason
        assert "fc0" in reason


@pytest.mark.filterwarnings("ignore::mpsearch.simulate.observation.SilentActivationWarning")
def test_a_dead_branch_is_zero_where_its_neighbours_are_not(tmp_path: Path) -> None:
    weights = random_weights(16, 8, 8, 3)
    weights[1][:] = 0
    simulator = mlp_simulator(tmp_path, weights)
    for metric in ("sqnr", "fisher", "perturbation", "gradient"):
        table = score_sensitivity(simulator, metric=metric)
        assert table.details.get("weight_noise", table.values)[1, 1:].tolist() == [0, 0]
    ratio = decibels(score_sensitivity(simulator, metric="sqnr").details["weight_noise"])
    assert np.isnan(ratio[1]).all()  # no noise: shown as a dash, never as infinite decibels
    assert np.isfinite(ratio[0, 1:]).all()


@pytest.mark.parametrize("metric", ["perturbation", "fisher", "sqnr", "calibrated"])
def test_a_scheme_that_overflows_is_not_scored_and_says_where(metric: str, tmp_path: Path) -> None:
    first, second = random_weights(16, 8, 3)
    weights = [first * np.float32(1e6), second * np.float32(1e-6)]
    simulator = mlp_simulator(tmp_path, weights, schemes=("fp32", "fp16", "fp8"))
    table = score_sensitivity(simulator, metric=metric)
    assert table.allowed.tolist() == [[True, False, True], [True, False, True]]
    assert (table.values[:, 1] == 0).all()
    assert "fc0" in table.reasons["fc0", "fp16"]
    assert (table.values[:, 2] > 0).all()
