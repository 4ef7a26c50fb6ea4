"""The command line called in this process, and runs of a tiny job that tests share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from mpsearch.cli.app import app
from tests.support.tiny_job import write_job


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Mpsearch = Callable[..., Result]


@pytest.fixture(scope="session")
def mpsearch() -> Mpsearch:
    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def finished(tiny: Path, mpsearch: Mpsearch) -> Path:
    """A finished run of the tiny job; tests must not change it."""
    run = tiny / "finished"
    result = mpsearch(*SEARCH(tiny), "--eval", tiny / "held.npz", "-o", run)
    assert result.code == 0, result.err
    return run


def SEARCH(folder: Path) -> list[object]:  # noqa: N802 - reads as the constant that it nearly is
    return [
        "search",
        folder / "tiny.onnx",
        "--data",
        folder / "calib.npz",
        "--device",
        "npu_200tops",
        "--batch",
        64,
        "--batch-size",
        8,
        "--measure",
        4,
    ]
