"""Commands whose options are keys of a job: made from its fields, when a command is called and not before."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer
from typer.core import TyperCommand

from mpsearch.cli import options as opt
from mpsearch.cli.console import command

if TYPE_CHECKING:
    from mpsearch.runs.job import Job
    from mpsearch.runs.knob import Key
    from mpsearch.runs.sources import Sources

JOB_OR_MODEL = Annotated[
    Path, typer.Argument(metavar="JOB.toml|MODEL.onnx", help="A job file, or a model.")
]
_PARSED: Mapping[str, Callable[[str], tuple[str, Any]]] = {
    "batch_axes": opt.parse_axis,
    "tokens": opt.parse_phase,
    "mix": opt.parse_share,
    "limits.phase_us": opt.parse_share,
}
_BY_NAME = inspect.Parameter.KEYWORD_ONLY


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line says of a job.

    Attributes:
        source: A ``.toml`` job file, a model, or a run folder.
        values: Key of the job to what its option says, where that was given; limits as a table.
        model: Where the model of a job file lies.
        data: Calibration data.
        evaluation: Held-out data.
        trust_code: Whether functions that a job file names may be run.
    """

    source: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    model: Path | None = None
    data: Path | None = None
    evaluation: Path | None = None
    trust_code: bool = False


def read_asked(asked: Asked) -> "tuple[Job, Sources]":
    """Return the job of a job file or a model, what the options say put over it, and its files.

    Raises:
        JobError: A key is wrong, a file is missing, or a job file names code that is not trusted.
    """
    from mpsearch.errors import JobError
    from mpsearch.runs.job_file import change_job, check_trust, new_job, read_job
    from mpsearch.runs.sources import locate

    values, model = dict(asked.values), asked.model
    for key, path in (("data", asked.data), ("eval", asked.evaluation)):
        if path is not None:
            values[key] = path.name
    if asked.source.suffix == ".toml":
        job = change_job(read_job(asked.source), values)
        if not asked.trust_code:
            check_trust(job, asked.source.name, told=values)
        folder = asked.source.parent
    else:
        if "device" not in values:
            raise JobError(
                "a device must be given with --device; `mpsearch list devices` names them"
            )
        job = new_job({"model": asked.source.name, **values})
        folder, model = Path(), asked.source
    return job, locate(
        job,
        folder,
        model=model,
        data=asked.data,
        evaluation=asked.evaluation,
        own_device=Path() if "device" in values else folder,
        own_space=Path() if "space" in values else folder,
    )


def add_job_command(
    app: typer.Typer,
    name: str,
    function: Callable[..., None],
    keys: Collection[str] | None = None,
    source: Any = JOB_OR_MODEL,
) -> None:
    """Add a command that takes a job.

    Args:
        app: What it is added to.
        name: Its name.
        function: Takes what was asked (:class:`Asked`) first, and then its own options.
        keys: Keys of the job that are options of it; None: all.
        source: Type and argument of what is asked about.
    """

    class Called(TyperCommand):
        """Stands in the list of commands; reading the job's fields would keep ``--help`` waiting."""

        def make_context(self, *args: Any, **more: Any) -> Any:
            whole = typer.Typer(add_completion=False, rich_markup_mode=None)
            whole.command(name, cls=_Grouped)(command(_with_options(function, keys, source)))
            return typer.main.get_command(whole).make_context(*args, **more)

    def listed() -> None: ...

    listed.__doc__ = function.__doc__
    app.command(name, cls=Called, short_help=first_line(function))(listed)


def first_line(command: Callable[..., None]) -> str:
    """Return what a list of commands says of one: whole, where click's own is cut at the line's end."""
    return (command.__doc__ or "").partition("\n")[0]


class _Grouped(TyperCommand):
    """Lists options under the headings of their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if param.param_type_name == "argument" else "Options"
                title = getattr(param, "rich_help_panel", None) or usual
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _with_options(
    function: Callable[..., None], wanted: Collection[str] | None, source: Any
) -> Callable[..., None]:
    """``function`` with the options of a job in place of its first parameter."""
    from mpsearch.runs.job import Job
    from mpsearch.runs.knob import grouped_keys

    keys = {
        key.name.replace(".", "_"): key
        for group in grouped_keys(Job).values()
        for key in group
        if wanted is None or key.name in wanted
    }
    typed = {name: opt.Model if name == "model" else _annotation(key) for name, key in keys.items()}
    own = list(inspect.signature(function).parameters.values())[1:]
    if "data" in keys:
        typed["trust_code"] = opt.TrustCode
    if "metric" in keys:
        typed["set"] = opt.Set
    parameters = [
        inspect.Parameter("source", _BY_NAME, annotation=source),
        *(
            inspect.Parameter(name, _BY_NAME, default=None, annotation=kind)
            for name, kind in typed.items()
        ),
        *(parameter.replace(kind=_BY_NAME) for parameter in own),
    ]

    def whole(**given: Any) -> None:
        named = {name: given.pop(name) for name in typed}
        model, data, evaluation = (named.pop(name, None) for name in ("model", "data", "eval"))
        trust_code = bool(named.pop("trust_code", False))
        own_settings = named.pop("set", None) or ()
        values = _values([(keys[name], value) for name, value in named.items()])
        for text in own_settings:
            key, name, value = opt.parse_setting(text)
            values.setdefault(key, {"settings": {}})["settings"][name] = value
        asked = Asked(given.pop("source"), values, model, data, evaluation, trust_code)
        function(asked, **given)

    whole.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    whole.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    whole.__doc__ = function.__doc__
    return whole


def _annotation(key: "Key") -> Any:
    """The type and the option of a key."""
    kind, knob, said = key.field.annotation, key.knob, key.description.rstrip(".")
    taken: Any = str
    if key.name in ("data", "eval"):
        taken = Path
    elif kind is int:
        taken = int
    elif kind in (float, float | None):
        taken = float
    elif get_origin(kind) in (tuple, dict) and not knob.joined:
        taken, said = list[str], f"{said}; repeatable"
    if key.default not in ("", "none"):
        said += f"; default: {key.default}"
    names = (key.option, "-d") if key.name == "data" else (key.option,)
    option = typer.Option(
        *names,
        help=f"{said}.",
        metavar=knob.metavar or None,
        min=key.least if taken in (int, float) else None,
        rich_help_panel=knob.group,
    )
    return Annotated[taken | None, option]


def _values(told: "Sequence[tuple[Key, Any]]") -> dict[str, Any]:
    """Key of the job to what its option says; what was not given is left out."""
    found: dict[str, Any] = {}
    for key, value in told:
        if value is None or value == []:
            continue
        if get_origin(key.field.annotation) is dict:
            texts = value.split(",") if key.knob.joined else value
            value = dict(map(_PARSED.get(key.name, opt.parse_shape), texts))
        elif key.knob.joined:
            value = tuple(name.strip() for name in value.split(",") if name)
        elif isinstance(value, list):
            value = tuple(value)
        elif key.name == "budget" and value.isdecimal():
            value = int(value)
        table, dot, name = key.name.rpartition(".")
        if dot:
            found.setdefault(table, {})[name] = value
        else:
            found[name] = value
    return found
