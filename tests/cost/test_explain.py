from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpsearch.cost.device import read_device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.cost.explain import explain_layer
from mpsearch.cost.phases import Phase
from mpsearch.errors import DeviceError, UnknownNameError
from mpsearch.space.files import read_space
from tests.support.command_line import Mpsearch
from tests.support.handmade_graph import graph_of, linear

SPACE = """
base = "fp16"
schemes = ["fp16", "a8b4", "a8b4_sparse"]

[[scheme]]
name = "a8b4"
like = "fp8"
weight = { format = "e2m1", granularity = "tensor", scale_format = "e8m0" }

[[scheme]]
name = "a8b4_sparse"
like = "fp8"
weight = { format = "e2m1", granularity = "tensor", scale_format = "e8m0" }
sparsity = "2:4"
"""


def write_product(folder: Path) -> Path:
    """A 256 × 512 activation by a 512 × 256 weight."""
    weight = np.random.default_rng(0).normal(size=(512, 256)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [256, 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [256, 256])],
        [numpy_helper.from_array(weight, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "product.onnx")
    (folder / "textbook.toml").write_text(SPACE)
    return folder / "product.onnx"


def test_the_textbook_case_on_the_command_line(mpsearch: Mpsearch, tmp_path: Path) -> None:
    model = write_product(tmp_path)
    where = (model, "--device", "npu_200tops", "--space", tmp_path / "textbook.toml")
    found = mpsearch("cost", *where, "--batch", 256, "--explain", "product", "--json")
    assert found.code == 0, found.err
    rows = {row["scheme"]: row for row in found.json["schemes"]}
    dense, sparse = rows["a8b4"], rows["a8b4_sparse"]
    assert sparse["flops"] == 2 * 256 * 512 * 256
    left, right, written = (part / 1024 for part in sparse["traffic"]["chip"])
    assert (left, written) == (128, 128)
    assert 38 <= right <= 44.01
    assert 1.6 <= dense["latency_us"] / sparse["latency_us"] <= 1.8
    assert 0.85 <= sparse["busy"] <= 0.9
    assert sparse["bound"] == "compute"
    assert "bound by" in mpsearch("cost", *where, "--explain", "product").out


def test_a_layer_that_is_not_there_names_those_called_alike(
    mpsearch: Mpsearch, tmp_path: Path
) -> None:
    model = write_product(tmp_path)
    found = mpsearch("cost", model, "--device", "t4", "--explain", "produkt")
    assert found.code == 1
    assert "such as product; got 'produkt'" in found.err


@pytest.mark.parametrize("device", ["npu_200tops", "h100_sxm5_80gb", "b200_hgx", "l4_24gb"])
def test_latencies_are_those_of_the_costs(device: str) -> None:
    graph = graph_of([linear("a", 64, 256, 128), linear("b", 2048, 1024, 1024)])
    space = read_space({"npu": "npu", "h10": "hopper", "b20": "blackwell"}.get(device[:3], "ada"))
    costs = estimate_costs(graph, space, device)
    for g, name in enumerate(("a", "b")):
        rows = explain_layer(graph, space, read_device(device), name, (Phase(),))
        assert [row.scheme for row in rows] == list(space.names)
        base = costs.objectives["latency_us"][g, space.index("fp16")]
        assert rows[space.index("fp16")].latency_us == pytest.approx(base)


def test_what_binds_changes_with_the_rows() -> None:
    graph = graph_of([linear("one", 1, 4096, 4096), linear("many", 16384, 4096, 4096)])
    device, space = read_device("h100_sxm5_80gb"), read_space("hopper")
    bound = [
        explain_layer(graph, space, device, name, (Phase(),))[0].bound for name in ("one", "many")
    ]
    assert bound == ["dram", "compute"]
    tiny = explain_layer(graph_of([linear("t", 1, 16, 16)]), space, device, "t", (Phase(),))
    assert {row.bound for row in tiny} == {"launch"}
    with pytest.raises(UnknownNameError, match="must be one of handmade"):
        explain_layer(graph, space, device, "none", (Phase(),))


def test_what_other_models_price_is_not_explained() -> None:
    device = read_device("h100_sxm5_80gb").model_copy(update={"model": "mine"})
    with pytest.raises(DeviceError, match="h100_sxm5_80gb is priced by mine"):
        explain_layer(graph_of([linear("t", 1, 16, 16)]), read_space("hopper"), device, "t", ())


def test_every_phase_is_explained() -> None:
    graph = graph_of([linear("up", 32, 64, 64)])
    phases = (Phase("prefill", 2048, 0), Phase("decode", 1, 4096))
    rows = explain_layer(graph, read_space("npu"), read_device("npu_200tops"), "up", phases)
    flops = {row.phase: row.flops for row in rows}
    assert flops == {"prefill": 2 * 2048 * 64 * 64, "decode": 2 * 64 * 64}
