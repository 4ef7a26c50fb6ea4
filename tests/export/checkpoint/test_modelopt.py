"""A ModelOpt checkpoint is what was simulated, in files that ModelOpt's own converter takes."""

import importlib.util
import json
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mpsearch as mp
from mpsearch.errors import PlanError
from mpsearch.export.modelopt.export import excluded
from tests.support.llama import Llama, make_llama, plan_llama, simulated_weights, with_scheme

pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")

MIXED = {
    "self_attn.q_proj": "nvfp4",
    "self_attn.k_proj": "nvfp4",
    "self_attn.v_proj": "nvfp4",
    "mlp.gate_proj": "fp8_tensor",
    "mlp.up_proj": "fp8_tensor",
    "mlp.down_proj": "nvfp4a16",
}
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@pytest.fixture(scope="module")
def made() -> Llama:
    return make_llama()


@pytest.fixture(scope="module")
def exported(made: Llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    mp.export_plan(plan_llama(MIXED), made.graph, out, target="modelopt", config=made.folder)
    return out


def own_converter() -> ModuleType:
    """Return ``modelopt.torch.export.convert_hf_config``, read by itself: all of ModelOpt takes seconds to import."""
    try:
        package = distribution("nvidia-modelopt")
    except PackageNotFoundError:
        pytest.skip("nvidia-modelopt is not installed (extra modelopt)")
    path = Path(str(package.locate_file("modelopt/torch/export/convert_hf_config.py")))
    spec = importlib.util.spec_from_file_location("convert_hf_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dequantize(tensors: dict[str, Tensor], module: str) -> Tensor:
    """A weight as the format says: code x block scale x scale of the whole."""
    weight, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"]
    if weight.dtype == torch.float8_e4m3fn:
        return weight.float() * scale
    codes = torch.stack((weight & 15, weight >> 4), -1).flatten(1)
    steps = scale.float() * tensors[f"{module}.weight_scale_2"]
    return E2M1[codes.long()] * steps.repeat_interleave(16, 1)


def test_every_weight_is_the_simulated_one(made: Llama, exported: Path) -> None:
    tensors = load_file(exported / "model.safetensors")
    wanted = simulated_weights(exported, made.graph)
    layers = json.loads((exported / "hf_quant_config.json").read_text())["quantization"]
    assert len(layers["quantized_layers"]) == 12
    for module in layers["quantized_layers"]:
        assert torch.equal(dequantize(tensors, module), wanted[module]), module
    assert tensors["lm_head.weight"].dtype == torch.bfloat16


def test_scales_of_activations_are_the_calibrated_ones(made: Llama, exported: Path) -> None:
    tensors, plan = load_file(exported / "model.safetensors"), plan_llama(MIXED)
    for layer, decision in zip(made.graph.layers, plan.decisions, strict=True):
        spec = plan.schemes[decision.scheme].activation
        found = plan.find_range(layer.gemms[0].left.value, spec)
        name = f"{layer.fqn}.input_scale"
        assert (name in tensors) == (found is not None and not spec.is_cast)
        if name in tensors:
            assert found is not None
            unit = 2688 if decision.scheme == "nvfp4" else 448
            assert float(tensors[name]) == pytest.approx(found.amax / unit, rel=1e-6)


def test_the_own_converter_takes_the_configuration(exported: Path) -> None:
    config = json.loads((exported / "hf_quant_config.json").read_text())
    assert config["producer"]["name"] == "modelopt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns of algorithms that it does not know
        found = own_converter().convert_hf_quant_config_format(config)
    assert found["quant_method"] == "modelopt"
    assert found["quant_algo"] == "MIXED_PRECISION"
    targets = [t for group in found["config_groups"].values() for t in group["targets"]]
    assert sorted(targets) == sorted(config["quantization"]["quantized_layers"])
    assert all("weights" in group for group in found["config_groups"].values())


@pytest.mark.parametrize(
    ("ends", "scale"),
    [
        (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "weight_scale_2"),
        (("mlp.gate_proj", "mlp.up_proj"), "weight_scale"),
    ],
)
def test_fused_layers_have_one_scale_of_the_whole(
    ends: tuple[str, ...], scale: str, exported: Path
) -> None:
    tensors = load_file(exported / "model.safetensors")
    for block in (0, 1):
        scales = {float(tensors[f"model.layers.{block}.{end}.{scale}"]) for end in ends}
        assert len(scales) == 1


@pytest.mark.parametrize("scheme", ["fp8", "fp8_dynamic", "int8", "w4a16_g32", "mxfp8"])
def test_what_readers_would_leave_unquantised_is_refused(
    scheme: str, made: Llama, tmp_path: Path
) -> None:
    plan = with_scheme(plan_llama(MIXED), "model.layers.0.mlp.down_proj", scheme, made.graph)
    with pytest.raises(PlanError, match="leave a layer of any other algorithm unquantised"):
        mp.export_plan(plan, made.graph, tmp_path / "out", target="modelopt")


def test_no_excluded_name_is_part_of_a_quantised_one() -> None:
    quantized = ["model.0.mlp.gate_proj", "model.0.mlp.up_proj"]
    plain = ["model.0.mlp.gate", "model.0.mlp.down_proj", "lm_head", "model.0"]
    assert excluded(plain, quantized) == ["model.0.mlp.down_proj", "lm_head"]


@pytest.mark.slow
def test_the_own_tensors_dequantise_to_the_same(made: Llama, exported: Path) -> None:
    pytest.importorskip("modelopt")
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    tensors = load_file(exported / "model.safetensors")
    wanted = simulated_weights(exported, made.graph)
    module = "model.layers.0.self_attn.k_proj"
    own = NVFP4QTensor(wanted[module].shape, torch.float32, tensors[f"{module}.weight"])
    found = own.dequantize(
        torch.float32,
        scale=tensors[f"{module}.weight_scale"],
        double_scale=tensors[f"{module}.weight_scale_2"],
        block_sizes={-1: 16},
    )
    assert torch.equal(found, wanted[module])
