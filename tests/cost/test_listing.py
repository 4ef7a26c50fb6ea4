"""What is listed of a plan is what its costs add up to."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from mpsearch.cost.device import read_device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.cost.listing import list_executed
from mpsearch.cost.phases import Phase, read_phases
from mpsearch.errors import DeviceError
from mpsearch.graph.importer import import_onnx
from mpsearch.space.files import read_space
from tests.support.command_line import Mpsearch
from tests.support.handmade_graph import graph_of, linear
from tests.support.integer_models import branching_net


@pytest.mark.parametrize(
    ("device", "space", "target"),
    [
        ("npu_200tops", "npu", None),
        ("h100_sxm5_80gb", "hopper", None),
        ("l4_24gb", "ada", "tensorrt"),
        ("rtx4090", "ada", "vllm"),
    ],
)
def test_the_parts_add_up_to_the_plan(
    tmp_path: Path, device: str, space: str, target: str | None
) -> None:
    onnx.save(branching_net(), tmp_path / "net.onnx")
    graph = import_onnx(tmp_path / "net.onnx")
    schemes = read_space(space, target=target)
    costs = estimate_costs(graph, schemes, device)
    rng = np.random.default_rng(0)
    for _ in range(8):
        chosen = [int(rng.choice(np.flatnonzero(mask))) for mask in costs.allowed]
        total = costs.constants.get("latency_us", 0.0)
        total += sum(costs.objectives["latency_us"][g, s] for g, s in enumerate(chosen))
        pairs = zip(costs.edges, costs.pair_terms["latency_us"], strict=True)
        total += sum(term[chosen[a], chosen[b]] for (a, b), term in pairs)
        runs = list_executed(graph, schemes, read_device(device), chosen, (Phase(),))
        assert sum(run.us for run in runs) == pytest.approx(total)
        assert [run.name for run in runs if run.kind == "kernel"] == [x.name for x in graph.layers]
        assert {run.kind for run in runs} <= {"kernel", "conversion", "switch", "operators"}


def test_phases_are_listed_apart() -> None:
    graph = graph_of([linear("up", 32, 64, 64)])
    phases = read_phases({"prefill": 2048, "decode": "1@kv=64"})
    device = read_device("npu_200tops")
    runs = list_executed(graph, read_space("npu"), device, [0], phases)
    assert [(run.phase, run.name) for run in runs] == [("prefill", "up"), ("decode", "up")]
    assert runs[0].us > runs[1].us


def test_another_model_of_costs_is_named() -> None:
    device = read_device("h100_sxm5_80gb").model_copy(update={"model": "mine"})
    with pytest.raises(DeviceError, match="h100_sxm5_80gb is priced by mine"):
        list_executed(graph_of([linear("t", 1, 16, 16)]), read_space("hopper"), device, [0], ())


def test_the_command_line_lists_a_scheme_wherever_it_is_allowed(
    mpsearch: Mpsearch, tmp_path: Path
) -> None:
    onnx.save(branching_net(), tmp_path / "net.onnx")
    where = (tmp_path / "net.onnx", "--device", "h100_sxm5_80gb", "--space", "hopper")
    found = mpsearch("cost", *where, "--executed", "fp8", "--json")
    assert found.code == 0, found.err
    kinds = [row["kind"] for row in found.json["executed"]]
    assert kinds.count("kernel") == 9
    assert {"conversion", "operators"} <= set(kinds)
    total = sum(row["us"] for row in found.json["executed"])
    assert found.json["latency_us"][""] == pytest.approx(total)
    assert "runs in" in mpsearch("cost", *where, "--executed", "fp8").out
    both = mpsearch("cost", *where, "--executed", "fp8", "--explain", "stem")
    assert both.code == 1
    assert "one of --explain and --executed" in both.err
