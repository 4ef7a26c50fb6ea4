"""A compressed-tensors checkpoint is what was simulated: in its own loader, in transformers, and by its names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mpsearch as mp
from mpsearch.errors import ModelError, PlanError
from mpsearch.export.checkpoint.fused import fused_layers
from mpsearch.export.checkpoint.write import write_tensors
from mpsearch.graph.onnx_file.constants import Constants
from mpsearch.graph.onnx_file.digests import digest_weights
from mpsearch.plan.changes import bring_changes
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.match import plan_schemes
from mpsearch.program.tensors import to_tensor
from mpsearch.registry import find
from mpsearch.schemes import find_scheme
from mpsearch.simulate.changes import Changes
from mpsearch.simulate.layer_weight import quantize_layer_weight
from mpsearch.space.stored import find_kept, total_weight_bytes
from mpsearch.space.targets import read_target
from tests.support.command_line import Mpsearch
from tests.support.llama import (
    MIXED,
    layer_of,
    make_llama,
    plan_llama,
    simulated_weights,
    with_scheme,
)

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, out = make_llama(), tmp_path_factory.mktemp("made") / "out"
    mp.export_plan(plan_llama(), made.graph, out, target="compressed_tensors", config=made.folder)
    return out


def decompressed(folder: Path) -> dict[str, tuple[str, Tensor]]:
    """Module to (format, weight), by compressed-tensors' own loader."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig.model_validate(read_config(folder)["quantization_config"])
    tensors, found = load_file(folder / "model.safetensors"), {}
    for scheme in config.config_groups.values():
        for target in scheme.targets:
            module = target.removeprefix("re:").removesuffix("$")
            prefix = f"{module}."
            state = {
                name.removeprefix(prefix): x
                for name, x in tensors.items()
                if name.startswith(prefix)
            }
            kind = BaseCompressor.get_value_from_registry(scheme.format)
            found[module] = scheme.format, kind.decompress(state, scheme)["weight"]
    return found


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(("tied", "bias"), [(False, False), (True, True)])
def test_transformers_computes_what_was_simulated(tied: bool, bias: bool, tmp_path: Path) -> None:
    made, plan = make_llama(tied=tied, bias=bias), plan_llama(tied=tied, bias=bias)
    out = tmp_path / "out"
    mp.export_plan(plan, made.graph, out, target="compressed_tensors", config=made.folder)
    found = mp.verify_plan(plan, made.graph, out, made.batches, runtime="transformers")
    assert found.ok, str(found)
    assert {check.scheme for check in found.layers} == set(MIXED.values())
    assert len(found.layers) == 15
    assert found.whole is not None
    assert found.whole.simulation > 1e-3
    assert found.whole.runtime < found.whole.simulation / 10


def test_the_own_loader_gives_the_simulated_weights(exported: Path) -> None:
    wanted, found = simulated_weights(exported, make_llama().graph), decompressed(exported)
    assert {kind for kind, _ in found.values()} == {
        "nvfp4-pack-quantized",
        "float-quantized",
        "int-quantized",
        "pack-quantized",
    }
    for module, (kind, weight) in found.items():
        if kind in ("float-quantized", "int-quantized"):  # scales are fp32
            assert torch.equal(weight, wanted[module]), module
        else:  # the loader multiplies in the type of the scales, bf16 for nvfp4
            assert torch.equal(weight, wanted[module].to(weight.dtype)), module


def test_blocks_and_groups_of_eight_bits_load_too(tmp_path: Path) -> None:
    made = make_llama()
    picks = {"mlp.down_proj": "fp8_block", "self_attn.o_proj": "fp8_2of4"}
    out = tmp_path / "out"
    mp.export_plan(
        plan_llama(picks), made.graph, out, target="compressed_tensors", config=made.folder
    )
    wanted = simulated_weights(out, made.graph)
    for module, (_, weight) in decompressed(out).items():
        assert torch.equal(weight, wanted[module])
        if module.endswith("o_proj"):
            assert int((weight == 0).sum()) >= weight.numel() // 2


def test_fused_layers_have_one_global_scale_the_reciprocal_of_the_largest(exported: Path) -> None:
    graph, tensors = make_llama().graph, load_file(exported / "model.safetensors")
    sets = [
        tuple(graph.layers[i].fqn for i in members)
        for members in fused_layers(graph)
        if MIXED[graph.layers[members[0]].fqn.removeprefix("model.layers.")].startswith("nvfp4")
    ]
    assert sorted(map(len, sets)) == [2, 3, 3]
    weights = dict(make_llama().module.named_parameters())
    for modules in sets:
        amax = [float(weights[f"{m}.weight"].abs().max()) for m in modules]
        assert len(set(amax)) > 1  # else nothing is shared
        scales = {float(tensors[f"{m}.weight_global_scale"]) for m in modules}
        assert len(scales) == 1
        assert scales.pop() == pytest.approx(2688 / max(amax), rel=1e-6)


