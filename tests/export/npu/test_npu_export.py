"""What a compiler for the NPU reads: weights bit for bit, in as many bytes as are told, and a graph that runs."""

import json
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from mpsearch.artifacts import digest_json
from mpsearch.errors import MpsearchError, PlanError
from mpsearch.export.export_plan import export_plan
from mpsearch.export.npu.export import export_packed, stored_bytes
from mpsearch.export.npu.layout import read_layout
from mpsearch.export.npu.pack import SparseCodes
from mpsearch.export.npu.unpack import assemble
from mpsearch.export.planned import planned_weights
from mpsearch.graph.importer import import_onnx
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.changes import changes_of
from mpsearch.plan.files import write_plan
from mpsearch.plan.make import make_plan
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.schemes import Scheme, Spec, find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.space.storage import stored_weight_bits
from mpsearch.space.targets import read_target
from mpsearch.verify.verify_plan import verify_plan
from tests.support.changed_plans import changed_plan, every_kind, some_data
from tests.support.graph_models import save
from tests.support.npu_reader import read_export

SCHEMES = [
    *("fp16", "bf16", "fp8", "fp8_tensor", "fp8_block", "int8", "nvfp4", "mxfp4", "mxfp8", "fp4"),
    *("w4a16_g32", "fp8_2of4", "nvfp4_2of4", "nvfp4_4of8", "fp16_2of4"),
]
RUNTIMES = ["reference"] + (["openvino"] if find_spec("openvino") else [])
ZEROS = Scheme(
    "int3_zeros",
    Spec("int3", "group", block_shape=(1, 16), scale_format="fp16", symmetric=False),
    Spec("fp16", scale_format=None),
)


def uniform_plan(folder: Path, scheme: Scheme, base: str = "fp16") -> tuple[Plan, Path]:
    path = save(every_kind(), folder)
    space = SearchSpace("s", tuple(dict.fromkeys((find_scheme(base), scheme))), base)
    simulator = Simulator(import_onnx(path), space, some_data())
    last = len(space.schemes) - 1
    chosen = tuple(last if ok else 0 for ok in simulator.allowed[:, last])
    return make_plan(Point(chosen, {}), simulator), path


def pack(plan: Plan, path: Path, out: Path, sparse: SparseCodes = "indices") -> None:
    """Write what the exporter does of any scheme, those too that the target does not take."""
    out.mkdir()
    graph = import_onnx(path, shapes=plan.shapes)
    weights = planned_weights(graph, changes_of(plan, graph))
    export_packed(plan, weights.graph, weights, out, sparse=sparse)
    write_plan(plan, out / "plan.json")


def simulated(plan: Plan, path: Path) -> dict[str, list[QuantizedTensor]]:
    """Layer to its weights as the simulation multiplies them."""
    graph = import_onnx(path, shapes=plan.shapes)
    weights = planned_weights(graph, changes_of(plan, graph))
    schemes = plan_schemes(plan, graph)
    return {
        layer.name: [weights(i, j, schemes[i]) for j, g in enumerate(layer.gemms) if g.has_weight]
        for i, layer in enumerate(graph.layers)
    }


def check_bits(plan: Plan, path: Path, folder: Path) -> tuple[dict[str, Any], int]:
    """Compare every weight that the plain reader finds with the simulation's; return the layout and how many."""
    content, tensors = read_export(folder)
    expected, compared = simulated(plan, path), 0
    for layer in content["layers"]:
        for place, weight in zip(layer["weights"], expected[layer["node"]], strict=True):
            found: NDArray[np.float32] = tensors[place["tensor"]]
            wanted = weight.dequantize().numpy()
            assert found.dtype == wanted.dtype == np.float32
            assert found.shape == wanted.shape
            np.testing.assert_array_equal(found, wanted, err_msg=layer["node"])
            compared += 1
    return content, compared


