"""``mpsearch profile``: a model's kernels, or an exported plan, as a runtime on this machine has them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars
from mpsearch.cli.options import Shapes, parse_shape

if TYPE_CHECKING:
    from mpsearch.graph.model import ModelGraph
    from mpsearch.profile.timed_runtime import TimedRuntime


@command
def profile(
    measured: Annotated[
        Path, typer.Argument(metavar="MODEL|EXPORT", help="A model, or what `export` wrote.")
    ],
    runtime: Annotated[
        str, typer.Option("--runtime", "-r", help="onnxruntime, openvino or torch.")
    ] = "onnxruntime",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Device file to write: FILE.toml.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu; or cuda, for GEMMs in torch.")
    ] = "cpu",
    space: Annotated[
        str, typer.Option("--space", help="Space whose schemes are measured.")
    ] = "cpu",
    schemes: Annotated[
        str, typer.Option("--schemes", help="Some of the space's schemes, or others: fp32,int8.")
    ] = "",
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Data whose first sample is run.")
    ] = None,
    shape: Shapes = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Of an EXPORT: the model that it was made of."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Of an EXPORT: the run whose plan it is, for its report."),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.1, help="Time after which nothing is repeated.")
    ] = 4.0,
    as_json: Json = False,
) -> None:
    """Measure a model's kernels into a device file; or an exported plan beside its model in fp32.

    CPU time of one thread, in shuffled rounds, repeated until it is stable. An interrupted profile
    goes on where it was.
    """
    from mpsearch.errors import UnknownNameError
    from mpsearch.profile.timed_runtime import find_timed

    if device not in ("cpu", "cuda"):
        raise UnknownNameError(f"a device to profile on must be cpu or cuda; got {device!r}")
    if device == "cuda" or runtime == "torch":
        _profile_cuda(measured, runtime, device, out, shape, as_json)
        return
    found = find_timed(runtime)
    if (measured / "plan.json").is_file():
        _profile_export(measured, found, model, run, data, minutes, as_json)
        return
    from mpsearch.artifacts import write_text
    from mpsearch.cost.executed.device_file import device_text
    from mpsearch.errors import JobError
    from mpsearch.profile.journal import open_journal
    from mpsearch.profile.profile_model import Subject, profile_model

    if out is None or out.suffix != ".toml":
        raise JobError(f"a device file to write must be given: --out FILE.toml; got {out}")
    chosen = _schemes(space, schemes)
    graph, feeds = _read(measured, shape, data)
    journal = open_journal(out, graph, found, [scheme.name for scheme in chosen])
    with progress_bars() as watch:
        made = profile_model(
            Subject(graph, measured, feeds),
            chosen,
            found,
            name=out.stem,
            journal=journal,
            budget_s=60 * minutes,
            progress=watch("kernels"),
        )
    write_text(out, device_text(made))
    journal.close()
    _say_device(made, out, as_json)


def _schemes(space: str, names: str) -> list[Any]:
    from mpsearch.schemes import find_scheme
    from mpsearch.space.files import read_space

    if names:
        return [find_scheme(name.strip()) for name in names.split(",")]
    return list(read_space(space).schemes)


def _read(
    model: Path, shapes: list[str] | None, data: Path | None
) -> "tuple[ModelGraph, dict[str, Any]]":
    """The model with all sizes bound, and one sample for it."""
    from mpsearch.data.batches import read_batches
    from mpsearch.data.fit import check_batches, data_shapes
    from mpsearch.graph.importer import import_onnx
    from mpsearch.profile.end_to_end import made_feeds

    given = {name: [s or None for s in sizes] for name, sizes in map(parse_shape, shapes or [])}
    if data is None:
        graph = import_onnx(model, shapes=given or None)
        return graph, made_feeds(graph)
    graph = import_onnx(model, shapes=given or None)
    batches = read_batches(data, limit=1, batch_size=1)
    graph = import_onnx(
        model, shapes={**data_shapes(batches, graph.inputs, graph.unbound), **given}
    )
    batches = check_batches(batches, graph)
    return graph, dict(next(iter(batches.iterate())))


def _say_device(device: Any, out: Path, as_json: bool) -> None:
    table = device.measured
    if as_json:
        print_json(
            {
                "file": out.name,
                "runtime": table.version,
                "kernels": len(table.kernels),
                "noise": table.noise,
                "float_us": table.models[0].float_us,
                "emulated": dict(table.emulated),
            }
        )
        return
    for name, reason in table.emulated.items():
        print(f"{name}: not offered: {reason}")
    print(
        f"{len(table.kernels)} kernels of {table.models[0].model} in {table.version}, noise {table.noise:.1%}; "
        f"fp32 {table.models[0].float_us / 1e3:.3g} ms\nwritten: {out}"
    )


def _profile_export(
    folder: Path,
    runtime: "TimedRuntime",
    model: Path | None,
    run: Path | None,
    data: Path | None,
    minutes: float,
    as_json: bool,
) -> None:
    from mpsearch.errors import PlanError
    from mpsearch.plan.files import read_plan
    from mpsearch.plan.match import import_planned
    from mpsearch.profile.end_to_end import made_feeds, time_models
    from mpsearch.runs.latencies import MeasuredLatency, find_run_plan, keep_latency
    from mpsearch.runtimes.session import find_model

    if model is None:
        raise PlanError(f"{folder.name}: give the model that it was made of with --model")
    plan = read_plan(folder / "plan.json")
    name = find_run_plan(run, plan) if run is not None else ""
    graph = import_planned(plan, model)
    feeds = made_feeds(graph) if data is None else _read(model, None, data)[1]
    files = {"export": find_model(folder), "fp32": model}
    with progress_bars() as watch:
        timings = time_models(
            files, feeds, runtime, budget_s=60 * minutes, progress=watch("latency")
        )
    own, whole = timings["export"], timings["fp32"]
    predicted = plan.predicted.get("latency_us")
    found = MeasuredLatency(
        plan=name or "plan.json",
        runtime=runtime.version,
        latency_us=own.us,
        stderr_us=own.stderr_us,
        float_us=whole.us,
        float_stderr_us=whole.stderr_us,
        predicted_us=None if predicted is None else predicted.mean,
        device=plan.device,
    )
    if run is not None:
        keep_latency(run, found)
    if as_json:
        print_json(found.model_dump(exclude={"extensions"}))
        return
    print(f"measured   {own.us / 1e3:.4g} ms ± {own.stderr_us / 1e3:.2g} in {runtime.version}")
    if found.predicted_us is not None:
        print(f"predicted  {found.predicted_us / 1e3:.4g} ms for {plan.device}")
    print(
        f"fp32       {whole.us / 1e3:.4g} ms ± {whole.stderr_us / 1e3:.2g}: "
        f"the export takes {own.us / whole.us:.1%} of it"
    )


def _profile_cuda(
    model: Path,
    runtime: str,
    device: str,
    out: Path | None,
    shape: list[str] | None,
    as_json: bool,
) -> None:
    from mpsearch.artifacts import write_text
    from mpsearch.errors import DeviceError, JobError

    if runtime != "torch" or device != "cuda":
        raise DeviceError(
            f"GEMMs are timed on a GPU by --runtime torch --device cuda, got --runtime {runtime} --device {device}; "
            "on a processor take --runtime onnxruntime or openvino"
        )
    from mpsearch.profile.gpu_gemms import check_gpu, csv_text, gemm_sizes, time_gemms

    gpu = check_gpu()
    if out is None or out.suffix != ".csv":
        raise JobError(f"a file for `mpsearch fit` must be given: --out FILE.csv; got {out}")
    sizes = gemm_sizes(_read(model, shape, None)[0])
    with progress_bars() as watch:
        rows, refused = time_gemms(sizes, gpu=gpu, progress=watch("gemms"))
    write_text(out, csv_text(rows))
    if as_json:
        print_json({"file": out.name, "gpu": gpu, "rows": len(rows), "refused": refused})
        return
    for name, reason in refused.items():
        print(f"{name}: not run: {reason}")
    print(f"{len(rows)} products on {gpu}\nwritten: {out}")
