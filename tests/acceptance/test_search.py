"""The whole way on a tiny model: search, resume, choose, export, verify, report."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mpsearch.cli.commands.search.search as search_command
from mpsearch.figures.plan_row import PlanRow
from mpsearch.plan.files import read_plan
from mpsearch.problem.front import read_front
from tests.support.command_line import SEARCH, Mpsearch
from tests.support.tiny_job import draw, write_job


def files(run: Path) -> dict[str, bytes]:
    """What a run must give twice: everything but times and the database's own layout."""
    names = ["job.toml", "graph.json", "costs.json", "sensitivity.json", "front.json"]
    return {name: (run / name).read_bytes() for name in names} | {
        path.name: path.read_bytes() for path in sorted((run / "plans").iterdir())
    }


def test_a_finished_run_holds_every_file_of_the_design(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "job.toml",
        "graph.json",
        "sensitivity.json",
        "costs.json",
        "front.json",
        "evaluations.sqlite",
        "report.html",
        "plans",
        "run.json",
        "log.jsonl",
    }


def test_the_same_job_gives_the_same_files(
    tiny: Path, finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    again = mpsearch(*SEARCH(tiny), "--eval", tiny / "held.npz", "-o", tmp_path / "run")
    assert again.code == 0
    assert files(tmp_path / "run") == files(finished)


def test_no_file_names_this_machine(tiny: Path, finished: Path) -> None:
    for path in finished.rglob("*"):
        if path.is_file():
            assert str(tiny).encode() not in path.read_bytes(), path.name


def test_a_run_of_the_same_job_measures_nothing_again(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command = [*SEARCH(tiny), "--eval", tiny / "held.npz", "-o", run]
    first = mpsearch(*command, "--json")
    before = files(run)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("mpsearch.simulate.runner.Runner.run_batch", forbidden)
    monkeypatch.setattr("mpsearch.simulate.simulator.Simulator.scores", forbidden)
    second = mpsearch(*command, "--json")
    assert second.code == 0
    assert files(run) == before
    assert second.json["rows"] == first.json["rows"]
    assert second.json["evaluations"] == first.json["evaluations"]


def test_json_is_one_document_with_predicted_measured_and_held_out_apart(
    tiny: Path, finished: Path, mpsearch: Mpsearch
) -> None:
    found = mpsearch(*SEARCH(tiny), "--eval", tiny / "held.npz", "-o", finished, "--json").json
    rows = {row["label"]: row for row in found["rows"]}
    assert list(rows)[:3] == ["fp32", "uniform fp16", "uniform fp8"]
    assert rows["fp32"]["predicted"] == rows["fp32"]["measured"] == {}
    assert rows["uniform fp8"]["predicted"]["loss"] != rows["uniform fp8"]["measured"]["loss"]
    assert rows["uniform fp8"]["held_out"].keys() == {"nll", "accuracy"}
    assert found["rank_correlation"]["points"] >= 3
    assert found["plans"]


def test_held_out_scores_of_fp32_are_those_of_onnxruntime(tiny: Path, finished: Path) -> None:
    import onnxruntime

    from mpsearch.runs.record import read_record

    held = draw(40, seed=2, labels=True)
    session = onnxruntime.InferenceSession(tiny / "tiny.onnx", providers=["CPUExecutionProvider"])
    (chances,) = session.run(None, {"x": held["x"]})
    nll = -np.log(chances[np.arange(40), held["labels"]])
    results = read_record(finished).results
    assert results is not None
    row: PlanRow = results.rows[0]
    assert row.scores["nll"].mean == pytest.approx(nll.mean(), rel=1e-5)
    assert row.scores["nll"].stderr == pytest.approx(nll.std(ddof=1) / 40**0.5, rel=1e-5)
    assert row.scores["accuracy"].mean == (chances.argmax(1) == held["labels"]).mean()


def test_the_chosen_plans_keep_what_their_rule_says(finished: Path) -> None:
    from mpsearch.runs.record import read_record

    results = read_record(finished).results
    assert results is not None
    rows = {row.label: row for row in results.rows}
    rival = min(
        (row for label, row in rows.items() if label.startswith("uniform") and "fp16" not in label),
        key=lambda row: row.measured["loss"].mean,
    )
    safe = next(r for label, r in rows.items() if label.startswith("mixed, ") and "safe" in label)
    assert safe.measured["loss"].mean <= rival.measured["loss"].mean
    assert safe.latency_us is not None
    assert rival.latency_us is not None
    assert safe.latency_us <= rival.latency_us


def test_measured_losses_of_the_front_are_those_of_the_simulator(
    tiny: Path, finished: Path
) -> None:
    from mpsearch.data.batches import read_batches
    from mpsearch.graph.importer import import_onnx
    from mpsearch.simulate.simulator import Simulator
    from mpsearch.space.files import read_space

    batches = read_batches(tiny / "calib.npz", batch_size=8)
    simulator = Simulator(import_onnx(tiny / "tiny.onnx"), read_space("npu"), batches)
    measured = [p for p in read_front(finished / "front.json").points if p.measured]
    assert len(measured) >= 4
    for point in measured:
        assert point.measured["loss"] == simulator.loss(np.array(point.assignment))


def test_interrupting_keeps_what_was_measured_and_a_front_of_it(
    tiny: Path,
    finished: Path,
    tmp_path: Path,
    mpsearch: Mpsearch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    command = [*SEARCH(tiny), "--eval", tiny / "held.npz", "-o", run]

    class Stopping:
        def __enter__(self) -> object:
            def watch(stage: str) -> object:
                def told(done: int, total: int, text: str) -> None:
                    if stage == "sensitivity" and done == 5:
                        raise KeyboardInterrupt

                return told

            return watch

        def __exit__(self, *_: object) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(search_command, "progress_bars", Stopping)
        stopped = mpsearch(*command)
    assert stopped.code == 130
    assert "6 evaluations are kept" in stopped.err
    assert len(stopped.err.strip().splitlines()) == 1
    front = read_front(run / "front.json")
    assert front.certificate.startswith("interrupted, over the 5 pairs")
    assert any(point.measured for point in front.points)
    assert not (run / "report.html").exists()

    assert mpsearch("check", run).out.startswith("run: a run that can be used: interrupted")
    assert mpsearch(*command).code == 0
    assert files(run) == files(finished)
    assert json.loads((run / "run.json").read_text())["content"]["interrupted"] is False


def test_a_dry_run_says_how_long_and_writes_nothing(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    found = mpsearch(*SEARCH(tiny), "--dry-run", "--json", "-o", tmp_path / "run")
    assert found.code == 0
    assert found.json["evaluations"] >= 12 + 4
    assert found.json["seconds"] > 0
    full = mpsearch(
        *SEARCH(tiny), "--dry-run", "--budget", "full", "--json", "-o", tmp_path / "run"
    )
    assert full.json["evaluations"] > found.json["evaluations"]
    assert list(tmp_path.iterdir()) == []


def test_without_data_costs_and_sizes_are_said(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run = tmp_path / "run"
    found = mpsearch("search", tiny / "tiny.onnx", "--device", "npu_200tops", "-o", run)
    assert found.code == 0
    assert "Without --data only shapes, cost and size are known" in found.out
    assert "uniform nvfp4" in found.out
    assert {path.name for path in run.iterdir()} == {
        "job.toml",
        "graph.json",
        "costs.json",
        "plans",
        "run.json",
        "log.jsonl",
    }


def test_a_limit_is_kept_by_the_chosen_plan(tiny: Path, tmp_path: Path, mpsearch: Mpsearch) -> None:
    run = tmp_path / "run"
    found = mpsearch(*SEARCH(tiny), "--max-effective-bits", 8, "-o", run, "--json").json
    assert [plan["file"] for plan in found["plans"]] == ["plans/mixed.json"]
    assert read_plan(run / "plans/mixed.json").coverage.effective_bits <= 8
    loss = read_plan(run / "plans/mixed.json").measured["loss"].mean
    assert mpsearch(*SEARCH(tiny), "--max-loss", loss, "-o", tmp_path / "other").code == 0
    assert read_plan(tmp_path / "other/plans/mixed.json").measured["loss"].mean <= loss


def test_another_method_searches_measured_plans(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run = tmp_path / "run"
    found = mpsearch(
        *SEARCH(tiny), "--method", "nsga2", "--metric", "sqnr", "--budget", 30, "-o", run
    )
    assert found.code == 0, found.err
    front = read_front(run / "front.json")
    assert all("loss" in point.measured for point in front.points)


def test_a_job_file_runs_and_its_digests_are_checked(
    tiny: Path, finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    job = tmp_path / "job.toml"
    job.write_bytes((finished / "job.toml").read_bytes())
    where = ["--model", tiny / "tiny.onnx", "--data", tiny / "calib.npz"]
    where += ["--eval", tiny / "held.npz"]
    assert mpsearch("search", job, *where, "-o", tmp_path / "run").code == 0
    assert files(tmp_path / "run") == files(finished)
    np.savez(tmp_path / "other.npz", **draw(24, seed=9))
    other = mpsearch("search", job, *where, "--data", tmp_path / "other.npz")
    assert other.code == 1
    assert "digests.data" in other.err


def test_init_writes_a_job_and_a_space_that_run_as_they_are(
    tmp_path: Path, mpsearch: Mpsearch
) -> None:
    folder = write_job(tmp_path)
    made = mpsearch("init", folder / "tiny.onnx", "--data", folder / "calib.npz", "--json").json
    assert mpsearch("check", folder / made["job"]).code == 0
    assert mpsearch("check", folder / made["space"]).code == 0
    found = mpsearch("search", folder / made["job"], "--refine", 0, "-o", folder / "run")
    assert found.code == 0, found.err
    again = mpsearch("init", folder / "tiny.onnx")
    assert again.code == 1
    assert "exists" in again.err


def test_a_plan_is_chosen_within_limits_from_what_was_measured(
    finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    out = tmp_path / "plan.json"
    points = [p for p in read_front(finished / "front.json").points if p.measured]
    limit = sorted(p.predicted["latency_us"].mean for p in points)[len(points) // 2]
    found = mpsearch("plan", "choose", finished, "--max-latency-us", limit, "-o", out, "--json")
    best = min(
        (p for p in points if p.predicted["latency_us"].mean <= limit),
        key=lambda p: p.measured["loss"].mean,
    )
    assert found.json["measured"]["loss"]["mean"] == best.measured["loss"].mean
    assert read_plan(out).measured["loss"] == best.measured["loss"]
    shown = mpsearch("plan", "show", out, "--json").json
    assert len(shown[0]["decisions"]) == 4
    assert "stem" in mpsearch("plan", "show", out).out


def test_with_model_and_data_any_point_can_be_chosen_and_is_measured(
    tiny: Path, finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    out = tmp_path / "plan.json"
    files = ["--model", tiny / "tiny.onnx", "--data", tiny / "calib.npz"]
    assert mpsearch("plan", "choose", finished, "--knee", *files, "-o", out).code == 0
    assert "loss" in read_plan(out).measured
    assert mpsearch("plan", "choose", finished, "--max-loss", 0.01, *files, "-o", out).code == 0
    assert read_plan(out).measured["loss"].mean <= 0.01


def test_a_plan_is_exported_and_verified(
    tiny: Path, finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    plan = finished / "plans" / "uniform_nvfp4.json"
    model = ["--model", tiny / "tiny.onnx"]
    made = mpsearch("export", plan, *model, "-o", tmp_path / "out", "--json")
    assert made.code == 0, made.err
    assert "model.onnx" in made.json["files"]
    data = ["--data", tiny / "calib.npz", "--samples", 4]
    found = mpsearch("verify", tmp_path / "out", *model, *data, "--json")
    assert found.code == 0, found.err
    assert found.json["ok"]
    assert len(found.json["layers"]) == 4


def test_a_report_is_made_again_from_the_run_alone(
    finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    assert mpsearch("report", finished, "-o", tmp_path / "again.html").code == 0
    assert (tmp_path / "again.html").read_bytes() == (finished / "report.html").read_bytes()


def test_stages_can_be_run_one_by_one(tiny: Path, tmp_path: Path, mpsearch: Mpsearch) -> None:
    model = tiny / "tiny.onnx"
    costs = mpsearch("cost", model, "--device", "h100_sxm5_80gb", "--json").json
    assert len(costs["objectives"]["latency_us"]) == len(costs["groups"]) == 4
    out = tmp_path / "table.json"
    data = ["--data", tiny / "calib.npz", "--space", "npu", "--schemes", "fp8"]
    table = mpsearch("sensitivity", model, *data, "-o", out, "--json").json
    assert table["schemes"] == ["fp16", "fp8"]
    assert mpsearch("check", out).out.startswith("table.json: a table that can be used")


@pytest.mark.parametrize(
    "what",
    [
        "schemes",
        "spaces",
        "devices",
        "targets",
        "metrics",
        "searchers",
        "rules",
        "exporters",
        "runtimes",
    ],
)
def test_everything_can_be_listed(what: str, mpsearch: Mpsearch) -> None:
    names = [entry["name"] for entry in mpsearch("list", what, "--json").json]
    assert names
    shown = mpsearch("list", what).out
    assert all(name in shown for name in names)


def test_inspect_says_layers_groups_and_coverage(tiny: Path, mpsearch: Mpsearch) -> None:
    found = mpsearch("inspect", tiny / "tiny.onnx", "--json").json
    assert [layer["name"] for layer in found["layers"]] == ["stem", "depth", "point", "head"]
    assert found["coverage"]["parameters"] == 432 + 144 + 256 + 64
    assert "decided: 896 of" in mpsearch("inspect", tiny / "tiny.onnx").out


def test_help_needs_nothing_heavy() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "pymoo", "scipy", "networkx", "plotly", "numpy")
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mpsearch.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print(*[m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_ranges_of_a_job_are_those_of_its_plans(
    tiny: Path, finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run = tmp_path / "run"
    assert mpsearch(*SEARCH(tiny), "--ranges", "percentile:95", "-o", run).code == 0
    plan, plain = (read_plan(path / "plans" / "uniform_fp8.json") for path in (run, finished))
    assert plan.schemes["fp8"].activation.estimator == "percentile:95"
    for cut, whole in zip(plan.ranges, plain.ranges, strict=True):
        assert cut.range.amax == whole.range.amax
        assert 0 < cut.range.scale < whole.range.scale
    found = mpsearch(*SEARCH(tiny), "--ranges", "percentile:9", "-o", tmp_path / "other")
    assert found.code == 1
    assert "ranges: estimator percentile takes a percentage" in found.err
    assert found.err.count("got 'percentile:9'") == 1


def test_rules_of_thumb_stand_beside_the_uniform_plans(
    tiny: Path, finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    found = mpsearch(*SEARCH(tiny), "--eval", tiny / "held.npz", "-o", finished, "--json").json
    rows = {row["label"]: row for row in found["rows"]}
    for name in ("first_last", "embeddings_heads"):
        assert rows[f"rule {name}"]["measured"]["loss"]
        assert (finished / "plans" / f"rule_{name}.json").is_file()
    assert "rule snr_15db" not in rows  # uniform fp8 here
    one = mpsearch(*SEARCH(tiny), "--rules", "first_last", "-o", tmp_path / "one", "--json").json
    assert [r["label"] for r in one["rows"] if r["label"].startswith("rule")] == ["rule first_last"]
    bad = mpsearch(*SEARCH(tiny), "--rules", "magic", "-o", tmp_path / "bad")
    assert bad.code == 1
    assert "a rule of thumb must be one of first_last, embeddings_heads, snr_15db" in bad.err
