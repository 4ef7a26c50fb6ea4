"""The committed runs of mixed plans: every layer of every plan agrees in every runtime, and onnxruntime promotes none."""

import json
from typing import Any

import pytest

from experiments.mixed_runtimes import RESULT, RUNS

RUNTIMES = ("openvino", "reference", "onnxruntime")


def runs() -> list[tuple[str, str, str, dict[str, Any]]]:
    found = json.loads(RESULT.read_text())
    return [
        (model, plan, runtime, told[runtime])
        for model, plans in found.items()
        for plan, told in plans.items()
        for runtime in RUNTIMES
        if runtime in told
    ]


@pytest.mark.parametrize("run", runs(), ids=lambda run: " ".join(run[:3]))
def test_layers_agree(run: tuple[str, str, str, dict[str, Any]]) -> None:
    _, plan, runtime, found = run
    assert plan in RUNS
    assert found["layers_within"] == found["layers"] > 40
    assert (found["deployed"] is not None) == (runtime == "onnxruntime")
    if found["deployed"] is not None:
        assert found["deployed"]["promoted"] == []


@pytest.mark.parametrize("model", ["recogniser", "minilm"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_mixed_plan_agrees_as_a_whole_in_three_runtimes(model: str, runtime: str) -> None:
    found = [
        told for name, plan, where, told in runs()
        if (name, where) == (model, runtime) and plan.startswith("mostly narrow")
    ]  # fmt: skip
    assert [told["ok"] for told in found] == [True]
    assert found[0]["whole"]["runtime"] <= found[0]["whole"]["limit"]


def test_int8_runs_on_integer_kernels_in_real_models() -> None:
    kernels = [t["deployed"]["kernels"] for _, p, _, t in runs() if p == "int8 and fp32"]
    assert len(kernels) == 2
    assert all(found.get("MatMulIntegerToFloat", 0) >= 8 for found in kernels)
