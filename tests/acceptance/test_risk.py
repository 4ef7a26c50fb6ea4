"""Confidence, quality and time budgets on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import SEARCH, Mpsearch
from tests.support.tiny_job import draw


@pytest.fixture(scope="module")
def labelled(tiny: Path) -> Path:
    """Held-out data whose labels are the tiny model's own answers: lossless plans lose nothing."""
    import onnxruntime

    arrays = draw(600, seed=5)
    session = onnxruntime.InferenceSession(tiny / "tiny.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"x": arrays["x"]})
    path = tiny / "labelled.npz"
    np.savez(path, **arrays, labels=scores.argmax(axis=1))
    return path


def test_a_plan_is_chosen_that_keeps_accuracy_and_the_tests_are_reported(
    tiny: Path, labelled: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    command = [*SEARCH(tiny), "--eval", labelled, "--quality", "accuracy", "--max-drop", "0.05"]
    found = mpsearch(*command, "-o", tmp_path / "run", "--json")
    assert found.code == 0, found.err
    tests = found.json["quality"]
    assert [test["verdict"] for test in tests].count("kept") >= 1
    kept = [test for test in tests if test["verdict"] == "kept"][-1]
    assert kept["upper"] <= 0.05
    assert kept["samples"] == 600
    plans = {row["label"].split(" ")[0]: row for row in found.json["rows"]}
    assert plans["mixed"]["latency_us"] == pytest.approx(kept["latency_us"])
    fall = (
        plans["fp32"]["held_out"]["accuracy"]["mean"]
        - plans["mixed"]["held_out"]["accuracy"]["mean"]
    )
    assert fall == pytest.approx(kept["drop"])
    assert any("accuracy: kept (drop" in note for note in found.json["notes"])
    assert "accuracy: kept (drop" in (tmp_path / "run" / "report.html").read_text()


def test_too_few_held_out_samples_say_how_many_would_decide(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    command = [*SEARCH(tiny), "--eval", tiny / "held.npz", "--quality", "accuracy"]
    found = mpsearch(*command, "--max-drop", "0.001", "-o", tmp_path / "run")
    assert found.code == 1
    assert "no plan is known to keep accuracy down by at most 0.001" in found.err
    assert "samples would decide" in found.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quality", "accuracy"], "given together"),
        (["--quality", "accuracy", "--max-drop", "0.1"], "--eval"),
        (["--confidence", "0.2"], "0.5 <= confidence"),
        (["--quality", "accuracy", "--max-drop", "0.1", "--max-loss", "1"], "one of them"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch, options: list[str], message: str
) -> None:
    found = mpsearch(*SEARCH(tiny), *options, "-o", tmp_path / "run")
    assert found.code == 1
    assert message in found.err
    assert not (tmp_path / "run").exists()


def test_with_confidence_the_chosen_plan_s_bound_keeps_the_limit(
    tiny: Path, finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    losses = [
        row["measured"]["loss"]
        for row in json.loads((finished / "run.json").read_text())["content"]["results"]["rows"]
        if "loss" in row["measured"]
    ]
    limit = max(loss[0] for loss in losses) * 0.5
    chosen = {}
    for confidence in ("0", "0.95"):
        out = tmp_path / f"run{confidence}"
        found = mpsearch(
            *SEARCH(tiny),
            *("--device", "h100_sxm5_80gb", "--max-loss", limit),
            *("--confidence", confidence, "-o", out, "--json"),
        )
        assert found.code == 0, found.err
        chosen[confidence] = next(r for r in found.json["rows"] if r["label"] == "mixed")
    sure = chosen["0.95"]["measured"]["loss"]
    assert sure["mean"] + 1.6449 * sure["stderr"] <= limit
    assert chosen["0"]["latency_us"] <= chosen["0.95"]["latency_us"]


def test_a_time_budget_still_gives_a_run(tiny: Path, tmp_path: Path, mpsearch: Mpsearch) -> None:
    command = [*SEARCH(tiny), "--method", "nsga2", "--budget", 10_000, "--time-budget", "1"]
    found = mpsearch(*command, "-o", tmp_path / "run", "--json")
    assert found.code == 0, found.err
    assert found.json["front"]["measured"] >= 1


OWN = """
def margin(outputs, batch):
    y = outputs["y"]
    return y.max(axis=1)


def surprise(outputs, batch):
    return 1 - outputs["y"].max(axis=1)


surprise.higher_is_better = False
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_quality.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own_code")
def test_a_function_of_the_user_s_own_is_kept(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    found = {}
    for name in ("margin", "surprise"):
        options = ["--quality", f"own_quality:{name}", "--max-drop", "0.02"]
        command = [*SEARCH(tiny), "--eval", tiny / "held.npz", *options]
        result = mpsearch(*command, "-o", tmp_path / name, "--json")
        assert result.code == 0, result.err
        found[name] = result.json
    tests = found["margin"]["quality"]
    assert tests == [pytest.approx(test, abs=1e-6) for test in found["surprise"]["quality"]]
    plans = {row["label"].split(" ")[0]: row["held_out"] for row in found["margin"]["rows"]}
    scores = [plans[k]["own_quality:margin"]["mean"] for k in ("fp32", "mixed")]
    kept = [test for test in tests if test["verdict"] == "kept"][-1]
    assert scores[0] - scores[1] == pytest.approx(kept["drop"], abs=1e-9)


@pytest.mark.usefixtures("own_code")
def test_code_that_a_job_file_names_is_run_only_if_trusted(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    job = tiny / "own.job.toml"
    job.write_text(
        'model = "tiny.onnx"\ndata = "calib.npz"\neval = "held.npz"\ndevice = "npu_200tops"\n'
        'quality = "own_quality:margin"\nmax_drop = 0.5\nrefine = 0\nmeasure = 2\n'
    )
    refused = mpsearch("search", job, "-o", tmp_path / "run")
    assert refused.code == 1
    assert "own_quality:margin" in refused.err
    assert "--trust-code" in refused.err
    assert not (tmp_path / "run").exists()
    assert mpsearch("search", job, "-o", tmp_path / "run", "--trust-code").code == 0
    job.write_text(job.read_text().replace("margin", "margin2"))
    told = mpsearch("search", job, "--quality", "own_quality:margin", "-o", tmp_path / "run2")
    assert told.code == 0, told.err


def test_a_loss_that_is_code_is_trusted_like_a_quality(tiny: Path, mpsearch: Mpsearch) -> None:
    job = tiny / "loss.job.toml"
    job.write_text(
        'model = "tiny.onnx"\ndata = "calib.npz"\ndevice = "npu_200tops"\n'
        'loss = "quality:os.path:join"\n'
    )
    for command in ("search", "sensitivity"):
        refused = mpsearch(command, job)
        assert refused.code == 1
        assert "--trust-code" in refused.err
