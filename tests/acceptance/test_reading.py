"""What others read, plans and run folders, is read without the packages that made it."""

import subprocess
import sys
from pathlib import Path

MAKERS = ("torch", "onnx", "onnxruntime", "scipy", "optuna", "pymoo")


def run_without_makers(code: str, *arguments: object) -> str:
    """Run ``code`` in a fresh interpreter; fail if it imported what only makers need."""
    program = f"import sys\n{code}\nprint('makers:', *[m for m in {MAKERS!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said, _, makers = done.stdout.rpartition("makers:")
    assert makers.strip() == ""
    return said


def test_a_hundred_plans_are_read_without_torch(finished: Path) -> None:
    code = """from mpsearch.plan.files import read_plan
plans = [read_plan(sys.argv[1]) for _ in range(100)]
print(len(plans), plans[0].model)"""
    said = run_without_makers(code, next((finished / "plans").glob("*.json")))
    assert said.split() == ["100", "tiny.onnx"]


def test_every_file_of_a_run_is_read_without_torch(finished: Path) -> None:
    code = """import mpsearch as mp
run = mp.open_run(sys.argv[1])
run.job, run.costs, run.table, run.plans, run.self_test, run.results
print(len(run.front.points) > 0, run.graph.name)"""
    assert run_without_makers(code, finished).split() == ["True", "tiny.onnx"]


def test_plans_and_runs_are_checked_shown_and_reported_without_torch(finished: Path) -> None:
    plan = next((finished / "plans").glob("*.json"))
    code = """from mpsearch.cli.app import app
for file in sys.argv[2:]:
    app(["check", file], standalone_mode=False)
app(["plan", "show", sys.argv[1]], standalone_mode=False)
app(["report", sys.argv[-1], "-o", sys.argv[-1] + "/../again.html"], standalone_mode=False)"""
    files = [finished / name for name in ("front.json", "costs.json", "run.json")]
    said = run_without_makers(code, plan, plan, *files, finished)
    assert said.count("can be used") == 5
    assert "plan for tiny.onnx" in said
