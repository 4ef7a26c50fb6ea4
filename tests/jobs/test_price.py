from pathlib import Path

import onnx
import pytest

import mpsearch as mp
from mpsearch.errors import JobError
from mpsearch.jobs.prepare import prepare
from mpsearch.jobs.price import cost_limits, price
from mpsearch.problem.tables import Costs
from mpsearch.runs.job_file import new_job
from mpsearch.runs.sources import Sources
from tests.support.command_line import Mpsearch
from tests.support.torch_models import attention_net


def asked(tiny: Path, **values: object) -> tuple[Costs, dict[str, float]]:
    job = new_job({"model": "tiny.onnx", "device": "h100_sxm5_80gb", **values})
    sources = Sources(tiny / "tiny.onnx", None, None, job.device, "")
    prepared = prepare(job, sources)
    costs = price(prepared)
    return costs, cost_limits(prepared, costs)


def test_the_devices_memory_limits_what_might_not_fit(tiny: Path, tmp_path: Path) -> None:
    assert asked(tiny)[1] == {}
    text = (Path(mp.__file__).parents[1] / "cost_models/h100_sxm5_80gb.toml").read_text()
    small = tmp_path / "small.toml"
    small.write_text(text.replace("memory_gb = 80", "memory_gb = 4e-6"))
    job = new_job({"model": "tiny.onnx", "device": str(small), "space": "hopper"})
    prepared = prepare(job, Sources(tiny / "tiny.onnx", None, None, str(small), "hopper"))
    costs = price(prepared)
    assert cost_limits(prepared, costs) == {"memory_bytes": 4000}
    given = {"memory_bytes": 3000}
    _, limits = asked(tiny, limits=given)
    assert limits == given


def test_phases_are_options_keys_objectives_and_limits(mpsearch: Mpsearch, tmp_path: Path) -> None:
    onnx.save(attention_net(), tmp_path / "net.onnx")
    phases = ("--tokens", "prefill:64", "--tokens", "decode:1@kv=128")
    mix = ("--mix", "prefill=0.25,decode=0.75")
    where = (tmp_path / "net.onnx", "--device", "h100_sxm5_80gb", *phases, *mix)
    table = mpsearch("cost", *where, "--json").json["objectives"]
    for row in range(len(table["latency_us"])):
        prefill, decode = (table[f"latency_us:{name}"][row][0] for name in ("prefill", "decode"))
        assert table["latency_us"][row][0] == pytest.approx(0.25 * prefill + 0.75 * decode)
    assert "latency µs, decode" in mpsearch("cost", *where).out
    run = tmp_path / "run"
    found = mpsearch("search", *where, "--max-phase-us", "decode=900", "-o", run)
    assert found.code == 0, found.err
    job = mp.open_run(run).job
    assert job.tokens == {"prefill": "64", "decode": "1@kv=128"}
    assert job.limits.given() == {"latency_us:decode": 900}
    refused = mpsearch("search", *where, "--max-phase-us", "decode=1", "-o", tmp_path / "no")
    assert "no assignment has latency_us:decode <= 1 on h100_sxm5_80gb" in refused.err
    wrong = mpsearch("cost", *where[:3], "--tokens", "decode:many", "--json")
    assert wrong.code == 1
    assert "decode:1@kv=4096; got decode:many" in wrong.err


def test_a_number_of_tokens_needs_no_name(mpsearch: Mpsearch, tmp_path: Path) -> None:
    onnx.save(attention_net(), tmp_path / "net.onnx")
    where = (tmp_path / "net.onnx", "--device", "h100_sxm5_80gb")
    tables = [
        mpsearch("cost", *where, *tokens, "--json").json["objectives"]
        for tokens in ((), ("--tokens", 6), ("--tokens", 600))
    ]
    assert tables[0] == tables[1]
    assert tables[2]["latency_us"] != tables[0]["latency_us"]
    assert new_job({"model": "m.onnx", "device": "t4", "tokens": 6}).tokens == {"": "6"}


def test_what_the_device_does_not_say_is_no_objective(tiny: Path) -> None:
    with pytest.raises(JobError, match=r"objectives must be of loss, latency_us.*got 'joy'"):
        asked(tiny, objectives=["joy", "loss"])
    with pytest.raises(JobError, match="must be loss and one cost or more"):
        asked(tiny, objectives=["latency_us"])


def test_energy_and_memory_are_searched_and_limited(
    tiny: Path, mpsearch: Mpsearch, tmp_path: Path
) -> None:
    files = ("search", tiny / "tiny.onnx", "--data", tiny / "calib.npz")
    short = ("--batch-size", 8, "--measure", 2, "--refine", 0, "--device", "h100_sxm5_80gb")
    found = mpsearch(*files, *short, "--objectives", "energy_uj,loss", "-o", tmp_path / "run")
    assert found.code == 0, found.err
    front = mp.open_run(tmp_path / "run").front
    assert front is not None
    assert front.names == ("energy_uj", "loss")
    for option, name in (("--max-energy-uj", "energy_uj"), ("--max-memory-bytes", "memory_bytes")):
        chosen = mpsearch(
            "plan", "choose", tmp_path / "run", option, 1e9, "-o", tmp_path / f"{name}.json"
        )
        assert chosen.code == 0, chosen.err
        refused = mpsearch(*files, *short, option, 1, "-o", tmp_path / "no")
        assert refused.code == 1
        assert f"no assignment has {name} <= 1 on h100_sxm5_80gb; the nearest" in refused.err
