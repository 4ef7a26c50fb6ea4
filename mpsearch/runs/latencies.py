"""Latencies of a run's plans as a runtime has them: ``latencies.json``, which ``mpsearch profile EXPORT`` writes."""

from pathlib import Path

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import PlanError
from mpsearch.plan.files import read_plan
from mpsearch.plan.plan import Plan

FILE = "latencies.json"


class MeasuredLatency(Content):
    """One exported plan, measured end to end beside the model in fp32.

    Attributes:
        plan: Name of the plan's file in the run.
        runtime: With its version.
        latency_us: What the export takes, in CPU time of one thread.
        stderr_us: Noise of ``latency_us``.
        float_us: What the user's own model takes, measured in turns with the export.
        float_stderr_us: Noise of ``float_us``.
        predicted_us: What the cost model said; None where the plan has no latency.
        device: What the prediction is for.
    """

    plan: str
    runtime: str
    latency_us: float
    stderr_us: float
    float_us: float
    float_stderr_us: float
    predicted_us: float | None = None
    device: str = ""


class _Latencies(Content):
    measured: tuple[MeasuredLatency, ...] = ()


def find_run_plan(run: Path, plan: Plan) -> str:
    """Return the name of the file in ``run`` that decides what ``plan`` does, a chosen plan's before a point's.

    Raises:
        PlanError: No plan of the run does.
    """
    paths = (run / "plans").glob("*.json")
    for path in sorted(paths, key=lambda path: (path.name.startswith("point_"), path.name)):
        own = read_plan(path)
        if (own.decisions, own.structure_digest) == (plan.decisions, plan.structure_digest):
            return path.name
    raise PlanError(f"{run.name}: the exported plan must be one of the run's plans/, but is none")


def keep_latency(run: Path, measured: MeasuredLatency) -> None:
    """Write ``measured`` into the run, in the place of an earlier one of the same plan and runtime."""
    key = measured.plan, measured.runtime
    others = [m for m in read_latencies(run) if (m.plan, m.runtime) != key]
    write_artifact(run / FILE, "latencies", _Latencies(measured=(*others, measured)))


def read_latencies(run: Path) -> tuple[MeasuredLatency, ...]:
    """Return what was measured of the plans of ``run``; nothing if nothing was.

    Raises:
        ArtifactError: The file is damaged.
    """
    path = run / FILE
    return read_artifact(path, "latencies", _Latencies).measured if path.is_file() else ()


def latency_facts(run: Path) -> dict[str, str]:
    """Return what a report says: plan and runtime → predicted beside measured latency."""
    facts = {}
    for found in read_latencies(run):
        said = f"measured {_ms(found.latency_us)} ± {_ms(found.stderr_us)}"
        if found.predicted_us is not None:
            said += f", predicted {_ms(found.predicted_us)} for {found.device}"
        said += f"; fp32 measured {_ms(found.float_us)} ± {_ms(found.float_stderr_us)}"
        facts[f"latency of plans/{found.plan} in {found.runtime}"] = said
    return facts


def _ms(us: float) -> str:
    return f"{us / 1e3:.3g} ms" if us >= 1000 else f"{us:.3g} µs"