def test_the_command_line_exports_for_vllm_and_verifies_in_transformers(
    tmp_path: Path, mpsearch: Mpsearch
) -> None:
    made, out = make_llama(), tmp_path / "out"
    picks = {name: scheme for name, scheme in MIXED.items() if name != "lm_head"}  # vLLM keeps it
    write_plan(plan_llama(picks), tmp_path / "plan.json")
    model, config = made.folder / "model.onnx", ("--config", made.folder)
    more = ("--model", model, "--target", "vllm", *config, "-o", out)
    assert mpsearch("export", tmp_path / "plan.json", *more).code == 0
    more = ("--model", model, "--data", made.folder / "ids.npz", "--runtime", "transformers")
    found = mpsearch("verify", out, *more)
    assert found.code == 0
    assert "15 of 19 within 0.001" in found.out


def test_what_is_stored_is_what_the_target_counts(exported: Path) -> None:
    made, plan = make_llama(), plan_llama()
    chosen = dict(enumerate(plan_schemes(plan, made.graph)))
    told = total_weight_bytes(
        made.graph, chosen, find_kept(made.graph, "bf16"), read_target("vllm").storage
    )
    tensors = load_file(exported / "model.safetensors")
    found = [x.nbytes for name, x in tensors.items() if is_of_a_layer(name)]
    assert sum(found) == pytest.approx(told, rel=1e-3)


def is_of_a_layer(name: str) -> bool:
    return ".weight" in name and ("_proj." in name or name.startswith("lm_head"))


@pytest.mark.parametrize("head", ["bf16", "w4a16_g32"])
def test_a_tied_table_is_counted_as_it_is_stored(head: str, tmp_path: Path) -> None:
    made = make_llama(tied=True, bias=True)
    plan = plan_llama({"mlp.down_proj": "fp8", "lm_head": head}, tied=True, bias=True)
    out = tmp_path / "out"
    mp.export_plan(plan, made.graph, out, target="compressed_tensors", config=made.folder)
    tensors = load_file(out / "model.safetensors")
    found = [x.nbytes for n, x in tensors.items() if is_of_a_layer(n) or "embed" in n]
    storage, chosen = read_target("vllm").storage, dict(enumerate(plan_schemes(plan, made.graph)))
    assert storage.kept == "base"
    told = total_weight_bytes(made.graph, chosen, find_kept(made.graph, "bf16"), storage)
    assert sum(found) == pytest.approx(told, rel=1e-3)


def test_a_checkpoint_with_the_scale_upside_down_is_found_out(
    exported: Path, tmp_path: Path
) -> None:
    made, broken = make_llama(), tmp_path / "out"
    broken.mkdir()
    for path in exported.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight_global_scale"
    tensors[name] = 1 / tensors[name]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    found = mp.verify_plan(
        read_plan(exported / "plan.json"), made.graph, broken, made.batches, runtime="transformers"
    )
    assert [check.layer for check in found.layers if not check.ok] == ["node_linear"]


def test_targets_match_each_module_once_and_ignore_names_all_others(exported: Path) -> None:
    from compressed_tensors.utils.match import match_targets

    module, config = make_llama().module, read_config(exported)["quantization_config"]
    targets = [target for group in config["config_groups"].values() for target in group["targets"]]
    linears = {n: m for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)}
    for name, one in linears.items():
        matched = match_targets(name, one, targets)
        assert len(matched) + (name in config["ignore"]) == 1, name
    assert len(targets) == len(set(targets)) == 15
    for name, one in module.named_modules():
        assert name in linears or not match_targets(name, one, targets)


def test_a_tied_head_that_is_quantised_is_tied_no_more(tmp_path: Path) -> None:
    made, out = make_llama(tied=True, bias=True), tmp_path / "out"
    plan = plan_llama(tied=True, bias=True)
    mp.export_plan(plan, made.graph, out, target="compressed_tensors", config=made.folder)
    assert read_config(out)["tie_word_embeddings"] is False
    tensors = load_file(out / "model.safetensors")
    table = made.module.get_input_embeddings().weight
    assert torch.equal(tensors["model.embed_tokens.weight"], table.bfloat16())
    assert "lm_head.weight_packed" in tensors
    plain = plan_llama({"mlp.down_proj": "fp8"}, tied=True, bias=True)
    mp.export_plan(plain, made.graph, out, target="compressed_tensors", config=made.folder)
    assert read_config(out)["tie_word_embeddings"] is True
    assert read_config(out)["quantization_config"]["format"] == "float-quantized"


