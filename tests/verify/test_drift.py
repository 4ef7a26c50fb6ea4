"""New data against a plan: which ranges they leave, what clipping costs, and whether the loss still holds."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mpsearch.data.batches import Batches, make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.numerics.quantize import fake_quantize
from mpsearch.plan.files import write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.schemes import Spec, find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.verify.drift import find_drift
from tests.support.command_line import Mpsearch
from tests.support.small_models import random_weights, write_mlp

WEIGHTS = random_weights(16, 24, 24, 6)
SCALE = 6.0


def data(n: int = 200, seed: int = 1, scale: float = 1.0) -> Batches:
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 16)).astype(np.float32)
    return make_batches({"x": np.float32(scale) * x})


@dataclass(frozen=True)
class Case:
    plan: Plan
    model: Path


def make(folder: Path, *schemes: str) -> Case:
    model = write_mlp(folder / "mlp.onnx", WEIGHTS)
    names = dict.fromkeys(("fp16", *schemes))
    space = SearchSpace("s", tuple(map(find_scheme, names)))
    simulator = Simulator(import_onnx(model), space, data())
    chosen = tuple(space.index(name) for name in schemes)
    point = Point(chosen, {}, measured={"loss": simulator.loss(np.array(chosen))})
    return Case(replace(make_plan(point, simulator), fallback="safer.json"), model)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("drift"), "int8", "nvfp4", "fp16")


def test_data_like_the_calibration_leave_little_and_the_loss_holds(case: Case) -> None:
    found = find_drift(case.plan, case.model, data(seed=2))
    assert found.holds
    assert [d.layer for d in found.layers] == ["fc0", "fc1"]
    assert all(d.factor < 1.3 for d in found.layers)
    assert all(d.clipped < 0.01 for d in found.layers)


def test_the_calibration_data_themselves_leave_nothing(case: Case) -> None:
    found = find_drift(case.plan, case.model, data())
    assert found.leaving == ()
    assert [d.error_added for d in found.layers] == [0.0, 0.0]
    assert found.loss.mean == pytest.approx(case.plan.measured["loss"].mean, rel=1e-6)


def fp32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(x @ WEIGHTS[0], 0)


def test_shares_factors_and_errors_are_those_of_a_computation_by_hand(case: Case) -> None:
    new = data(seed=2, scale=SCALE)
    first = find_drift(case.plan, case.model, new).layers[0]
    old, x = (np.asarray(b.arrays["x"]) for b in (data(), new))
    amax = float(np.abs(old).max())
    assert first.factor == pytest.approx(np.abs(x).max() / amax)
    assert (first.calibrated_high, first.high) == (float(old.max()), float(x.max()))
    assert first.clipped == pytest.approx((np.abs(x) > amax).mean(), abs=1e-3)
    assert first.beyond == pytest.approx(first.factor, rel=1e-4)
    weight = fake_quantize(torch.from_numpy(WEIGHTS[0].T), Spec("int8", "token"), axis=1).T
    want = x @ WEIGHTS[0]

    def error(step: float) -> float:
        rounded = np.clip(np.rint(x / np.float32(step)), -127, 127) * np.float32(step)
        got = (rounded @ weight.numpy()).astype(np.float16)
        return float(((got - want) ** 2).sum() / (want**2).sum())

    planned, followed = error(amax / 127), error(np.abs(x).max() / 127)
    assert first.error == pytest.approx(planned, rel=1e-2)
    assert first.error_added == pytest.approx(planned - followed, rel=1e-2)


def test_the_tensor_scale_of_blocks_clips_where_their_scales_end(case: Case) -> None:
    new = data(seed=2, scale=SCALE)
    second = find_drift(case.plan, case.model, new).layers[1]
    old, x = (fp32(np.asarray(b.arrays["x"])) for b in (data(), new))
    assert second.factor == pytest.approx(x.max() / old.max(), rel=1e-5)
    assert second.clipped == pytest.approx((x > old.max()).mean(), abs=1e-3)
    assert second.error_added > 0


def test_a_loss_beyond_the_bound_fails_and_names_the_fallback(case: Case) -> None:
    found = find_drift(case.plan, case.model, data(seed=2, scale=SCALE))
    assert found.holds is False
    assert found.bound is not None
    assert found.loss.mean > found.bound
    assert found.verdict.endswith("fall back to safer.json")
    assert found.leaving[0].error_added == max(d.error_added for d in found.layers)


def test_without_a_measured_loss_nothing_is_claimed(case: Case) -> None:
    found = find_drift(replace(case.plan, measured={}), case.model, data())
    assert found.holds is None
    assert "no measured loss" in found.verdict
    other = replace(case.plan, unit="drop of accuracy")
    assert find_drift(other, case.model, data()).holds is None


def test_the_command_fails_where_the_loss_does_not_hold(
    case: Case, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    write_plan(case.plan, tmp_path / "plan.json")
    for name, batches in (("same", data()), ("far", data(scale=SCALE))):
        np.savez(tmp_path / f"{name}.npz", **batches.arrays)
    asked = ["drift", tmp_path / "plan.json", "--model", case.model, "--data"]
    found = mpsearch(*asked, tmp_path / "same.npz")
    assert found.code == 0
    assert "0 ranges are left, 2 hold" in found.out
    found = mpsearch(*asked, tmp_path / "far.npz", "--json")
    assert found.code == 1
    assert len(found.err.strip().splitlines()) == 1
    assert "does not hold" in found.err
    content = json.loads(found.out)
    assert content["holds"] is False
    assert content["layers"][0]["leaves"] is True
