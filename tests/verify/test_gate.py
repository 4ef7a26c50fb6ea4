"""The deployment gate: each check passes on a sound export and fails on the fault that it is there for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mpsearch.data.batches import Batches, make_batches
from mpsearch.errors import ArtifactError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.files import write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.schemes import Scheme, Spec, find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Estimate
from mpsearch.verify.gate import Gate, GateCheck, Limits, read_gate
from mpsearch.verify.gate_inputs import check_determinism
from mpsearch.verify.opened import Opened, open_export
from mpsearch.verify.run_gate import run_gate
from tests.support.command_line import Mpsearch
from tests.support.small_models import random_weights, write_mlp

LIVE = Scheme("live", Spec("e4m3", "channel"), Spec("e4m3", range="dynamic"))


def samples(n: int = 48, seed: int = 1, scale: float = 1.0) -> Batches:
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((n, 16))).astype(np.float32)
    x[::5] *= 3
    labels = rng.integers(0, 6, n)
    return make_batches({"x": x, "labels": labels, "slice": np.array(["day", "night"] * (n // 2))})


@dataclass(frozen=True)
class Case:
    plan: Plan
    model: Path
    folder: Path


def make(folder: Path, scheme: Scheme) -> Case:
    model = write_mlp(folder / "mlp.onnx", random_weights(16, 24, 24, 6))
    space = SearchSpace("s", (find_scheme("fp16"), scheme))
    data = replace(samples(), labels=None, slice=None)
    simulator = Simulator(import_onnx(model), space, data)
    chosen = (1,) * len(simulator.groups)
    measured = simulator.loss(np.array(chosen))
    plan = make_plan(Point(chosen, {}, measured={"loss": measured}), simulator)
    plan = replace(plan, fallback="safer.json")
    export_plan(plan, model, folder / "out")
    return Case(plan, model, folder / "out")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("sound"), find_scheme("fp8"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("wide"), find_scheme("nvfp4a16"))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("live"), LIVE)


def judge(case: Case, data: Batches | None = None, **limits: Any) -> dict[str, GateCheck]:
    limits = {"loss": "kl", **limits}
    data = samples(seed=2) if data is None else data
    found = run_gate(case.plan, case.model, case.folder, data, limits=Limits(**limits))
    assert [check.name for check in found.checks] == NAMES
    return {check.name: check for check in found.checks}


NAMES = [
    *("layers", "batch size", "determinism", "zeros", "constant", "huge", "denormal"),
    *("overflow", "loss", "accuracy", "worst slice", "coverage", "size"),
]


def test_a_sound_export_passes_every_check(sound: Case) -> None:
    found = judge(sound, max_drop=0.2)
    assert {name: c.verdict for name, c in found.items()} == dict.fromkeys(NAMES, "pass"), found
    assert found["loss"].value is not None
    assert found["loss"].value > 0


def test_a_live_range_of_the_whole_tensor_fails_at_the_batch_size(live: Case) -> None:
    found = judge(live)
    check = found["batch size"]
    assert check.verdict == "fail"
    assert "live ranges of whole tensors: fc0" in check.detail
    assert found["layers"].verdict == found["determinism"].verdict == "pass"


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("loss", {"max_loss": 1e-9}),
        ("accuracy", {"max_drop": -0.5}),
        ("worst slice", {"max_slice_ratio": -50.0}),
        ("coverage", {"min_coverage": 1.01}),
    ],
)
def test_a_check_fails_beyond_its_limit(
    sound: Case, name: str, limits: Mapping[str, float]
) -> None:
    found = judge(sound, **limits)
    assert found[name].verdict == "fail", found[name]


def test_inputs_that_overflow_the_base_fail_and_name_the_layer(wide: Case) -> None:
    assert judge(wide)["huge"].verdict == "pass"
    found = judge(wide, extreme_factor=1e6)["huge"]
    assert found.verdict == "fail"
    assert "first after 'fc0'" in found.detail


def test_a_loss_far_above_the_plans_own_fails(sound: Case) -> None:
    flattered = replace(sound.plan, measured={"loss": Estimate(1e-7, 1e-8)})
    found = judge(replace(sound, plan=flattered), samples(480))
    assert found["loss"].verdict == "fail"
    assert "the plan measured" in found["loss"].detail


def test_a_slice_that_fares_worse_is_named(sound: Case) -> None:
    data = samples(n=2400, seed=3)
    assert data.slice is not None
    x = np.asarray(data.arrays["x"]).copy()
    x[data.slice == "night"] *= 6
    found = judge(sound, replace(data, arrays={"x": x}), max_slice_ratio=1.2)
    assert found["worst slice"].verdict == "fail", found["worst slice"]
    assert "'night'" in found["worst slice"].detail


def test_values_beyond_the_base_fail_as_overflow_and_name_the_layer(wide: Case) -> None:
    found = judge(wide, samples(scale=1e6))
    assert found["overflow"].verdict == found["layers"].verdict == "fail"
    assert "fc0" in found["overflow"].detail


def test_a_size_that_is_not_what_is_stored_fails(sound: Case) -> None:
    told = replace(sound.plan, predicted={"weight_bytes": Estimate(100.0)})
    assert judge(replace(sound, plan=told))["size"].verdict == "fail"


class Noisy:
    """A runtime that never gives the same twice."""

    def __init__(self, opened: Opened) -> None:
        self.own, self.rng = opened.session, np.random.default_rng(0)
        self.rounding, self.note, self.is_standard = opened.session.rounding, "", False

    def run(self, inputs: Any, outputs: Any) -> dict[str, NDArray[Any]]:
        found = self.own.run(inputs, outputs)
        return {k: x + 1e-6 * self.rng.random(x.shape).astype(x.dtype) for k, x in found.items()}


def test_a_runtime_that_gives_something_else_each_time_fails(sound: Case) -> None:
    with open_export(sound.plan, sound.model, sound.folder, samples(), "reference") as opened:
        assert check_determinism(opened).verdict == "pass"
        found = check_determinism(replace(opened, session=Noisy(opened)))
    assert found.verdict == "fail"
    assert found.value == pytest.approx(1e-6, rel=0.5)


def test_what_cannot_be_checked_is_skipped_and_says_why(sound: Case) -> None:
    data = replace(samples(), labels=None, slice=None)
    found = judge(replace(sound, plan=replace(sound.plan, measured={})), data)
    skipped = {name: check.detail for name, check in found.items() if check.verdict == "skipped"}
    assert skipped.keys() == {"loss", "accuracy", "worst slice"}
    assert "give --max-loss" in skipped["loss"]
    other = replace(sound.plan, unit="relative MSE")
    check = judge(replace(sound, plan=other), data)["loss"]
    assert check.verdict == "skipped"
    assert "the plan's loss is in relative MSE" in check.detail
    assert "labels" in skipped["accuracy"]
    assert "slice" in skipped["worst slice"]


def test_the_file_beside_the_export_says_the_same(sound: Case) -> None:
    found = run_gate(sound.plan, sound.model, sound.folder, samples(), limits=Limits(max_loss=0.0))
    assert read_gate(sound.folder / "gate.json") == found
    envelope = json.loads((sound.folder / "gate.json").read_text())
    assert (envelope["schema"], envelope["version"]) == ("mpsearch.gate", 1)
    assert envelope["content"]["ok"] is False
    assert envelope["content"]["limits"]["max_loss"] == 0.0
    assert envelope["inputs"].keys() == {"data", "plan"}
    (sound.folder / "gate.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"gate\.json"):
        read_gate(sound.folder / "gate.json")


def test_a_gate_without_a_fallback_says_how_to_find_one() -> None:
    gate = Gate("m.onnx", "reference", 1, (GateCheck("loss", "fail", 1.0, 0.5),))
    assert "no fallback" in gate.verdict
    assert replace(gate, fallback="safe.json").verdict.endswith("fall back to safe.json")


def test_the_command_says_pass_or_fail_by_its_exit_code(
    sound: Case, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    data = samples()
    np.savez(tmp_path / "d.npz", x=data.arrays["x"])
    write_plan(sound.plan, sound.folder / "plan.json")
    asked = ["verify", sound.folder, "--model", sound.model, "--data", tmp_path / "d.npz", "--gate"]
    found = mpsearch(*asked)
    assert found.code == 0, found.err
    assert "all checks passed" in found.out
    found = mpsearch(*asked, "--max-loss", "0", "--json")
    assert found.code == 1
    assert "fall back to safer.json" in found.err.splitlines()[-1]
    assert json.loads(found.out)["ok"] is False
