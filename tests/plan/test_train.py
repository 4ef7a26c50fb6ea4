"""A plan is trained, from Python and from the command line: its file then holds what loses less."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.errors import PlanError
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.match import plan_assignment
from mpsearch.plan.plan import Plan
from mpsearch.plan.score import measure_plan, simulate_plan
from mpsearch.plan.train import run_training
from mpsearch.recovery.training import checkpoint
from mpsearch.recovery.training.loop import Effort
from mpsearch.recovery.training.recipe import Recipe
from mpsearch.schemes import find_scheme
from tests.support.command_line import Mpsearch
from tests.support.tiny_job import draw, write_model

SPACE = mp.SearchSpace(
    "s", tuple(map(find_scheme, ("fp16", "fp8", "nvfp4", "int8", "nvfp4_2of4"))), "fp16"
)


def made(folder: Path, *, labels: bool = False) -> tuple[Path, mp.Simulator, Plan]:
    """A model, a simulator of it on data of its own, and a plan."""
    model = write_model(folder / "tiny.onnx")
    arrays = draw(160, seed=0)
    simulator = mp.Simulator(mp.import_onnx(model), SPACE, make_batches(arrays, batch_size=32))
    if labels:
        (answers,) = simulator.run({"x": arrays["x"]}).values()
        arrays |= {"labels": answers.argmax(1).numpy()}
        simulator = simulator.on_data(make_batches(arrays, batch_size=32))
    plan = mp.make_plan(mp.Point((3, 2, 4, 1), {}), simulator)
    write_plan(plan, folder / "plan.json")
    return model, simulator, plan


@pytest.mark.parametrize("labels", [False, True])
def test_a_trained_plan_loses_less_on_other_data_and_its_file_says_so(
    tmp_path: Path, labels: bool
) -> None:
    model, simulator, plan = made(tmp_path, labels=labels)
    trained = mp.train_plan(plan, simulator, minutes=5, steps=120)
    assert trained.recovery == ("train",)
    assert "weights" in trained.requires
    write_plan(trained, tmp_path / "trained.json")
    other = make_batches(draw(300, seed=5))
    losses = [
        measure_plan(read_plan(tmp_path / f"{name}.json"), model, other).loss.mean
        for name in ("plan", "trained")
    ]
    assert losses[1] < (1 if labels else 0.8) * losses[0]  # labels ask for more than the fp32 model


def test_learned_ranges_are_the_plan_s_own(tmp_path: Path) -> None:
    _, simulator, plan = made(tmp_path)
    trained = mp.train_plan(plan, simulator, minutes=5, steps=60, recipe=Recipe(scale_rate=0.01))
    before = {(r.value, r.spec): r.range.scale for r in plan.ranges}
    after = {(r.value, r.spec): r.range.scale for r in trained.ranges}
    assert before.keys() == after.keys()
    whole = [key for key in before if key[1].granularity == "tensor"]
    assert whole
    assert any(before[key] != after[key] for key in whole)


@pytest.mark.parametrize("runtime", ["reference", "openvino"])
def test_a_trained_plan_exports_and_verifies(tmp_path: Path, runtime: str) -> None:
    if runtime != "reference":
        pytest.importorskip(runtime)
    model, simulator, plan = made(tmp_path)
    trained = mp.train_plan(plan, simulator, minutes=5, steps=40)
    mp.export_plan(trained, model, tmp_path / "out")
    data = make_batches(draw(4, seed=3), batch_size=4)
    found = mp.verify_plan(trained, model, tmp_path / "out", data, runtime=runtime)
    assert found.ok, found.difference


def test_what_a_plan_brings_is_trained_and_stays_where_it_is_not(tmp_path: Path) -> None:
    _, simulator, plan = made(tmp_path)
    recovered = mp.recover_plan(plan, simulator, methods="gptq,bias")
    assert recovered.weights is not None
    done = run_training(recovered, simulator, Effort(300, 40))
    assert done.after.mean <= done.before.mean
    if done.plan is not recovered:
        assert done.plan.recovery == (*recovered.recovery, "train")
        assert {change.site for change in done.plan.changes}
    own = simulate_plan(done.plan, simulator.graph, simulator.batches)
    losses = own.losses(plan_assignment(done.plan, own.graph, own.space))
    assert losses[4::5].mean() == pytest.approx(done.after.mean, rel=1e-3)


def test_training_goes_on_from_what_was_trained(tmp_path: Path) -> None:
    _, simulator, plan = made(tmp_path)
    first = run_training(plan, simulator, Effort(300, 40))
    second = run_training(first.plan, simulator, Effort(300, 40), seed=1)
    assert second.before.mean == pytest.approx(first.after.mean, rel=1e-4)
    assert second.plan.recovery == ("train",)


def test_the_same_seed_trains_the_same_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpsearch.recovery.training import loop

    monkeypatch.setattr(loop, "_EVALUATION_SHARE", 1.0)
    _, simulator, plan = made(tmp_path)
    one, same, other = (
        mp.train_plan(plan, simulator, minutes=5, steps=10, seed=seed).weights for seed in (0, 0, 1)
    )
    assert one is not None
    assert one == same
    assert one != other


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    _, simulator, plan = made(tmp_path)
    with pytest.raises(PlanError, match="must have some time"):
        mp.train_plan(plan, simulator, minutes=0)
    with pytest.raises(PlanError, match="made for"):
        mp.train_plan(replace(plan, structure_digest="0" * 64), simulator)
    with pytest.raises(PlanError, match="weights"):
        mp.train_plan(replace(plan, weights_digest="0" * 64), simulator)


def test_the_command_writes_a_trained_plan(tmp_path: Path, mpsearch: Mpsearch) -> None:
    model, _, _ = made(tmp_path)
    np.savez(tmp_path / "data.npz", **draw(160, seed=1))
    out = tmp_path / "trained.json"
    common = ("train", tmp_path / "plan.json", "-m", model, "-d", tmp_path / "data.npz", "-o", out)
    done = mpsearch(*common, "--steps", 40, "--minutes", 5, "--set", "rate=0.005", "--json")
    assert done.code == 0, done.err
    said = done.json
    assert said["steps"] == 40
    assert said["changed"]
    assert said["held_out"]["after"]["mean"] < said["held_out"]["before"]["mean"]
    assert read_plan(out).weights is not None
    assert not checkpoint.checkpoint_file(out).exists()
    for more, message in (
        (("--set", "speed=1"), "has no setting 'speed'"),
        (("--minutes", "0"), "must have some time"),
        (("-o", tmp_path / "nowhere" / "p.json"), "--out must be"),
    ):
        failed = mpsearch(*common, *more)
        assert failed.code == 1
        assert message in failed.err


def test_ctrl_c_writes_the_best_so_far_and_the_command_goes_on(
    tmp_path: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, _ = made(tmp_path)
    np.savez(tmp_path / "data.npz", **draw(160, seed=1))
    out = tmp_path / "trained.json"
    common = ("train", tmp_path / "plan.json", "-m", model, "-d", tmp_path / "data.npz", "-o", out)
    from mpsearch.recovery.training import loop

    whole: Callable[..., Any] = loop._Training.keep_better
    calls = 0

    def stopped(self: Any) -> None:
        nonlocal calls
        calls += 1
        whole(self)
        if calls == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Training, "keep_better", stopped)
    first = mpsearch(*common, "--steps", 40)
    assert first.code == 130
    assert "the best so far is in trained.json" in first.err
    read_plan(out)
    assert checkpoint.checkpoint_file(out).exists()
    monkeypatch.setattr(loop._Training, "keep_better", whole)
    second = mpsearch(*common, "--steps", 40, "--json")
    assert second.code == 0
    assert second.json["steps"] == 40
    assert not checkpoint.checkpoint_file(out).exists()