def test_without_a_configuration_all_tensors_and_the_quantisation_are_written(
    exported: Path, tmp_path: Path
) -> None:
    made, out = make_llama(), tmp_path / "out"
    mp.export_plan(plan_llama(), made.graph, out, target="compressed_tensors")
    assert read_config(out) == {"quantization_config": read_config(exported)["quantization_config"]}
    with_folder, without = (load_file(x / "model.safetensors") for x in (exported, out))
    assert with_folder.keys() == without.keys()
    assert all(torch.equal(with_folder[name], without[name]) for name in without)
    only = tmp_path / "only"
    mp.export_plan(
        plan_llama(),
        made.graph,
        only,
        target="compressed_tensors",
        config=made.folder / "config.json",
    )
    assert read_config(only) == read_config(exported)


def test_weights_that_an_exporter_renamed_are_written_by_their_modules(tmp_path: Path) -> None:
    made = make_llama()
    constants = made.graph.constants
    assert isinstance(constants, Constants)
    name = "model.layers.1.mlp.down_proj"
    index = layer_of(made.graph, name)
    originals = {n: c for n, c in constants.originals.items() if n != f"{name}.weight"}
    renamed = Constants(
        constants.entries, {**originals, "onnx::MatMul_7": constants.originals[f"{name}.weight"]}
    )
    layers = list(made.graph.layers)
    gemm = layers[index].gemms[0]
    right = replace(gemm.right, source="onnx::MatMul_7")
    layers[index] = replace(layers[index], gemms=(replace(gemm, right=right),))
    graph = replace(made.graph, layers=tuple(layers), constants=renamed)
    plan = plan_llama({"self_attn.o_proj": "fp8"})
    sites = (
        replace(d, site=replace(d.site, weights=("onnx::MatMul_7",))) if i == index else d
        for i, d in enumerate(plan.decisions)
    )
    plan = replace(plan, decisions=tuple(sites), weights_digest=digest_weights(graph))
    mp.export_plan(plan, graph, tmp_path / "out", target="compressed_tensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    weight = made.module.get_submodule(name).weight
    assert torch.equal(found[f"{name}.weight"], weight.bfloat16())


def test_a_weight_that_its_module_stores_in_out_is_refused_before_a_search() -> None:
    graph = make_llama().graph
    index = layer_of(graph, "model.layers.0.mlp.up_proj")
    layer = graph.layers[index]
    right = replace(layer.gemms[0].right, value="h.c_fc.weight", source="h.c_fc.weight")
    turned = replace(layer, gemms=(replace(layer.gemms[0], right=right),))
    can_write = find("export_limits", "compressed_tensors")
    assert "GPT-2's Conv1D" in can_write(graph, turned, find_scheme("fp8"))
    assert can_write(graph, layer, find_scheme("fp8")) == ""


def test_large_checkpoints_are_split_and_indexed(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.arange(i + 1.0) for i in range(5)}
    files = write_tensors(tensors.items(), tmp_path, largest=20)
    assert [path.name for path in files] == [
        *(f"model-{i:05}-of-00004.safetensors" for i in range(1, 5)),
        "model.safetensors.index.json",
    ]
    index = json.loads(files[-1].read_text())
    assert index["metadata"] == {"total_size": 60}
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in files)


def test_fused_layers_in_two_schemes_are_refused(tmp_path: Path) -> None:
    made = make_llama()
    plan = with_scheme(plan_llama(), "model.layers.0.self_attn.k_proj", "fp8", made.graph)
    with pytest.raises(PlanError, match=r"must share one scheme.*q_proj nvfp4.*k_proj fp8"):
        mp.export_plan(plan, made.graph, tmp_path / "out", target="compressed_tensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", ["mxfp4", "mxfp8", "fp4", "nvfp4_four_over_six", "w4a16"])
def test_what_the_format_has_no_words_for_is_refused_by_layer(scheme: str, tmp_path: Path) -> None:
    made = make_llama()
    name = "model.layers.0.self_attn.o_proj"
    plan = with_scheme(plan_llama(), name, scheme, made.graph)
    node = made.graph.layers[layer_of(made.graph, name)].name
    with pytest.raises(PlanError, match=node) as caught:
        mp.export_plan(plan, made.graph, tmp_path / "out", target="compressed_tensors")
    assert "\n" not in str(caught.value)


