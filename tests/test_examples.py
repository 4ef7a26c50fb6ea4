"""The short programs for users run, say what they promise, and their own metric keeps what metrics promise."""

from importlib import import_module
from pathlib import Path

import pytest

from examples import own_metric
from mpsearch.testing.metrics import CHECKS

SAID = {
    "search": "written: model.onnx",
    "own_metric": "fc2 fp16 0",
    "own_device": "fp16: ",
    "own_scheme": "the first layer stays as it is",
    "torch_module": "largest change of a probability",
    "train_in_your_loop": "written: model.onnx",
    "hugging_face": "in transformers agrees with the simulation",
}


def test_every_example_is_run() -> None:
    files = {path.stem for path in (Path(__file__).parents[1] / "examples").glob("*.py")}
    assert files - {"__init__", "small_model"} == set(SAID)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAID)
def test_the_example_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name in ("torch_module", "train_in_your_loop", "hugging_face"):
        pytest.importorskip("onnxscript")
    if name == "hugging_face":
        pytest.importorskip("compressed_tensors")
    import_module(f"examples.{name}").main(tmp_path)
    assert SAID[name] in capsys.readouterr().out


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_metric_of_the_example_keeps_what_metrics_promise(check) -> None:  # type: ignore[no-untyped-def]
    check(own_metric.METRIC)
