"""`mpsearch profile`: a device file that a search takes, an export beside its model, and what it refuses."""

from pathlib import Path

import onnx
import pytest

from mpsearch.export.export_plan import export_plan
from mpsearch.plan.files import write_plan
from mpsearch.profile import profile_model as module
from tests.support.command_line import Mpsearch
from tests.support.integer_models import branching_net, plan_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(branching_net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_profile_is_what_device_takes(
    model: Path, mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NOISY", 1e9)  # whoever else is at work
    out = model.parent / "mine.toml"
    done = mpsearch("profile", model, "--schemes", "fp32,int8,fp16", "--minutes", 0.1, "-o", out)
    assert done.code == 0, done.err
    assert "fp16: not offered: onnxruntime has no kernels for fp16" in done.out
    assert [path.name for path in model.parent.iterdir() if path.name.startswith(".")] == []
    costs = mpsearch("cost", model, "--device", out, "--json")
    assert costs.code == 0, costs.err
    assert costs.json["schemes"] == ["fp32", "int8", "int8_dynamic"]
    assert costs.json["objectives"]["latency_us"][0][2] is None


def test_an_export_is_measured_beside_its_model_and_kept_in_its_run(
    tmp_path: Path, mpsearch: Mpsearch
) -> None:
    plan, model = plan_of(branching_net(), tmp_path, {}, "int8")
    export_plan(plan, model, tmp_path / "out", target="onnxruntime")
    run = tmp_path / "run"
    (run / "plans").mkdir(parents=True)
    write_plan(plan, run / "plans" / "chosen.json")
    done = mpsearch(
        "profile", tmp_path / "out", "-m", model, "--run", run, "--minutes", 0.1, "--json"
    )
    assert done.code == 0, done.err
    assert done.json["plan"] == "chosen.json"
    assert 0 < done.json["latency_us"] < 1e6
    assert 0 < done.json["float_us"] < 1e6
    from mpsearch.runs.latencies import latency_facts

    (fact,) = latency_facts(run).items()
    assert fact[0].startswith("latency of plans/chosen.json in onnxruntime")
    assert "fp32 measured" in fact[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--runtime", "tvm", "-o", "a.toml"), "must be one of onnxruntime, openvino"),
        (("-o", "a.json"), "--out FILE.toml; got a.json"),
        (("--device", "tpu"), "must be cpu or cuda; got 'tpu'"),
        (("--device", "cuda", "-o", "a.csv"), "--runtime torch --device cuda, got"),
        (("--schemes", "int9", "-o", "a.toml"), "int9"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    model: Path, mpsearch: Mpsearch, arguments: tuple[str, ...], said: str
) -> None:
    done = mpsearch("profile", model, *arguments)
    assert done.code == 1
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert sorted(path.name for path in model.parent.iterdir()) == ["net.onnx"]


def test_a_damaged_model_is_one_line(tmp_path: Path, mpsearch: Mpsearch) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    done = mpsearch("profile", tmp_path / "net.onnx", "-o", tmp_path / "a.toml")
    assert done.code == 1
    assert "net.onnx" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"]