def test_weights_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    made, other = make_llama(), tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((made.folder / "config.json").read_bytes())
    tensors = load_file(made.folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    for wrong in (tensors[name].T.contiguous(), tensors[name].flip(0).contiguous()):
        save_file({**tensors, name: wrong}, other / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            PlanError, match=r"down_proj.weight' of the checkpoint must be the weight"
        ):
            mp.export_plan(
                plan_llama(),
                made.graph,
                tmp_path / "out",
                target="compressed_tensors",
                config=other,
            )


def test_biases_and_gains_that_a_plan_changes_are_the_exported_ones(tmp_path: Path) -> None:
    made = make_llama(tied=True, bias=True)
    graph, plan = made.graph, plan_llama({"mlp.down_proj": "fp8"}, tied=True, bias=True)
    name = "model.layers.0.self_attn.o_proj"
    bias, gain = torch.linspace(-1, 1, 64), "model.norm.weight"
    constants = {gain: np.asarray(graph.constants[gain]) * 2}
    changes = Changes(biases={layer_of(graph, name): bias}, constants=constants)
    own = bring_changes(plan, graph, changes)
    out = tmp_path / "out"
    mp.export_plan(own, graph, out, target="compressed_tensors", config=made.folder)
    found = load_file(out / "model.safetensors")
    before = dict(made.module.named_parameters())
    assert torch.equal(found[gain], (before[gain] * 2).bfloat16())
    assert torch.equal(found[f"{name}.bias"], (before[f"{name}.bias"] + bias).bfloat16())
    assert mp.verify_plan(own, graph, out, made.batches, runtime="transformers").ok


def test_a_bias_that_the_model_has_no_place_for_is_refused(tmp_path: Path) -> None:
    made = make_llama()
    index = layer_of(made.graph, "model.layers.1.mlp.down_proj")
    plan = bring_changes(plan_llama(), made.graph, Changes(biases={index: torch.ones(64)}))
    with pytest.raises(
        PlanError, match=r"adds 'model.layers.1.mlp.down_proj.bias'.*without `bias`"
    ):
        mp.export_plan(plan, made.graph, tmp_path / "out", target="compressed_tensors")


def test_recovered_weights_of_fused_layers_keep_their_values_at_the_shared_scale(
    tmp_path: Path,
) -> None:
    made = make_llama()
    graph, plan = made.graph, plan_llama()
    index = layer_of(graph, "model.layers.0.self_attn.k_proj")
    value = to_tensor(graph.constants[graph.layers[index].gemms[0].right.value])
    weight = quantize_layer_weight(graph.layers[index], 0, plan.schemes["nvfp4"], value * 0.9)
    own = bring_changes(plan, graph, Changes({(index, 0): weight}))
    out = tmp_path / "out"
    mp.export_plan(own, graph, out, target="compressed_tensors", config=made.folder)
    found = decompressed(out)["model.layers.0.self_attn.k_proj"][1].float()
    wanted = weight.layout.to_rows(weight.dequantize()).flatten(1)
    assert (found - wanted).norm() < 0.04 * wanted.norm()  # what e4m3 block scales allow
    assert mp.verify_plan(own, graph, out, made.batches, runtime="transformers").ok


def test_what_transformers_does_not_load_is_told_in_one_line(tmp_path: Path) -> None:
    made, plan = make_llama(), plan_llama({"mlp.down_proj": "nvfp4"})
    for target, config, said in (
        ("modelopt", made.folder, "ModelOpt's format"),
        ("compressed_tensors", None, "names the model's architecture"),
    ):
        mp.export_plan(plan, made.graph, tmp_path / "out", target=target, config=config)
        with pytest.raises(ModelError, match=said) as caught:
            mp.verify_plan(plan, made.graph, tmp_path / "out", made.batches, runtime="transformers")
        assert "\n" not in str(caught.value)


HOSTILE = ("../../x", "re:.*", "a'b\"c", "a\nb", "x" * 10_000, "model..q", "Linear ", "${HOME}")


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    made = make_llama()
    index = layer_of(made.graph, "model.layers.0.self_attn.o_proj")
    layers = list(made.graph.layers)
    layers[index] = replace(layers[index], fqn=name)
    graph = replace(made.graph, layers=tuple(layers))
    out = tmp_path / "a" / "out"
    with pytest.raises(PlanError, match="a module's name must consist of") as caught:
        mp.export_plan(plan_llama(), graph, out, target="compressed_tensors", config=made.folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["a"])


def test_a_module_called_like_a_class_targets_itself_alone(tmp_path: Path) -> None:
    made = make_llama()
    layers = list(made.graph.layers)
    index = layer_of(made.graph, "lm_head")
    layers[index] = replace(layers[index], fqn="Linear")
    graph = replace(made.graph, layers=tuple(layers))
    mp.export_plan(plan_llama(), graph, tmp_path / "out", target="compressed_tensors")
    groups = read_config(tmp_path / "out")["quantization_config"]["config_groups"].values()
    assert ["re:Linear$"] in [group["targets"] for group in groups]
