"""``mpsearch recover``: from a plan to one that loses less on other data, exported and verified."""

from pathlib import Path

import numpy as np
import pytest

import mpsearch as mp
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.plan import plan_space
from tests.support.command_line import SEARCH, Mpsearch
from tests.support.tiny_job import draw, write_model


@pytest.fixture(scope="module")
def planned(tiny: Path, mpsearch: Mpsearch) -> Path:
    """A folder with the model, data and a plan in four bits."""
    run = tiny / "four_bits"
    command = [*SEARCH(tiny), "--refine", 0, "--schemes", "fp8,nvfp4", "-o", run]
    assert mpsearch(*command).code == 0
    np.savez(tiny / "many.npz", **draw(96, seed=3))
    return run / "plans/uniform_nvfp4.json"


@pytest.fixture(scope="module")
def recovered(tiny: Path, planned: Path, mpsearch: Mpsearch) -> Path:
    out = tiny / "recovered.json"
    command = ["recover", planned, "--model", tiny / "tiny.onnx", "--data", tiny / "many.npz"]
    found = mpsearch(*command, "-o", out, "--json")
    assert found.code == 0, found.err
    assert found.json["methods"] == ["gptq", "bias"]
    assert found.json["after"]["mean"] < 0.8 * found.json["before"]["mean"]
    assert found.json["judged_on"] == 24
    assert set(found.json["tried"]) == {"gptq+bias"}
    return out


def test_a_recovered_plan_loses_less_on_data_that_it_never_saw(
    tiny: Path, planned: Path, recovered: Path, mpsearch: Mpsearch
) -> None:
    scored = [
        mpsearch(
            "score",
            plan,
            "--model",
            tiny / "tiny.onnx",
            "--data",
            tiny / "held.npz",
            "--loss",
            "kl",
            "--json",
        )
        for plan in (planned, recovered)
    ]
    before, after = (found.json["loss"]["mean"] for found in scored)
    assert after < 0.9 * before
    plan = read_plan(recovered)
    assert plan.recovery == ("gptq", "bias")
    assert plan.changes
    assert all(change.error_after < change.error_before for change in plan.changes)


def test_what_was_recovered_is_exported_and_runs(
    tiny: Path, recovered: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    model = ["--model", tiny / "tiny.onnx"]
    exported = mpsearch("export", recovered, *model, "-o", tmp_path / "out")
    assert exported.code == 0, exported.err
    checked = mpsearch("verify", tmp_path / "out", *model, "--data", tiny / "held.npz", "--json")
    assert checked.code == 0, checked.err
    assert checked.json["ok"]


def test_python_gives_what_the_command_line_gives(
    tiny: Path, planned: Path, recovered: Path, tmp_path: Path
) -> None:
    plan = read_plan(planned)
    graph = mp.import_onnx(tiny / "tiny.onnx")
    simulator = mp.Simulator(graph, plan_space(plan), mp.read_batches(tiny / "many.npz"))
    made = mp.recover_plan(plan, simulator)
    write_plan(made, tmp_path / "made.json")
    assert read_plan(tmp_path / "made.json").weights == read_plan(recovered).weights
    assert mp.recover_plan(plan, simulator, methods="none") == plan


def test_recovered_plans_can_be_recovered_again(
    tiny: Path, recovered: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    command = ["recover", recovered, "--model", tiny / "tiny.onnx", "--data", tiny / "many.npz"]
    found = mpsearch(*command, "--methods", "bias", "-o", tmp_path / "again.json", "--json")
    assert found.code == 0, found.err
    assert found.json["after"]["mean"] <= found.json["before"]["mean"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--methods", "magic"], "method of recovery must be one of gptq"),
        (["--model", "other.onnx"], "must be used with the weights that it was made for"),
        (["--data", "wrong.npz"], "wrong.npz"),
    ],
)
def test_a_mistake_is_one_line_and_the_plan_that_was_there_stays_whole(
    tiny: Path, planned: Path, recovered: Path, mpsearch: Mpsearch, change: list[str], message: str
) -> None:
    if not (tiny / "other.onnx").exists():
        write_model(tiny / "other.onnx", seed=5)
        np.savez(tiny / "wrong.npz", z=np.zeros((4, 3), np.float32))
    before = {p.name: p.read_bytes() for p in tiny.iterdir() if p.name.startswith("recovered")}
    options = {"--model": "tiny.onnx", "--data": "many.npz"} | dict([change])
    files = ("--model", "--data")
    command = [part for k, v in options.items() for part in (k, tiny / v if k in files else v)]
    found = mpsearch("recover", planned, *command, "-o", recovered)
    assert found.code == 1
    assert message in found.err
    assert len(found.err.strip().splitlines()) == 1
    after = {p.name: p.read_bytes() for p in tiny.iterdir() if p.name.startswith("recovered")}
    assert before == after


def test_without_time_the_plan_stays_as_it_is(
    tiny: Path, planned: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    command = ["recover", planned, "--model", tiny / "tiny.onnx", "--data", tiny / "many.npz"]
    found = mpsearch(*command, "--minutes", 0, "-o", tmp_path / "same.json", "--json")
    assert found.code == 0, found.err
    assert found.json["methods"] == []
    assert read_plan(tmp_path / "same.json").decisions == read_plan(planned).decisions
