"""Every mistake of a user: one line that says what must hold, exit code 1, nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.command_line import SEARCH, Mpsearch
from tests.support.tiny_job import draw, write_job, write_model

Break = Callable[[Path], list[object]]


def without(folder: Path, option: str) -> list[object]:
    command = SEARCH(folder)
    at = command.index(option)
    return command[:at] + command[at + 2 :]


def truncated(folder: Path) -> list[object]:
    model = folder / "tiny.onnx"
    model.write_bytes(model.read_bytes()[:-700])
    return SEARCH(folder)


def no_onnx(folder: Path) -> list[object]:
    (folder / "tiny.onnx").write_text("this is no model")
    return SEARCH(folder)


def no_external_data(folder: Path) -> list[object]:
    model = onnx.load(folder / "tiny.onnx")
    onnx.save(
        model, folder / "tiny.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    (folder / "w.bin").unlink()
    return SEARCH(folder)


def unsupported(folder: Path) -> list[object]:
    extra = [
        helper.make_node("Frobnicate", ["r3"], ["u1"], "frob", domain="example.com"),
        helper.make_node("Defenestrate", ["r3"], ["u2"], "fene", domain="example.com"),
    ]
    path = write_model(folder / "tiny.onnx", extra=extra)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("example.com", 1))
    for name in ("u1", "u2"):
        model.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    onnx.save(model, path)
    return SEARCH(folder)


def with_data(**arrays: np.ndarray) -> Break:
    def damage(folder: Path) -> list[object]:
        np.savez(folder / "calib.npz", **arrays)
        return SEARCH(folder)

    return damage


def nan() -> np.ndarray:
    x = draw(8, seed=0)["x"]
    x[3, 0, 0, 0] = np.nan
    return x


def pickled(folder: Path) -> list[object]:
    np.savez(folder / "calib.npz", x=np.array([{"code": 1}], dtype=object))
    return SEARCH(folder)


def no_npz(folder: Path) -> list[object]:
    (folder / "calib.npz").write_bytes(b"PK\x03\x04 but no zip")
    return SEARCH(folder)


def with_options(*options: object) -> Break:
    return lambda folder: [*SEARCH(folder), *options]


def changed(option: str, *values: object) -> Break:
    return lambda folder: [*without(folder, option), *values]


def job_with(line: str) -> Break:
    def write(folder: Path) -> list[object]:
        job = folder / "job.toml"
        job.write_text(f'model = "tiny.onnx"\ndata = "calib.npz"\ndevice = "npu_200tops"\n{line}\n')
        return ["search", job]

    return write


X = draw(8, seed=0)["x"]
CASES: dict[str, tuple[Break, list[str]]] = {
    "truncated model": (truncated, ["tiny.onnx"]),
    "not ONNX": (no_onnx, ["tiny.onnx"]),
    "missing model": (lambda f: ["search", f / "no.onnx", "--device", "t4"], ["no.onnx"]),
    "missing external data": (no_external_data, ["w.bin"]),
    "unsupported operators": (unsupported, ["Frobnicate", "Defenestrate"]),
    "wrong input name": (with_data(image=X), ["'image'", "x"]),
    "missing input": (with_data(labels=np.zeros(8, np.int64)), ["labels"]),
    "wrong shape": (with_data(x=X[:, :, :5]), ["'x'", "[samples, 3, 6, 6]", "[8, 3, 5, 6]"]),
    "wrong rank": (with_data(x=X[:, 0]), ["'x'", "[8, 6, 6]"]),
    "wrong type": (with_data(x=X.astype(np.float64)), ["'x'", "float32", "float64"]),
    "NaN": (with_data(x=nan()), ["'x'", "finite", "sample 3"]),
    "pickle": (pickled, ["calib.npz"]),
    "not npz": (no_npz, ["calib.npz", ".npz"]),
    "missing data": (changed("--data", "--data", "gone.npz"), ["gone.npz", "--data"]),
    "unknown scheme": (with_options("--schemes", "fp8,fp3"), ["'fp3'", "nvfp4"]),
    "unknown device": (changed("--device", "--device", "h1000"), ["'h1000'", "h100_sxm5_80gb"]),
    "no device": (changed("--device"), ["--device"]),
    "unknown space": (with_options("--space", "fpga"), ["'fpga'", "npu"]),
    "unknown method": (with_options("--method", "magic"), ["'magic'", "exact"]),
    "unknown metric": (with_options("--metric", "vibes"), ["'vibes'", "sqnr"]),
    "unknown base": (with_options("--base", "fp12"), ["fp12"]),
    "keep matches nothing": (with_options("--keep", "block7*"), ["'block7*'", "stem"]),
    "bad shape": (with_options("--shape", "x:1"), ["x:1", "x=1,3,48,192"]),
    "infeasible latency": (with_options("--max-latency-us", 1e-9), ["latency_us <= ", "nearest"]),
    "infeasible bits": (with_options("--max-effective-bits", 1), ["effective_bits <= ", "nearest"]),
    "unknown job key": (job_with("metrics = 'sqnr'"), ["job.toml", "metrics", "metric"]),
    "wrong job value": (job_with("batch = 'big'"), ["job.toml", "batch", "'big'"]),
    "unknown setting": (
        with_options("--set", "search.size=4"),
        ["search method exact has no setting 'size'", "eps"],
    ),
    "wrong setting": (
        with_options("--method", "nsga2", "--set", "search.size=big"),
        ["size of search method nsga2 must be int", "'big'"],
    ),
    "unknown setting of a metric": (
        with_options("--metric", "sqnr", "--set", "sensitivity.tolerance=0.1"),
        ["metric sqnr has no setting 'tolerance'", "none"],
    ),
    "setting of nothing": (with_options("--set", "size=4"), ["search.NAME=VALUE", "'size=4'"]),
    "unknown setting in a job": (
        job_with("[search.settings]\nsizes = 3"),
        ["search method exact has no setting 'sizes'"],
    ),
    "job is no TOML": (job_with("[["), ["job.toml", "TOML"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_and_writes_nothing(
    case: str, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    damage, words = CASES[case]
    folder = tmp_path / "in"
    folder.mkdir()
    command = damage(write_job(folder))
    found = mpsearch(*command, "-o", tmp_path / "run")
    assert found.code == 1
    (line,) = found.err.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert str(tmp_path) not in line
    assert found.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_nearest_feasible_limit_is_feasible(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    line = mpsearch(*SEARCH(tiny), "--max-effective-bits", 1, "-o", tmp_path / "run").err
    nearest = float(line.split("feasible: effective_bits <= ")[1].split()[0])
    assert mpsearch(*SEARCH(tiny), "--max-effective-bits", nearest * 0.999, "-o", "x").code == 1
    found = mpsearch(*SEARCH(tiny), "--max-effective-bits", nearest, "-o", tmp_path / "run")
    assert found.code == 0, found.err


def test_a_loss_that_no_plan_reaches_says_the_least_that_was_measured(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    found = mpsearch(*SEARCH(tiny), "--max-loss", -1, "-o", tmp_path / "run")
    assert found.code == 1
    assert "loss <= -1" in found.err
    assert "nearest" in found.err


def test_a_folder_that_is_no_run_is_refused_and_left_alone(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    found = mpsearch(*SEARCH(tiny), "-o", run)
    assert found.code == 1
    assert (
        found.err
        == "error: run: exists and is no run folder; give another one with -o, or remove it\n"
    )
    assert [path.name for path in run.iterdir()] == ["thesis.txt"]


def test_the_run_of_another_job_is_refused_and_the_difference_named(
    tiny: Path, finished: Path, mpsearch: Mpsearch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    found = mpsearch(*SEARCH(tiny), "--eval", tiny / "held.npz", "--seed", 3, "-o", finished)
    assert found.code == 1
    assert "seed: 0 there, 3 here" in found.err
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_usage_mistakes_exit_with_2(tiny: Path, mpsearch: Mpsearch) -> None:
    assert mpsearch("search").code == 2
    assert mpsearch("fly").code == 2
    assert mpsearch("list", "planets").code == 2
    assert mpsearch(*SEARCH(tiny), "--batch", 0).code == 2


def test_choosing_within_impossible_limits_says_the_nearest(
    finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    out = tmp_path / "plan.json"
    found = mpsearch("plan", "choose", finished, "--max-latency-us", 1e-9, "-o", out)
    assert found.code == 1
    assert "latency_us <=" in found.err
    assert not out.exists()


def test_a_file_that_is_no_plan_is_not_written_over(
    finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    out = tmp_path / "notes.json"
    out.write_text("mine")
    assert mpsearch("plan", "choose", finished, "--knee", "-o", out).code == 1
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    [
        ["report"],
        ["plan", "choose", "-o", "plan.json", "--knee"],
        ["check"],
    ],
)
def test_what_is_no_run_is_refused(command: list[str], tmp_path: Path, mpsearch: Mpsearch) -> None:
    found = mpsearch(*command, tmp_path)
    assert found.code == 1
    assert len(found.err.strip().splitlines()) == 1


def test_a_damaged_result_is_named(finished: Path, tmp_path: Path, mpsearch: Mpsearch) -> None:
    damaged = tmp_path / "front.json"
    before, _, after = (finished / "front.json").read_text().rpartition("0")  # of the content
    damaged.write_text(f"{before}1{after}")
    found = mpsearch("check", damaged)
    assert found.code == 1
    assert "front.json" in found.err


def test_a_plan_for_another_model_is_refused(
    finished: Path, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    other = write_model(tmp_path / "other.onnx", seed=5)
    plan = finished / "plans" / "uniform_fp8.json"
    found = mpsearch("export", plan, "--model", other, "-o", tmp_path / "out")
    assert found.code == 1
    assert not (tmp_path / "out").exists()
