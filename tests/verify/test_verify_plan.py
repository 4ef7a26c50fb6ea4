"""An exported plan runs in real runtimes and agrees with the simulation, layer by layer and as a whole."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mpsearch.data.batches import Batches
from mpsearch.errors import MissingExtraError, NumericsError, PlanError, UnknownNameError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan import restore as restore_module
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.program.program import Program
from mpsearch.runtimes.session import find_model
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.verify.verification import LayerCheck, Verification, WholeCheck
from mpsearch.verify.verify_plan import verify_plan
from tests.support.torch_models import attention_net, conv_net, images, sentences

CONV_SCHEMES = [
    "fp16",
    "bf16",
    "fp8",
    "fp8_tensor",
    "fp8_dynamic",
    "fp8_block",
    "int8",
    "int8_dynamic",
    "nvfp4",
    "nvfp4a16",
    "w4a16_g32",
    "mxfp4",
    "mxfp8",
    "fp4",
    "fp8_2of4",
    "nvfp4_2of4",
]
RUNTIMES = ["reference"] + (["openvino"] if find_spec("openvino") else [])
ATTENTION_SCHEMES = ["fp16", "fp8", "int8", "nvfp4", "mxfp4", "fp8_dynamic", "nvfp4a16"]
NETS: Mapping[str, tuple[Callable[[], onnx.ModelProto], Callable[[], Batches]]] = {
    "conv": (conv_net, images),
    "attention": (attention_net, sentences),
}


@dataclass(frozen=True)
class Exported:
    plan: Plan
    model: Path
    folder: Path
    batches: Batches


def export_uniform(folder: Path, net: str, *names: str, base: str = "fp16") -> Exported:
    """A plan that deals ``names`` out to the groups in turn, the base where one is not allowed."""
    make, data = NETS[net]
    model = folder / "net.onnx"
    onnx.save(make(), model)
    graph, batches = import_onnx(model), data()
    space = SearchSpace("s", tuple(map(find_scheme, dict.fromkeys((base, *names)))), base)
    simulator = Simulator(graph, space, batches)
    chosen = [space.index(names[g % len(names)]) for g in range(len(simulator.groups))]
    allowed = simulator.allowed
    point = Point(tuple(s if allowed[g, s] else 0 for g, s in enumerate(chosen)), {})
    plan = make_plan(point, simulator)
    export_plan(plan, model, folder / "export")
    return Exported(plan, model, folder / "export", batches)


def verify(exported: Exported, runtime: str) -> Verification:
    return verify_plan(
        exported.plan, exported.model, exported.folder, exported.batches, runtime=runtime
    )


@pytest.mark.parametrize(
    ("net", "scheme"),
    [("conv", name) for name in CONV_SCHEMES] + [("attention", name) for name in ATTENTION_SCHEMES],
)
def test_every_layer_is_proven_in_two_runtimes(tmp_path: Path, net: str, scheme: str) -> None:
    exported = export_uniform(tmp_path, net, scheme)
    for runtime in RUNTIMES:
        found = verify(exported, runtime)
        assert scheme in {check.scheme for check in found.layers}
        assert found.ok, str(found)
        assert len(found.layers) == len(exported.plan.decisions)
        assert not found.unproven


@pytest.mark.parametrize("base", ["fp16", "bf16", "fp32"])
def test_a_mixed_plan_is_proven_in_any_base(tmp_path: Path, base: str) -> None:
    exported = export_uniform(tmp_path, "conv", "nvfp4", "fp8", "fp8_2of4", "int8", base=base)
    for runtime in RUNTIMES:
        found = verify(exported, runtime)
        assert found.ok, str(found)
        assert found.whole.measure == "KL"


@pytest.mark.parametrize("scheme", ["fp16", "fp8", "int8", "w4a16_g32"])
def test_onnxruntime_runs_what_it_has_kernels_for(tmp_path: Path, scheme: str) -> None:
    found = verify(export_uniform(tmp_path, "conv", scheme), "onnxruntime")
    assert found.ok, str(found)


def test_a_runtime_that_refuses_the_export_says_so_in_one_line(tmp_path: Path) -> None:
    exported = export_uniform(tmp_path, "conv", "nvfp4")
    with pytest.raises(PlanError, match="onnxruntime cannot run the exported model") as raised:
        verify(exported, "onnxruntime")
    assert "\n" not in str(raised.value)


def test_one_wrong_weight_code_is_found_and_its_layer_named(tmp_path: Path) -> None:
    exported = export_uniform(tmp_path, "conv", "fp8")
    path = find_model(exported.folder)
    model = onnx.load(path)
    codes = next(t for t in model.graph.initializer if t.name == "mpsearch/w2/fp8/codes_0")
    values = numpy_helper.to_array(codes).copy()
    values.reshape(-1)[7] = -values.reshape(-1)[7]
    codes.CopyFrom(numpy_helper.from_array(values, codes.name))
    onnx.save(model, path)
    found = verify(exported, "reference")
    assert not found.ok
    assert [check.layer for check in found.layers if not check.ok] == ["pointwise"]
    assert "differs  pointwise (fp8)" in str(found)


def test_one_wrong_activation_scale_is_found(tmp_path: Path) -> None:
    exported = export_uniform(tmp_path, "conv", "nvfp4")
    path = find_model(exported.folder)
    model = onnx.load(path)
    scale = next(
        t for t in model.graph.initializer if t.name.startswith("mpsearch/x/nvfp4/tensor_scale")
    )
    scale.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.3), scale.name)
    )
    onnx.save(model, path)
    assert [c.layer for c in verify(exported, "reference").layers if not c.ok] == ["stem"]


def test_ranges_are_the_plans_not_those_of_the_data_that_are_run(tmp_path: Path) -> None:
    exported = export_uniform(tmp_path, "conv", "int8")
    other = replace(
        exported.batches, arrays={k: v * np.float32(2) for k, v in exported.batches.arrays.items()}
    )
    found = verify_plan(exported.plan, exported.model, exported.folder, other)
    assert all(check.ok for check in found.layers), str(found)


def test_a_runtime_that_gives_nan_is_an_error_that_names_the_layer(tmp_path: Path) -> None:
    exported = export_uniform(tmp_path, "conv", "fp16")
    path = find_model(exported.folder)
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.name == "b2")
    bias.CopyFrom(numpy_helper.from_array(np.full(24, np.nan, np.float32), "b2"))
    onnx.save(model, path)
    with pytest.raises(NumericsError, match="'pointwise' must be finite in reference"):
        verify(exported, "reference")


def test_the_export_of_another_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = export_uniform(tmp_path / "a", "conv", "fp8")
    two = export_uniform(tmp_path / "b", "attention", "fp8")
    with pytest.raises(PlanError, match="must be the export of this plan"):
        verify_plan(one.plan, one.model, two.folder, one.batches)


def test_unknown_runtimes_are_refused_with_the_choices(tmp_path: Path) -> None:
    exported = export_uniform(tmp_path, "conv", "fp16")
    with pytest.raises((UnknownNameError, MissingExtraError), match="reference, openvino"):
        verify(exported, "tpu")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"one \.onnx file"):
        find_model(tmp_path)


def test_the_result_reads_as_text_and_as_json() -> None:
    checks = (LayerCheck("a", "fp8", 1e-5, True), LayerCheck("b", "nvfp4", 0.2, False))
    whole = WholeCheck("KL", 1e-7, 0.1, 0.01, True)
    found = Verification("m.onnx", "openvino", 4, 1e-3, checks, whole, {"c": "hidden"}, "note")
    assert not found.ok
    assert found.worst == checks[1]
    assert json.loads(json.dumps(found.to_json()))["layers"][1]["error"] == 0.2
    text = str(found)
    assert "DIFFERS FROM" in text
    assert "1 of 3 within 0.001" in text
    assert "unproven c: hidden" in text


def test_a_difference_is_explained_and_followed_by_what_to_do() -> None:
    good, bad = LayerCheck("a", "fp8", 1e-5, True), LayerCheck("b", "nvfp4", 0.2, False)
    drifted, fine = (WholeCheck("KL", 0.02, 0.1, 0.01, False), WholeCheck("KL", 0, 0.1, 0.01, True))
    grown = Verification("m.onnx", "openvino", 4, 1e-3, (good, good), drifted)
    assert grown.difference.startswith(
        "each layer agrees on its own inputs, but the outputs differ"
    )
    assert "20% of what the plan itself changes" in str(grown)
    wrong = Verification("m.onnx", "openvino", 4, 1e-3, (good, bad), fine)
    assert "most of all 'b' in nvfp4 by 0.2" in wrong.difference
    assert "--keep 'b'" in str(wrong)
    same = Verification("m.onnx", "openvino", 4, 1e-3, (good,), fine)
    assert same.difference == ""
    assert same.advice == ()


def test_verification_compiles_the_model_once_and_calibrates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, compiled = export_uniform(tmp_path, "conv", "fp8"), []
    known = restore_module.compile_graph

    def counted(*args: Any, **kwargs: Any) -> Program:
        compiled.append(args)
        return known(*args, **kwargs)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("calibrated again")

    monkeypatch.setattr(restore_module, "compile_graph", counted)
    monkeypatch.setattr("mpsearch.simulate.reference.observe_model", forbidden)
    assert verify(exported, "reference").ok
    assert len(compiled) == 1