@pytest.mark.parametrize("name", SCHEMES)
def test_a_plain_reader_rebuilds_every_weight_of_the_simulation(tmp_path: Path, name: str) -> None:
    plan, path = uniform_plan(tmp_path, find_scheme(name))
    pack(plan, path, tmp_path / "out")
    content, compared = check_bits(plan, path, tmp_path / "out")
    assert compared == 10
    assert {layer["scheme"] for layer in content["layers"]} >= {name}
    blobs = [part for tensor in content["tensors"] for part in tensor["parts"].values()]
    assert all(part["offset"] % content["alignment"] == 0 for part in blobs)
    layout = read_layout(tmp_path / "out" / "layout.json")
    told = plan.coverage.effective_bits * plan.coverage.parameters / 8
    assert stored_bytes(layout) == pytest.approx(told, rel=0.02)


@pytest.mark.parametrize("name", ["fp16", "fp8", "nvfp4", "fp4", "fp8_2of4", "nvfp4_2of4"])
def test_what_the_target_takes_is_stored_as_its_storage_says(tmp_path: Path, name: str) -> None:
    plan, path = uniform_plan(tmp_path, find_scheme(name))
    files = export_plan(plan, path, tmp_path / "out", target="npu")
    assert [f.name for f in files] == ["layout.json", "weights.bin", "graph.onnx", "plan.json"]
    content, compared = check_bits(plan, path, tmp_path / "out")
    assert compared == 10
    storage, told = read_target("npu").storage, 0
    for tensor in content["tensors"]:
        own = Scheme(
            "own", Spec(**tensor["spec"]), Spec("fp16", scale_format=None), tensor["sparsity"]
        )
        sizes = (tensor[key] for key in ("rows", "positions", "channels"))
        told += stored_weight_bits(storage, own, *sizes) // 8
    layout = read_layout(tmp_path / "out" / "layout.json")
    assert stored_bytes(layout) == pytest.approx(told, rel=0.02)


def test_what_the_target_does_not_take_is_refused_layer_by_layer(tmp_path: Path) -> None:
    plan, path = uniform_plan(tmp_path, find_scheme("int8"))
    with pytest.raises(PlanError, match="does not of 10 of 10 layers"):
        export_plan(plan, path, tmp_path / "out", target="npu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nvfp4", "fp8_2of4"])
def test_recovered_weights_are_rebuilt_too(tmp_path: Path, name: str) -> None:
    path, _, _, _, plan = changed_plan(tmp_path, name)
    export_plan(plan, path, tmp_path / "out", target="npu")
    assert check_bits(plan, path, tmp_path / "out")[1] == 10


def test_zero_points_and_three_bits_are_rebuilt(tmp_path: Path) -> None:
    plan, path = uniform_plan(tmp_path, ZEROS, base="fp32")
    pack(plan, path, tmp_path / "out")
    content, _ = check_bits(plan, path, tmp_path / "out")
    assert any("zero_points" in tensor["parts"] for tensor in content["tensors"])


@pytest.mark.parametrize(("name", "bits"), [("fp8_2of4", 3), ("nvfp4_4of8", 3)])
def test_pattern_codes_say_the_same_in_fewer_bits(tmp_path: Path, name: str, bits: int) -> None:
    plan, path = uniform_plan(tmp_path, find_scheme(name))
    sizes, choices = {}, get_args(SparseCodes)
    for sparse in choices:
        pack(plan, path, tmp_path / sparse, sparse)
        content, compared = check_bits(plan, path, tmp_path / sparse)
        assert compared == 10
        places = [t["parts"][sparse] for t in content["tensors"] if sparse in t["parts"]]
        assert places
        sizes[sparse] = sum(part["bytes"] for part in places)
        assemble(tmp_path / sparse)
    assert {part["bits"] for part in places} == {bits}
    assert sizes["patterns"] < sizes["indices"]


@pytest.mark.parametrize("name", ["nvfp4", "fp8_2of4", "int8"])
def test_what_lies_on_disk_is_proven_layer_by_layer(tmp_path: Path, name: str) -> None:
    path, _, _, _, plan = changed_plan(tmp_path, name)
    pack(plan, path, tmp_path / "out", "patterns")
    for runtime in RUNTIMES:
        found = verify_plan(plan, path, tmp_path / "out", some_data(), runtime=runtime)
        assert found.ok, str(found)
        assert len(found.layers) == 10
        assert "not the NPU's own arithmetic" in found.note
        assert [each.name for each in found.measured] == ["KL"]
        assert found.measured[0].runtime.mean == pytest.approx(
            found.measured[0].simulation.mean, rel=0.2
        )


