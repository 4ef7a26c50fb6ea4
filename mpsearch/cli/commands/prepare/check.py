"""``mpsearch check``: whether a file is what it must be."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json


@command
def check(
    file: Annotated[
        Path, typer.Argument(help="Job, space, device, target, model, data or result.")
    ],
    as_json: Json = False,
) -> None:
    """Check a file: model, data, job, space, device, target, plan, front, or another result."""
    kind, said = _checked(file)
    if as_json:
        print_json({"file": file.name, "kind": kind, "ok": True, "about": said})
    else:
        print(f"{file.name}: a {kind} that can be used: {said}")


def _checked(path: Path) -> tuple[str, str]:
    from mpsearch.errors import ArtifactError

    if path.is_dir() and (path / "job.toml").is_file():
        return _run(path)
    if path.suffix == ".onnx":
        from mpsearch.graph.importer import import_onnx

        graph = import_onnx(path)
        return "model", f"{len(graph.layers)} layers, {len(graph.groups)} groups"
    if path.suffix == ".npz" or path.is_dir():
        from mpsearch.data.batches import read_batches

        data = read_batches(path)
        shapes = (f"{name} {list(a.shape)} {a.dtype}" for name, a in data.arrays.items())
        labelled = "with labels" if data.labels is not None else "without labels"
        return "data set", f"{len(data)} samples {labelled}: {', '.join(shapes)}"
    if path.suffix == ".toml":
        return _toml(path)
    if path.suffix == ".json":
        return _artifact(path)
    raise ArtifactError(
        f"{path.name}: must be a .onnx, .npz, .toml or .json file, or a folder of .npz files or a run"
    )


def _run(path: Path) -> tuple[str, str]:
    from mpsearch.runs.job_file import read_job
    from mpsearch.runs.record import read_record

    job, record = read_job(path / "job.toml"), read_record(path)
    for name in ("graph", "costs", "sensitivity", "front", "self_test"):
        if (path / f"{name}.json").is_file():
            _artifact(path / f"{name}.json")
    state = "interrupted" if record.interrupted else "finished"
    return "run", f"{state}, of {job.model}, {record.evaluations} evaluations kept"


def _toml(path: Path) -> tuple[str, str]:
    """Tell job, space, target and device files apart by a key that only they have."""
    import tomllib

    from mpsearch.errors import ArtifactError, JobError, MpsearchError, SpaceError

    try:
        keys = tomllib.loads(path.read_text(encoding="utf-8")).keys()
    except OSError as error:
        raise ArtifactError(f"{path.name}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ArtifactError(f"{path.name}: must be a TOML file: {error}") from None
    if "bandwidth_gb_s" in keys or "peak_tflops" in keys:
        from mpsearch.cost.device import read_device

        device = read_device(path)
        return "device file", f"{device.title}, {device.bandwidth_gb_s:g} GB/s"
    if "sweep" in keys:
        return _sweep(path)
    if "model" in keys:
        from mpsearch.jobs.prepare import check_names
        from mpsearch.runs.job_file import read_job

        job = read_job(path)
        check_names(job)
        return "job file", f"{job.model} on {job.device}"
    if "schemes" in keys:
        from mpsearch.space.files import read_space
        from mpsearch.space.targets import read_target

        errors: list[MpsearchError] = []
        try:
            space = read_space(path)
            return "search space", ", ".join(space.names)
        except SpaceError as error:
            errors.append(error)
        try:
            target = read_target(path)
            return (
                "target file",
                f"{len(target.rules)} rules of a runtime, for the exporter {target.exporter}",
            )
        except MpsearchError:
            raise errors[0] from None
    raise JobError(
        f"{path.name}: must hold `model` (a job), `schemes` (a space or target) or `peak_tflops` "
        f"(a device); got keys {', '.join(keys) or 'none'}"
    )


def _sweep(path: Path) -> tuple[str, str]:
    """Check every run of a sweep, and time each of its models once."""
    from mpsearch.errors import JobError
    from mpsearch.jobs.batches.forecast_batch import forecast_batch
    from mpsearch.jobs.batches.planned import plan_batch
    from mpsearch.jobs.prepare import check_names

    batch = plan_batch([path], Path("runs"))
    for run in batch.runs:
        check_names(run.job)
    found = forecast_batch(batch)
    if found.failed:
        first = found.failed[0]
        more = f" (and {len(found.failed) - 1} more)" if len(found.failed) > 1 else ""
        raise JobError(f"{path.name}: run {first.name} cannot start: {first.said}{more}")
    return (
        "sweep",
        f"{found.runs} runs, {found.finished} of them finished in runs/; the others take {found.evaluations} evaluations "
        f"at most, about {found.seconds:.0f} s one after the other; what they share is measured once",
    )


def _artifact(path: Path) -> tuple[str, str]:
    from mpsearch.artifacts import read_envelope
    from mpsearch.errors import ArtifactError
    from mpsearch.plan.files import read_plan
    from mpsearch.plan.weights import check_file
    from mpsearch.problem.front import read_front
    from mpsearch.problem.tables import read_costs, read_table
    from mpsearch.runs.graph_file import read_graph
    from mpsearch.runs.record import read_record
    from mpsearch.sensitivity.self_test_file import read_self_test

    schema = str(read_envelope(path)["schema"]).removeprefix("mpsearch.")
    if schema == "plan":
        plan = read_plan(path)
        if plan.weights is not None:
            check_file(plan.weights)
        done = ", ".join((*plan.transforms, *plan.recovery))
        said = f"; changed by {done}" if done else ""
        return "plan", f"for {plan.model}, {len(plan.decisions)} decisions{said}"
    if schema == "front":
        front = read_front(path)
        return "front", f"{len(front.points)} points over {', '.join(front.names)}"
    if schema == "table":
        table = read_table(path)
        return (
            "table",
            f"{table.metric} of {len(table.groups)} groups × {len(table.schemes)} schemes",
        )
    if schema == "costs":
        costs = read_costs(path)
        return "cost file", f"{costs.device}: {', '.join(costs.objectives)}"
    if schema == "graph":
        graph = read_graph(path)
        return "graph", f"{graph.name}: {len(graph.layers)} layers"
    if schema == "self_test":
        tested = read_self_test(path)
        return "self-test", f"{len(tested.measured)} measured plans"
    if schema == "run":
        record = read_record(path.parent)
        return "record of a run", ", ".join(record.stages)
    if schema == "gate":
        from mpsearch.verify.gate import read_gate

        gate = read_gate(path)
        return "gate", f"{gate.model} in {gate.runtime}: {gate.verdict or 'all checks passed'}"
    if schema == "npu_layout":
        from mpsearch.export.npu.layout import read_layout

        layout = read_layout(path)
        return "layout of an NPU export", f"{layout.model}: {len(layout.tensors)} packed tensors"
    raise ArtifactError(f"{path.name}: schema {schema!r} is not known to this version")
