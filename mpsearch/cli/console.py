"""What commands share with a person or a program: errors, progress on stderr, results on stdout."""

import functools
import json
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TextIO

import typer

from mpsearch.errors import MpsearchError, RefusedPlanError

P = ParamSpec("P")
_TERMINATED = 143  # 128 + SIGTERM, as shells say it
Watch = Callable[[str], Callable[[int, int, str], None]]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")
]


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a sub-command: a named error becomes its message and exit code 1, Ctrl-C becomes 130, SIGTERM 143."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with _warnings_in_one_line(), _ended_by_term() as ended:
            try:
                function(*args, **kwargs)
            except RefusedPlanError as error:
                first, *others = str(error).splitlines()
                _fail(first, 1, others)
            except MpsearchError as error:
                _fail(str(error), 1)
            except KeyboardInterrupt as error:
                code = _TERMINATED if ended else 130
                _fail(str(error) or "interrupted: nothing was written", code)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except OSError as error:
                where = Path(str(error.filename)).name if error.filename else "a file"
                _fail(f"{where}: {error.strerror or error}", 1)

    return guarded


def _fail(message: str, code: int, more: Sequence[str] = ()) -> None:
    line = " ".join(message.split())
    print(f"error: {line}" if code == 1 else line, *more, sep="\n", file=sys.stderr)
    raise typer.Exit(code)


@contextmanager
def _ended_by_term() -> Iterator[list[int]]:
    """Yield what holds the signal once SIGTERM came, which ends a command as Ctrl-C does."""
    came: list[int] = []

    def heard(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, heard)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def progress_bars() -> Iterator[Watch]:
    """Yield what stages report their progress to: bars on a terminal, else one line a finished stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[said]}", markup=True),
    )
    with Progress(*columns, console=console) as bars:

        def watch(stage: str) -> Callable[[int, int, str], None]:
            task = None

            def told(done: int, total: int, said: str) -> None:
                nonlocal task
                if task is None:
                    task = bars.add_task(stage, total=total, said="")
                shown = said.replace("[", "\\[")[-60:]
                bars.update(task, completed=done, total=total, said="" if done >= total else shown)

            return told

        yield watch


def _lines(stage: str) -> Callable[[int, int, str], None]:
    finished = False

    def told(done: int, total: int, said: str) -> None:
        nonlocal finished
        if done >= total and not finished:
            finished = True
            print(f"{stage}: {done}/{total} {said}".rstrip(), file=sys.stderr)

    return told


def print_json(value: Any) -> None:
    """Print ``value`` on stdout as one JSON document; NaN and Inf become null."""
    print(json.dumps(_finite(value), indent=1, allow_nan=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
