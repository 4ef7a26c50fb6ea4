"""Facts of runtimes: every rule has a source, speaks of something and leaves something; the numbers are the runtimes' own."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mpsearch.errors import SpaceError, UnknownNameError
from mpsearch.graph.model import Layer
from mpsearch.registry import data_folder, list_names
from mpsearch.schemes import SCHEMES, Scheme, Spec, find_scheme
from mpsearch.space.allowed import allowed, tie_groups
from mpsearch.space.files import read_space
from mpsearch.space.nearest import nearest_scheme
from mpsearch.space.storage import CANONICAL, Storage, stored_weight_bits
from mpsearch.space.targets import (
    find_target,
    fused_layers,
    list_targets,
    names_like,
    read_target,
    target_refusals,
)
from tests.support.handmade_graph import attention, conv, graph_of, linear

NAMES = (
    "tensorrt", "vllm", "tensorrt_llm", "onnxruntime", "onnxruntime_cuda", "openvino", "iree", "torchao", "aimet", "npu",
)  # fmt: skip
EXPORTERS = (
    "onnx", "onnxruntime", "openvino", "tensorrt", "compressed_tensors", "modelopt", "torchao", "aimet", "npu",
)  # fmt: skip


def named(layer: Layer, module: str) -> Layer:
    return replace(layer, fqn=module)


LAYERS = (
    *(linear(f"k{k}", 4096, 64, k) for k in (16, 40, 96, 192, 384)),
    linear("n384", 4096, 384, 384),
    linear("few rows", 8, 64, 384),
    conv("conv", 8, 256, 256, 3),
    replace(conv("depthwise", 8, 256, 256, 3, groups=256), role="depthwise"),
    attention("scores", 4, 4096, 128),
    replace(linear("gates", 16, 256, 128), op_type="LSTM", role="recurrent"),
    linear("reused", 4096, 64, 384),
    replace(linear("reused", 4096, 64, 384), name="reused again"),
    named(linear("head", 4096, 64, 384), "lm_head"),
    named(linear("table", 4096, 64, 384), "model.embed_tokens"),
    named(linear("router", 4096, 64, 384), "model.layers.0.mlp.gate"),
    named(linear("named router", 4096, 64, 384), "model.layers.0.block_sparse_moe.router"),
    named(linear("short conv", 4096, 64, 384), "model.layers.0.linear_attn.conv1d"),
)
GRAPH = graph_of(LAYERS)


def said(target: str, layer: Layer, scheme: str) -> set[str]:
    found = target_refusals(read_target(target), graph_of([layer]), 0, find_scheme(scheme))
    return {refusal.rule for refusal in found}


def test_the_ten_targets_are_there_and_name_exporters_and_proofs_that_there_are() -> None:
    assert set(list_targets()) >= set(NAMES)
    for name in NAMES:
        target = read_target(name)
        assert target.name == name
        assert target.exporter in EXPORTERS
        assert target.version
        assert target.sources
        assert set(target.proven) <= set(list_names("runtimes"))
        assert bool(target.proven) or target.proof.startswith("unproven here: ")
        assert ("unproven here" in target.proof) == bool(target.unproven)
        assert set(target.bases) <= {"fp32", "bf16", "fp16"}


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_has_a_source_and_takes_something_from_some_layers_only(name: str) -> None:
    target = read_target(name)
    for rule in target.rules:
        assert rule.source
        assert rule.id == rule.id.lower()
        spoken = {
            (i, scheme.name)
            for i in range(len(LAYERS))
            if rule.matches(GRAPH, i)
            for scheme in SCHEMES.values()
            if rule.forbids(*names_like(scheme))
        }
        assert spoken or rule.id == "body", rule.id  # these layers stand in no body
        assert len(spoken) < len(LAYERS) * len(SCHEMES), rule.id


@pytest.mark.parametrize("name", NAMES)
def test_patterns_of_schemes_name_schemes_that_there_are(name: str) -> None:
    """A name that was misspelt would take nothing, and nobody would notice."""
    text = (data_folder("search_spaces/targets") / f"{name}.toml").read_text()
    for pattern in re.findall(
        r'"([a-z0-9_*]+)"', " ".join(re.findall(r"(?:forbid|allow|schemes) = \[([^]]*)\]", text))
    ):
        assert any(re.fullmatch(pattern.replace("*", ".*"), scheme) for scheme in SCHEMES), pattern


@pytest.mark.parametrize(
    ("target", "layer", "scheme", "rule"),
    [
        ("tensorrt", "conv", "nvfp4", "four-bit-gemm"),
        ("tensorrt", "conv", "w4a16", "four-bit-gemm"),
        ("tensorrt", "k40", "nvfp4", "k16"),
        ("tensorrt", "k40", "mxfp8", "k32"),
        ("tensorrt", "k192", "w4a16", "k128"),
        ("tensorrt", "k96", "w4a16_g64", "k64"),
        ("tensorrt", "k384", "w4a16_g32", "int4-groups"),
        ("tensorrt", "k384", "w8a16", "weight-only-int8"),
        ("tensorrt", "k384", "int8_dynamic", "activation-scales"),
        ("tensorrt", "k384", "mxfp8_e5m2", "e4m3-only"),
        ("tensorrt", "k384", "mxfp4", "fp4-blocks"),
        ("tensorrt", "k384", "nvfp4_4of8", "sparse-4of8"),
        ("tensorrt", "gates", "int8", "recurrent"),
        ("vllm", "conv", "fp8", "layer-kind"),
        ("vllm", "scores", "fp8", "linear-only"),
        ("vllm", "head", "fp8", "keep-lm-head"),
        ("vllm", "router", "nvfp4", "keep-router"),
        ("vllm", "short conv", "fp8", "keep-conv1d"),
        ("vllm", "k40", "nvfp4", "k16"),
        ("vllm", "k384", "fp8_block", "block-n128"),
        ("vllm", "k192", "fp8_block", "block-k128"),
        ("vllm", "k384", "fp8_2of4", "no-2of4"),
        ("vllm", "k384", "mxfp4", "scheme"),
        ("tensorrt_llm", "k384", "int8", "silent-fallback"),
        ("onnxruntime", "k384", "nvfp4", "no-fp4"),
        ("onnxruntime", "k384", "bf16", "no-bf16"),
        ("onnxruntime", "conv", "w4a16", "int4-gemm"),
        ("iree", "k384", "w4a16", "no-four-bit"),
        ("torchao", "k384", "int8", "no-static"),
        ("aimet", "k384", "fp8", "integers-only"),
        ("npu", "k384", "int8", "no-integers"),
    ],
)  # fmt: skip
def test_traps_of_runtimes_are_rules(target: str, layer: str, scheme: str, rule: str) -> None:
    assert rule in said(target, next(one for one in LAYERS if one.name == layer), scheme)


@pytest.mark.parametrize(
    ("target", "layer", "scheme"),
    [
        ("tensorrt", "k384", "nvfp4"),
        ("tensorrt", "conv", "int8"),
        ("tensorrt", "k192", "w4a16_g64"),
        ("vllm", "k384", "nvfp4"),
        ("vllm", "n384", "fp8_block"),
        ("vllm", "head", "bf16"),
        ("tensorrt_llm", "k384", "fp8_tensor"),
        ("onnxruntime", "conv", "int8"),
        ("openvino", "conv", "nvfp4"),
        ("iree", "conv", "fp8_tensor"),
        ("torchao", "k384", "nvfp4a16"),
        ("aimet", "conv", "int8"),
        ("npu", "conv", "nvfp4_2of4"),
    ],
)
def test_what_runtimes_take_no_rule_forbids(target: str, layer: str, scheme: str) -> None:
    one = next(one for one in LAYERS if one.name == layer)
    found = target_refusals(read_target(target), graph_of([one]), 0, find_scheme(scheme))
    assert {refusal.severity for refusal in found} <= {"note"}


def test_a_scheme_of_ones_own_is_taken_as_what_it_stores() -> None:
    own = replace(
        find_scheme("nvfp4"),
        name="mine",
        activation=replace(find_scheme("nvfp4").activation, estimator="mse"),
    )
    assert "nvfp4" in names_like(own)
    other = Scheme("int8", Spec("int4", "channel"), Spec("int8"))
    assert names_like(other) == ("int8",)
    assert [r.rule for r in target_refusals(read_target("vllm"), graph_of([LAYERS[4]]), 0, own)] == [
        "fp4-hardware"
    ]  # fmt: skip


def test_qkv_gate_up_and_experts_of_one_parent_are_one_group() -> None:
    """Also where the graph does not see it, as with experts that read tokens of their own."""
    modules = [
        *(f"model.layers.{i}.self_attn.{n}_proj" for i in range(2) for n in "qkvo"),
        *(f"model.layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")),
        *(f"model.layers.1.mlp.experts.{e}.{n}_proj" for e in range(3) for n in ("gate", "up", "down")),
    ]  # fmt: skip
    layers = [named(linear(module, 4, 64, 64), module) for module in modules]
    graph = graph_of(layers)
    space = read_space("hopper", target="vllm")
    found = {
        group.name: [modules[i] for i in group.layers] for group in tie_groups(graph, space).groups
    }
    assert sorted(map(len, found.values())) == [1, 1, 1, 2, 3, 3, 9]
    assert found["model.layers.1.self_attn.q_proj"] == [
        f"model.layers.1.self_attn.{n}_proj" for n in "qkv"
    ]
    assert [len(ids) for _, ids in fused_layers(read_target("vllm"), graph)] == [
        3,
        3,
        2,
        2,
        2,
        2,
        9,
    ]
    assert all(rule.one_scale for rule, _ in fused_layers(read_target("vllm"), graph))
    assert tie_groups(graph, read_space("hopper")).groups == graph.groups
    with pytest.raises(SpaceError, match="tie_groups"):
        allowed(space, graph)


def test_reasons_of_a_target_say_where_they_were_read() -> None:
    space = read_space("blackwell", target="tensorrt")
    _, reasons = allowed(space, graph_of([linear("odd", 1, 8, 40)]))
    assert reasons["odd", "nvfp4"] == (
        "'odd': TensorRT's blocks must divide the reduction: K % 16 == 0 (TensorRT 11, work with quantized "
        "types: fp4 has blocks of 16)"
    )


def test_a_base_that_the_target_has_no_kernels_for_is_refused_before_anything() -> None:
    with pytest.raises(SpaceError, match=r"stay in for onnxruntime: fp32, fp16; got 'bf16'"):
        read_space("npu", target="onnxruntime", base="bf16")


def test_names_of_targets_and_of_exporters_are_told_apart() -> None:
    exporter, target = find_target("vllm")
    assert exporter == "compressed_tensors"
    assert target == read_target("vllm")
    assert find_target("onnx") == ("onnx", None)
    with pytest.raises(UnknownNameError, match=r"one of aimet, .*exporter, such as onnx.*'abacus'"):
        find_target("abacus")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('schemes = ["fp16"]\ncolour = 1', "colour: no such key"),
        ('schemes = ["fp16"]\n[storage]\nsparse = "some"', "storage.*dense"),
        ('schemes = ["fp16"]\n[storage]\ncolour = 1', "storage.colour"),
        ('schemes = ["fp16"]\n[[rules]]\nid = "a"\nreason = "b"', "source"),
        ('schemes = ["fp16"]\n[[rules]]\nid = "scheme"\nreason = "b"\nsource = "c"', "'scheme' twice"),
        ('schemes = ["fp16"]\n[[groups]]\nid = "a"\nreason = "b"\nsource = "c"\npattern = "q"', "parent"),
        ('schemes = ["fp16"]\n[[groups]]\nid = "a"\nreason = "b"\nsource = "c"\npattern = "("', "regular"),
    ],
)  # fmt: skip
def test_a_malformed_target_file_is_refused_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SpaceError, match=message) as raised:
        read_target(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("storage", "scheme", "sizes", "bits"),
    [
        # 64 rows, 3 × 3 positions, 24 channels: two blocks of 16 a position, the last one short or padded
        (CANONICAL, "nvfp4", (64, 9, 24), 64 * 9 * (24 * 4 + 2 * 8) + 32),
        (Storage(blocks="whole"), "nvfp4", (64, 9, 24), 64 * 9 * (32 * 4 + 2 * 8) + 32),
        (CANONICAL, "fp8_2of4", (64, 1, 64), 64 * 64 // 2 * (8 + 2) + 64 * 32),
        (Storage(sparse="dense"), "fp8_2of4", (64, 1, 64), 64 * 64 * 8 + 64 * 32),
        (Storage(pattern_bits=3), "fp8_2of4", (64, 1, 64), 64 * (64 // 2 * 8 + 64 // 4 * 3) + 64 * 32),
        (Storage(scales=(("fp16", "fp32"),)), "w4a16_g32", (8, 1, 64), 8 * (64 * 4 + 2 * 32)),
        (Storage(word_bits=32), "w4a16_g32", (8, 1, 36), 8 * (40 * 4 + 2 * 16)),
        (Storage(zero_points=("channel",)), "int8", (8, 1, 36), 8 * (36 * 8 + 32 + 8)),
        (Storage(decoded=("group",)), "w4a16_g32", (8, 1, 36), 8 * 36 * 32),
        (Storage(decoded=("sparse",)), "fp16_2of4", (8, 1, 36), 8 * 36 * 32),
    ],
)  # fmt: skip
def test_storage_is_counted_by_hand(
    storage: Storage, scheme: str, sizes: tuple[int, int, int], bits: int
) -> None:
    assert stored_weight_bits(storage, find_scheme(scheme), *sizes) == bits


def test_the_nearest_scheme_has_nearly_the_same_bits() -> None:
    def among(*names: str) -> str:
        found = nearest_scheme(find_scheme("nvfp4"), lambda scheme: scheme.name in names)
        return "" if found is None else found.name

    assert among("fp8", "int8", "fp16", "mxfp4") == "mxfp4"
    assert among("fp8", "int8", "fp16") == "fp8"
    assert among("fp16", "fp32") == "fp16"
    assert among("nvfp4") == ""
