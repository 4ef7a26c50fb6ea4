"""What the dashboard chooses and reads, without a browser."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from mpsearch.dashboard.choice import best_within, first_key, given_limits, name_of, options_of
from mpsearch.dashboard.opened import Runs, Shown, key_of
from mpsearch.dashboard.views.compare import moved_plan
from mpsearch.dashboard.views.front import dragged_limits, front_of
from mpsearch.dashboard.views.take import changed, edited
from mpsearch.dashboard.views.trust import gates
from mpsearch.figures.content import Report
from mpsearch.jobs.after.measure_wishes import measure_wishes
from mpsearch.plan.files import read_plan
from mpsearch.problem.build import build_problem
from mpsearch.runs.run import open_run
from mpsearch.runs.watched.wishes import MOST, Wish, note_wish, read_wishes, wish
from mpsearch.search.choose_point import choose_point
from mpsearch.verify.gate import Gate, GateCheck, write_gate
from tests.support.command_line import Mpsearch
from tests.support.made_folder import write_run


@pytest.fixture
def shown(report: Report, tmp_path: Path) -> Shown:
    return read(write_run(report, tmp_path / "run"))


def read(folder: Path) -> Shown:
    (found,) = Runs([folder]).all()
    return found


def test_the_runs_own_choice_is_looked_at_first(shown: Shown, report: Report) -> None:
    assert report.chosen is not None
    assert first_key(shown) == key_of(report.chosen.assignment)
    assert name_of(shown, first_key(shown)).startswith("mixed: ")


def test_limits_choose_as_the_command_line_does(shown: Shown, report: Report) -> None:
    pool = replace(report.front, points=tuple(shown.points.values()))
    times = sorted(p.predicted["latency_us"].mean for p in report.front.points if p.measured)
    for limit in times[1:]:
        wanted = choose_point(pool, limits={"latency_us": limit})
        assert best_within(shown, {"latency_us": limit}).key == key_of(wanted.assignment)
    said = best_within(shown, {"latency_us": times[0] / 2}).said
    assert "is the nearest that is" in said


def test_fields_without_a_number_limit_nothing() -> None:
    assert given_limits([1.5, None, "", 0, None]) == {"latency_us": 1.5, "energy_uj": 0.0}


def test_every_measured_point_can_be_picked_and_taken(shown: Shown, report: Report) -> None:
    keys = {option["value"] for option in options_of(shown)}
    measured = {key_of(p.assignment) for p in report.front.points if p.measured}
    assert measured <= keys
    assert measured <= shown.plans.keys()
    for key in measured:
        plan = read_plan(shown.path / "plans" / shown.plans[key])
        assert [d.scheme for d in plan.decisions] == [
            report.front.schemes[s] for s in shown.points[key].assignment
        ]


def test_a_line_that_is_dragged_limits_at_its_place_or_not_at_all(shown: Shown) -> None:
    limits = dragged_limits(shown, "latency_us", "loss", {"latency_us": 5.0, "loss": None}, "")
    assert limits[0] == 5.0
    limits = dragged_limits(shown, "latency_us", "loss", {"latency_us": 1e9}, "")
    assert limits[0] is None
    drawn = front_of(shown, ("latency_us", "loss"), "weight_bytes", "", {"latency_us": 5.0})
    assert drawn.layout.shapes[0].x0 == 5.0
    assert "≤ 5" in drawn.layout.shapes[0].label.text


def test_a_change_by_hand_is_refused_where_it_is_not_allowed(shown: Shown, report: Report) -> None:
    key = first_key(shown)
    g, s = map(int, np.argwhere(~report.allowed)[0])
    edits, said = edited(shown, key, {}, str(g), str(s))
    assert "may not take" in said
    assert "channels % 4" in said
    edits, said = edited(shown, key, {}, "1", "0")
    base = shown.points[key].assignment
    assert said == ""
    assert changed(shown, key, edits) == (base[0], 0, *base[2:])
    assert edited(shown, key, edits, "1", str(base[1]))[0] == {}  # changed back
    assert "lists" in edited(shown, key, {}, "../x", "0")[1]


def test_a_plan_moves_to_a_run_of_the_same_groups_only_where_it_may(
    shown: Shown, report: Report, tmp_path: Path
) -> None:
    key = first_key(shown)
    assert moved_plan(shown, key, shown) == shown.points[key].assignment
    costs = replace(report.costs, allowed=report.costs.allowed & (np.arange(5) != 2))
    other = read(write_run(replace(report, costs=costs, chosen=report.chosen), tmp_path / "other"))
    assert "cannot run there" in str(moved_plan(shown, key, other))


def test_reading_a_run_needs_no_torch(shown: Shown) -> None:
    code = (
        "import sys; from pathlib import Path; from mpsearch.dashboard.opened import Runs; "
        f"print([s.state for s in Runs([Path({str(shown.path)!r})]).all()], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['finished'] False"


def test_what_becomes_of_a_folder_is_seen(report: Report, tmp_path: Path) -> None:
    runs = Runs([tmp_path])
    assert list(runs.all()) == []
    folder = write_run(report, tmp_path / "run", finished=False)
    (now,) = runs.all()
    assert (now.state, now.front and len(now.front.points)) == ("running", 0)
    old = time.time() - 1000
    for path in folder.iterdir():
        os.utime(path, (old, old))
    (now,) = runs.all()
    assert now.state == "interrupted"
    (folder / "costs.json").write_text("[]")
    (now,) = runs.all()
    assert now.state == "damaged"
    assert "costs.json" in now.why


def test_a_queue_holds_each_plan_once_and_an_end(tmp_path: Path) -> None:
    for i in range(MOST + 5):
        wish(tmp_path, (i % (MOST + 2), 0))
    assert len(read_wishes(tmp_path).plans) == MOST
    note_wish(tmp_path, Wish(assignment=(0, 0), trouble="no"))
    assert not read_wishes(tmp_path).plans[0].waits


def test_what_was_wished_is_measured_and_becomes_a_plan(
    finished: Path, tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run = tmp_path / "run"
    copy_run(finished, run)
    opened = open_run(run)
    assert opened.table is not None
    wanted = (1,) + (0,) * (len(opened.table.groups) - 1)
    wish(run, wanted)
    wish(run, (99,) * len(wanted))
    found = measure_wishes(run, model=tiny / "tiny.onnx", data=tiny / "calib.npz")
    loss, trouble = found.plans[0].loss, found.plans[1].trouble
    assert loss is not None
    assert "not a plan of this run" in trouble
    shown = read(run)
    point = shown.points[key_of(wanted)]
    assert point.measured["loss"] == loss
    problem = build_problem(opened.table, opened.costs)
    assert point.predicted["loss"].mean == pytest.approx(problem.evaluate([wanted])["loss"][0])
    assert mpsearch("check", run / "plans" / shown.plans[key_of(wanted)]).code == 0
    result = mpsearch("measure", run, "-m", tiny / "tiny.onnx", "-d", tiny / "calib.npz")
    assert "1 of 2 asked plans are measured" in result.out


def test_ranges_and_notes_of_a_run_are_those_of_its_model(
    finished: Path, tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    import onnx
    import onnxruntime

    run = tmp_path / "run"
    copy_run(finished, run)
    result = mpsearch("ranges", run, "-m", tiny / "tiny.onnx", "-d", tiny / "calib.npz", "--json")
    assert result.code == 0, result.err
    x = np.load(tiny / "calib.npz")["x"]
    first = result.json["layers"][0]
    assert first["amax"] == pytest.approx(float(np.abs(x).max()), rel=1e-6)
    noted = tmp_path / "noted.onnx"
    result = mpsearch("annotate", tiny / "tiny.onnx", run, "-o", noted, "--json")
    assert result.code == 0, result.err
    assert result.json["without_node"] == []
    model = onnx.load(noted)
    onnx.checker.check_model(model)
    opened = open_run(run)
    said = {n.name: {p.key: p.value for p in n.metadata_props} for n in model.graph.node}
    assert opened.results is not None
    for group, s in zip(opened.graph.groups, opened.results.chosen, strict=True):
        assert said[group.name]["mpsearch.scheme"] == opened.costs.schemes[s]
    outputs = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for path in (tiny / "tiny.onnx", noted)
    ]
    np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
    other = mpsearch("annotate", noted, run, "-o", noted)
    assert other.code == 1


def copy_run(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def test_a_zip_holds_a_plan_and_its_weights(shown: Shown) -> None:
    from mpsearch.dashboard.views.take import _both

    name = shown.plans[first_key(shown)]
    with zipfile.ZipFile(BytesIO(_both(shown.path / "plans" / name))) as archive:
        assert archive.namelist() == [name]


def test_the_checklist_of_an_export_in_the_run_is_shown(shown: Shown) -> None:
    assert "mpsearch verify" in str(gates(shown))
    checks = (
        GateCheck("loss", "fail", 0.3, 0.1, "more than the plan's"),
        GateCheck("size", "pass"),
    )
    (shown.path / "export").mkdir()
    gate = Gate("m.onnx", "openvino", 8, checks, "uniform_fp16.json")
    write_gate(gate, shown.path / "export" / "gate.json", {}, {})
    said = str(gates(shown))
    assert "1 of 2 checks failed (loss); fall back to uniform_fp16.json" in said
    (shown.path / "export" / "gate.json").write_text("{")
    assert "damaged" in str(gates(shown))
