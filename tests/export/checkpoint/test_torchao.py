"""A torchao configuration is what torchao itself serialises, and what it makes of a model is what is promised."""

import json
from pathlib import Path

import pytest
import torch

import mpsearch as mp
from mpsearch.errors import PlanError
from mpsearch.export.torchao.configs import find_config
from mpsearch.schemes import find_scheme
from tests.support.llama import Llama, make_llama, plan_llama, simulated_weights, with_scheme

pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def made() -> Llama:
    return make_llama()


@pytest.fixture(scope="module")
def exported(made: Llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    picks = {"mlp.gate_proj": "nvfp4a16", "mlp.up_proj": "nvfp4a16", "lm_head": "w4a16_g32"}
    mp.export_plan(plan_llama(picks), made.graph, out, target="torchao")
    return out


def test_each_configuration_is_what_torchao_serialises() -> None:
    pytest.importorskip("torchao", reason="torchao is not installed (extra torchao)")
    from torchao.core.config import config_to_dict
    from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8DynamicActivationInt8WeightConfig,
        IntxWeightOnlyConfig,
        PerGroup,
        PerRow,
    )
    from torchao.quantization.quant_primitives import MappingType

    def groups(bits: str, size: int) -> IntxWeightOnlyConfig:
        return IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, bits),
            granularity=PerGroup(size),
            mapping_type=MappingType.SYMMETRIC_NO_CLIPPING_ERR,
            scale_dtype=torch.float16,
        )

    wanted = {
        "fp8_dynamic": Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
        "int8_dynamic": Int8DynamicActivationInt8WeightConfig(),
        "nvfp4a16": NVFP4WeightOnlyConfig(),
        "w4a16": groups("int4", 128),
        "w4a16_g32": groups("int4", 32),
        "w8a16": groups("int8", 128),
    }
    for name, config in wanted.items():
        assert find_config(find_scheme(name)) == config_to_dict(config), name


def test_the_file_opens_in_torchao_and_quantises_what_was_planned(
    made: Llama, exported: Path
) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed (extra torchao)")
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_
    from transformers import AutoModelForCausalLM

    config = config_from_dict(json.loads((exported / "fqn_to_config.json").read_text()))
    model = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32)
    quantize_(model, config, filter_fn=None)
    wanted = simulated_weights(exported, made.graph)
    plain = dict(made.module.named_parameters())
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        is_quantized = type(module.weight) not in (torch.nn.Parameter, torch.Tensor)
        assert is_quantized == name.endswith(("gate_proj", "up_proj", "lm_head")), name
        if name.endswith(("gate_proj", "up_proj")):
            assert torch.equal(module.weight.dequantize(), wanted[name])
        elif is_quantized:  # torchao chooses integers' scales in its own way, no worse
            own, ours, exact = module.weight.dequantize(), wanted[name], plain[f"{name}.weight"]
            assert (own - exact).norm() < 1.1 * (ours - exact).norm()


def test_the_file_names_quantised_modules_alone(exported: Path) -> None:
    found = json.loads((exported / "fqn_to_config.json").read_text())
    assert (found["_type"], found["_version"]) == ("FqnToConfig", 1)
    assert found["_data"]["fqn_to_config"] == found["_data"]["module_fqn_to_config"]
    kinds = {name: config["_type"] for name, config in found["_data"]["fqn_to_config"].items()}
    assert kinds == {
        "lm_head": "IntxWeightOnlyConfig",
        **{
            f"model.layers.{block}.mlp.{end}_proj": "NVFP4WeightOnlyConfig"
            for block in (0, 1)
            for end in ("gate", "up")
        },
    }


@pytest.mark.parametrize(
    "scheme", ["fp8", "int8", "nvfp4", "fp8_block", "mxfp4", "fp8_dynamic_2of4"]
)
def test_what_torchao_has_no_configuration_for_is_refused(
    scheme: str, made: Llama, tmp_path: Path
) -> None:
    plan = with_scheme(plan_llama({}), "model.layers.0.mlp.down_proj", scheme, made.graph)
    with pytest.raises(PlanError, match="node_linear_6"):
        mp.export_plan(plan, made.graph, tmp_path / "out", target="torchao")
