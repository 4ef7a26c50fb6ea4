"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help="The model, where a job or run only names it.",
        rich_help_panel="Files",
    ),
]
Data = Annotated[
    Path | None, typer.Option("--data", "-d", help="Calibration data: .npz, or a folder of them.")
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Sizes of a dynamic input: x=1,3,48,192; repeatable."),
]
BatchAxes = Annotated[
    list[str] | None,
    typer.Option(
        "--batch-axis",
        metavar="INPUT=AXIS",
        help="Axis of an input that samples run over, from 0: x=1; repeatable.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="search|sensitivity.NAME=VALUE",
        help="A setting of the search method's or the metric's own; repeatable.",
        rich_help_panel="Search",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run the functions that a job file names.",
        rich_help_panel="Choice of plans",
    ),
]
Recalibrate = Annotated[
    bool,
    typer.Option(
        "--recalibrate",
        help="The model may have other weights: make ranges and weights anew from --data.",
    ),
]


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


def parse_axis(text: str) -> tuple[str, int]:
    """Return input name and axis of ``x=1``.

    Raises:
        JobError: The text does not read like that.
    """
    from mpsearch.errors import JobError

    name, equals, axis = text.rpartition("=")
    if not name or not equals or not axis.strip().isdigit():
        raise JobError(f"a batch axis must read like x=1, counted from 0; got {text!r}")
    return name, int(axis)


def parse_phase(text: str) -> tuple[str, str]:
    """Return phase and tokens of ``decode:1@kv=4096``; a number alone has no phase."""
    name, _, tokens = text.rpartition(":")
    return name.strip(), tokens.strip()


def parse_share(text: str) -> tuple[str, float]:
    """Return phase and number of ``decode=0.8``.

    Raises:
        JobError: The text does not read like that.
    """
    from mpsearch.errors import JobError

    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise JobError(f"a phase's number must read like decode=0.8; got {text!r}") from None


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
