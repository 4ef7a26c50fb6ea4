"""Options that several commands share, and the job that they make together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mpsearch.runs.job import Job, Sources

Target = Annotated[
    Path, typer.Argument(metavar="JOB.toml|MODEL.onnx", help="A job file, or a model.")
]
Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="The model, where a job or run only names it.")
]
Data = Annotated[
    Path | None, typer.Option("--data", "-d", help="Calibration data: .npz, or a folder of them.")
]
Eval = Annotated[Path | None, typer.Option("--eval", help="Held-out data to score plans on.")]
Device = Annotated[
    str | None, typer.Option("--device", help="Device name or .toml; see `mpsearch list devices`.")
]
Space = Annotated[
    str | None, typer.Option("--space", help="Space name or .toml; else the device's own.")
]
Schemes = Annotated[
    str | None, typer.Option("--schemes", help="Search these only, comma-separated.")
]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", help="Keep layers of this name pattern in the base format; repeatable."),
]
Base = Annotated[str | None, typer.Option("--base", help="Format of what is not lowered: fp16.")]
Recovery = Annotated[
    str | None,
    typer.Option(
        "--recovery", help="none, or obs: sparse schemes update the kept weights on the data."
    ),
]
Runtime = Annotated[
    str | None, typer.Option("--target", help="Forbid what this runtime cannot take.")
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Sizes of a dynamic input: x=1,3,48,192; repeatable."),
]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Samples one latency is for.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Rows that are simulated together.")
]
Samples = Annotated[
    int | None, typer.Option("--samples", min=0, help="Calibration samples at most; 0: all.")
]
Loss = Annotated[
    str | None,
    typer.Option(
        "--loss",
        help="kl, nll, mse, ctc, ctc_last; kl:OUTPUT chooses outputs, kl:worst_slice the slice that "
        "fares worst. Else as graph and data say.",
    ),
]
Metric = Annotated[
    str | None, typer.Option("--metric", help="Sensitivity; see `mpsearch list metrics`.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="search|sensitivity.NAME=VALUE",
        help="A setting of the search method's or the metric's own; repeatable.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Same seed, same result.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=0, help="Simulator's threads; 0: the machine's.")
]
MaxMemory = Annotated[
    str | None, typer.Option("--max-memory", help="Memory the process may hold: 2GB, 512MB.")
]


def parse_budget(text: str | None) -> int | str | None:
    """Return a number of measurements, or what is none for the job to judge."""
    return int(text) if text is not None and text.isdecimal() else text


Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="N|full",
        help="Whole-plan measurements that may be spent; full: two for each entry of the table.",
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option("--confidence", help="Judge by upper bounds at this level, such as 0.95."),
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run the functions that a job file names.")
]
MaxLatency = Annotated[float | None, typer.Option("--max-latency-us", help="Limit on latency.")]
MaxBytes = Annotated[float | None, typer.Option("--max-weight-bytes", help="Limit on size.")]
MaxBits = Annotated[
    float | None, typer.Option("--max-effective-bits", help="Limit on stored bits a weight.")
]
MaxLoss = Annotated[float | None, typer.Option("--max-loss", help="Limit on the measured loss.")]


def make_job(
    target: Path,
    given: dict[str, Any],
    *,
    model: Path | None = None,
    data: Path | None = None,
    evaluation: Path | None = None,
    trust_code: bool = False,
) -> "tuple[Job, Sources]":
    """Return the job of a job file or a model, what the options say put over it, and its files.

    Args:
        target: A ``.toml`` job file, or a model.
        given: Key of the job to the option's value; None where the option was not given.
        model: Where the model of a job file lies.
        data: Calibration data.
        evaluation: Held-out data.
        trust_code: Whether functions that a job file names may be run.

    Raises:
        JobError: A key is wrong, a file is missing, or a job file names code that is not trusted.
    """
    from mpsearch.errors import JobError
    from mpsearch.runs.job import change_job, check_trust, locate, new_job, read_job

    values = {key: value for key, value in given.items() if value is not None}
    limits = {
        name.removeprefix("max_"): values.pop(name)
        for name in ("max_latency_us", "max_weight_bytes", "max_effective_bits", "max_loss")
        if name in values
    }
    if limits:
        values["limits"] = limits
    if "schemes" in values:
        values["schemes"] = tuple(name.strip() for name in values["schemes"].split(",") if name)
    for text in values.pop("set", ()):
        key, name, value = parse_setting(text)
        values.setdefault(key, {"settings": {}})["settings"][name] = value
    if "shapes" in values:
        values["shapes"] = dict(map(parse_shape, values["shapes"]))
    for key, path in (("data", data), ("eval", evaluation)):
        if path is not None:
            values[key] = path.name
    if target.suffix == ".toml":
        job = change_job(read_job(target), values)
        if not trust_code:
            check_trust(job, target.name, told=values)
        folder = target.parent
    else:
        if "device" not in values:
            raise JobError(
                "a device must be given with --device; `mpsearch list devices` names them"
            )
        job = new_job({"model": target.name, **values})
        folder, model = Path(), target
    return job, locate(
        job,
        folder,
        model=model,
        data=data,
        evaluation=evaluation,
        own_device=Path() if "device" in values else folder,
        own_space=Path() if "space" in values else folder,
    )


def parse_setting(text: str) -> tuple[str, str, bool | int | float | str]:
    """Return ``search`` or ``sensitivity``, name and value of ``search.size=40``; numbers and true as in TOML.

    Raises:
        JobError: The text does not read like that.
    """
    import tomllib

    from mpsearch.errors import JobError

    path, equals, said = text.partition("=")
    key, dot, name = path.strip().partition(".")
    if not equals or not dot or not name or key not in ("search", "sensitivity"):
        raise JobError(
            f"a setting must read like search.NAME=VALUE or sensitivity.NAME=VALUE; got {text!r}"
        )
    try:
        value = tomllib.loads(f"value = {said}")["value"]
    except tomllib.TOMLDecodeError:
        value = said
    return key, name, value if isinstance(value, bool | int | float | str) else said


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return input name and sizes of ``x=1,3,48,192``; 0 or ``?`` leaves an axis to the model.

    Raises:
        JobError: The text does not read like that.
    """
    from mpsearch.errors import JobError

    name, equals, sizes = text.rpartition("=")
    parts = [part.strip() for part in sizes.split(",")]
    if not name or not equals or not all(part.isdigit() or part == "?" for part in parts):
        raise JobError(f"a shape must read like x=1,3,48,192; got {text!r}")
    return name, tuple(0 if part == "?" else int(part) for part in parts)