def test_the_graph_is_valid_onnx_that_runs_on_the_weights_of_a_plain_reader(tmp_path: Path) -> None:
    plan, path = uniform_plan(tmp_path, find_scheme("fp8"))
    export_plan(plan, path, tmp_path / "out", target="npu")
    graph = onnx.load(tmp_path / "out" / "graph.onnx")
    onnx.checker.check_model(graph, full_check=True)
    content, tensors = read_export(tmp_path / "out")
    names = {value.name for value in graph.graph.input}
    assert names == {"x", *tensors}
    large = [t for t in graph.graph.initializer if len(t.dims) > 1 and t.dims[0] * t.dims[1] > 100]
    assert not large
    feeds = dict(some_data().arrays) | tensors
    found = ReferenceEvaluator(graph).run(["y"], feeds)[0]
    assert found.shape == (6, 40)
    assert np.isfinite(found).all()
    assert [layer["node"] for layer in content["layers"]] == [d.site.node for d in plan.decisions]


def test_a_base_that_is_the_models_own_type_leaves_the_graph_too(tmp_path: Path) -> None:
    plan, path = uniform_plan(tmp_path, find_scheme("fp32"), base="fp32")
    export_plan(plan, path, tmp_path / "out", target="npu")
    assert check_bits(plan, path, tmp_path / "out")[1] == 10
    assert verify_plan(plan, path, tmp_path / "out", some_data()).ok


def edit(folder: Path, change: Any) -> None:
    """Change the layout's content and mend its digest."""
    envelope = json.loads((folder / "layout.json").read_text())
    change(envelope["content"])
    envelope["digest"] = digest_json(envelope["content"])
    (folder / "layout.json").write_text(json.dumps(envelope))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["tensors"][0]["parts"]["codes"].update(offset=64 * 10**9), "lie within"),
        (lambda c: c["tensors"][0].update(rows=10**12), "sizes of"),
        (lambda c: c["tensors"][0].update(name="../../x"), "must read tensors of the file"),
        (lambda c: c["tensors"][0]["parts"].pop("codes"), "as large as its blobs"),
        (lambda c: c["tensors"][0]["parts"]["codes"].update(format="int8"), "must be e4m3"),
        (lambda c: c["layers"][0].update(scheme="fp9"), "a scheme that the file defines"),
        (lambda c: c["blobs"].update(bytes=3), "weights.bin: must be the file"),
        (lambda c: c["tensors"][0].update(colour="red"), "colour"),
        (lambda c: c["tensors"][0].update(order=[0, 0, 1, 2, 3]), "sizes of"),
    ],
)
def test_a_layout_that_lies_is_refused_in_one_line(
    tmp_path: Path, change: Any, message: str
) -> None:
    plan, path = uniform_plan(tmp_path, find_scheme("fp8"))
    export_plan(plan, path, tmp_path / "out", target="npu")
    edit(tmp_path / "out", change)
    with pytest.raises(MpsearchError, match=message) as raised:
        verify_plan(plan, path, tmp_path / "out", some_data())
    assert "\n" not in str(raised.value)


def test_one_wrong_code_is_found_and_its_layer_named(tmp_path: Path) -> None:
    plan, path = uniform_plan(tmp_path, find_scheme("fp8"))
    export_plan(plan, path, tmp_path / "out", target="npu")
    blobs = bytearray((tmp_path / "out" / "weights.bin").read_bytes())

    def turn(content: dict[str, Any]) -> None:
        tensor = content["layers"][5]["weights"][0]["tensor"]
        part = next(t for t in content["tensors"] if t["name"] == tensor)["parts"]["codes"]
        start, stop = part["offset"], part["offset"] + part["bytes"]
        blobs[start] ^= 0x80
        part["digest"] = sha256(blobs[start:stop]).hexdigest()
        content["blobs"]["digest"] = sha256(blobs).hexdigest()

    edit(tmp_path / "out", turn)
    (tmp_path / "out" / "weights.bin").write_bytes(blobs)
    found = verify_plan(plan, path, tmp_path / "out", some_data())
    assert [check.layer for check in found.layers if not check.ok] == [plan.decisions[5].site.node]
    assert found.first is not None
    assert found.first.layer == plan.decisions[5].site.node
