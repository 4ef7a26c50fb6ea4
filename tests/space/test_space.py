from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpsearch.errors import SpaceError, UnknownNameError
from mpsearch.graph.model import Group
from mpsearch.registry import data_folder
from mpsearch.schemes import Scheme, Spec, find_scheme
from mpsearch.space.allowed import allowed, tie_groups, uniform
from mpsearch.space.files import read_space
from mpsearch.space.space import SearchSpace
from tests.support.handmade_graph import attention, conv, graph_of, linear

SHIPPED = sorted(path.stem for path in data_folder("search_spaces").glob("*.toml"))
TARGETS = sorted(path.stem for path in data_folder("search_spaces/targets").glob("*.toml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_every_space_that_ships_can_be_read_with_every_target(name: str) -> None:
    space = read_space(name)
    assert space.name == name
    assert space.base in space.names
    for target in TARGETS:
        assert read_space(name, target=target).target == target


def test_the_npu_space_is_the_five_schemes_of_the_reference() -> None:
    assert read_space("npu").names == ("fp16", "fp8", "nvfp4", "fp8_2of4", "nvfp4_2of4")


def test_the_base_is_part_of_every_space_and_can_be_chosen() -> None:
    space = read_space("npu", base="bf16")
    assert space.base == "bf16"
    assert space.names == ("bf16", "fp8", "nvfp4", "fp8_2of4", "nvfp4_2of4")
    with pytest.raises(SpaceError, match="base must be a dense float format"):
        read_space("npu", base="fp8")


def test_sparse_schemes_need_a_weight_and_divisible_channels() -> None:
    graph = graph_of(
        [conv("stem", 8, 3, 16, 3), conv("body", 8, 16, 16, 3), attention("qk", 4, 8, 16)]
    )
    mask, reasons = allowed(read_space("npu"), graph)
    sparse = read_space("npu").index("fp8_2of4")
    assert mask[:, sparse].tolist() == [False, True, False]
    assert "channels % 4 == 0" in reasons["stem", "fp8_2of4"]
    assert "two activations" in reasons["qk", "fp8_2of4"]


def test_depthwise_layers_count_the_channels_of_one_group() -> None:
    graph = graph_of([conv("dw", 8, 16, 16, 3, groups=16)])
    mask, _ = allowed(read_space("npu"), graph)
    assert mask[0].tolist() == [True, True, True, False, False]


def test_products_of_activations_take_dense_schemes_with_both_operands_quantised_only() -> None:
    space = read_space("hopper")
    mask, reasons = allowed(space, graph_of([attention("qk", 4, 8, 32)]))
    taken = [name for name, ok in zip(space.names, mask[0], strict=True) if ok]
    assert taken == ["fp16", "fp8", "int8"]
    assert "weight-only" in reasons["qk", "w4a16"]


def test_a_group_takes_what_all_its_layers_take() -> None:
    graph = graph_of([linear("q", 4, 8, 16), linear("odd", 4, 8, 15)], groups=[(0, 1)])
    mask, reasons = allowed(read_space("npu"), graph)
    assert mask.shape == (1, 5)
    assert not mask[0, 3]
    assert "'odd' has 15" in reasons["q", "fp8_2of4"]


def test_rules_take_away_by_role_operator_name_weight_and_position(tmp_path: Path) -> None:
    space = read_space(
        write(
            tmp_path / "mine.toml",
            """
            schemes = ["fp16", "fp8", "nvfp4"]
            [[rules]]
            reason = "depthwise layers gain nothing"
            forbid = ["nvfp4*"]
            role = "depthwise"
            [[rules]]
            reason = "the classifier stays high"
            allow = ["fp16"]
            position = "last"
            [[rules]]
            reason = "the stem stays in eight bits"
            forbid = ["nvfp4"]
            name = "stem*"
            op = "Conv"
            [[rules]]
            reason = "attention stays high"
            allow = ["fp16"]
            has_weight = false
            """,
        )
    )
    graph = graph_of(
        [
            conv("stem", 8, 16, 16, 3),
            conv("dw", 8, 16, 16, 3, groups=16),
            linear("stem2", 1, 16, 16),
            attention("qk", 2, 4, 16),
            linear("head", 1, 16, 16),
        ]
    )
    mask, reasons = allowed(space, graph)
    assert mask.tolist() == [
        [True, True, False],
        [True, True, False],
        [True, True, True],
        [True, False, False],
        [True, False, False],
    ]
    assert reasons["dw", "nvfp4"] == "'dw': depthwise layers gain nothing"


def test_the_base_survives_every_rule(tmp_path: Path) -> None:
    text = 'schemes = ["fp8"]\n[[rules]]\nreason = "none"\nforbid = ["*"]\n'
    space = read_space(write(tmp_path / "mine.toml", text))
    assert allowed(space, graph_of([linear("fc", 1, 4, 4)]))[0].tolist() == [[True, False]]


@pytest.mark.parametrize(("channels", "ok"), [(7, False), (8, True), (17, True), (16, True)])
def test_blocks_can_be_asked_to_be_half_full(channels: int, ok: bool) -> None:
    space = replace(read_space("npu"), min_block_fill=0.5)
    mask, _ = allowed(space, graph_of([linear("fc", 1, 4, channels)]))
    assert mask[0, 2] == ok
    assert mask[0, 1]


def test_targets_forbid_schemes_and_alignments_that_the_runtime_refuses() -> None:
    space = read_space("blackwell", target="tensorrt")
    graph = graph_of([linear("fc", 1, 8, 64), linear("odd", 1, 8, 40), conv("c", 4, 32, 8, 3)])
    mask, reasons = allowed(space, graph)
    nvfp4, mxfp4 = space.index("nvfp4"), space.index("mxfp4")
    assert mask[:, nvfp4].tolist() == [True, False, False]
    assert not mask[:, mxfp4].any()
    assert "K % 16" in reasons["odd", "nvfp4"]
    assert "e4m3 scales" in reasons["fc", "mxfp4"]


def test_uniform_is_the_scheme_where_it_is_allowed_and_the_base_elsewhere() -> None:
    space = read_space("npu")
    graph = graph_of([linear("a", 1, 4, 15), linear("b", 1, 4, 16)])
    mask, _ = allowed(space, graph)
    assert uniform(space, graph, "nvfp4_2of4", mask).tolist() == [0, 4]
    assert uniform(space, graph, "fp16", mask).tolist() == [0, 0]
    with pytest.raises(UnknownNameError, match=r"one of fp16, fp8.*got 'int8'"):
        uniform(space, graph, "int8", mask)


def test_a_base_that_cannot_be_exported_is_named_before_anything_is_measured() -> None:
    graph = graph_of([linear("fc", 1, 4, 4)])
    schemes = (find_scheme("tf32"), find_scheme("fp8"))
    space = SearchSpace("mine", schemes, "tf32")
    with pytest.raises(SpaceError, match=r"'fc' in tf32.*another base: fp32, bf16, fp16"):
        allowed(space, graph)
    space = SearchSpace("mine", (find_scheme("bf16"),), "bf16", target="onnxruntime")
    with pytest.raises(SpaceError, match=r"kernels for bf16.*another base: fp32, fp16"):
        allowed(space, graph)


def test_ties_join_groups_before_anything_is_decided() -> None:
    graph = graph_of([linear(name, 1, 4, 4) for name in ("a.q", "a.k", "b.q", "b.k")])
    space = replace(read_space("npu"), ties=(("a.*",), ("*.q",)))
    with pytest.raises(SpaceError, match="tie_groups"):
        allowed(space, graph)
    tied = tie_groups(graph, space)
    assert [group.layers for group in tied.groups] == [(0, 1, 2), (3,)]
    assert allowed(space, tied)[0].shape == (2, 5)
    with pytest.raises(SpaceError, match="matches 0"):
        tie_groups(graph, replace(space, ties=(("nothing",),)))


def test_what_is_untied_decides_for_itself_unless_it_shares_a_weight() -> None:
    layers = [linear(name, 1, 4, 4) for name in ("q", "k", "v", "o")]
    shared = replace(layers[3], gemms=layers[2].gemms)  # reads the weight of v
    graph = graph_of([*layers[:3], shared])
    graph = replace(graph, groups=(Group("q", (0, 1, 2, 3), "shared weight, one input"),))
    space = replace(read_space("npu"), untie=("k", "o"))
    with pytest.raises(SpaceError, match="tie_groups"):
        allowed(space, graph)
    untied = tie_groups(graph, space)
    assert [group.layers for group in untied.groups] == [(0, 2, 3), (1,)]
    assert tie_groups(untied, space).groups == untied.groups
    assert allowed(space, untied)[0].shape == (2, 5)
    alone = tie_groups(graph, replace(space, untie=("q", "[kvo]")))
    assert [group.layers for group in alone.groups] == [(0,), (1,), (2, 3)]
    both = tie_groups(graph, replace(space, untie=("*",), ties=(("q", "k"),)))
    assert [group.layers for group in both.groups] == [(0, 1), (2, 3)]
    with pytest.raises(SpaceError, match="matches none"):
        tie_groups(graph, replace(space, untie=("nothing",)))


def test_classification_and_regression_take_schemes_of_their_own(tmp_path: Path) -> None:
    layers = [linear(name, 1, 4, 4) for name in ("classes", "boxes")]
    graph = graph_of(layers)
    graph = replace(
        graph,
        layers=tuple(
            replace(layer, role=role)
            for layer, role in zip(
                graph.layers, ("head.classification", "head.regression"), strict=True
            )
        ),
        groups=(Group("classes", (0, 1), "tied"),),
    )
    space = read_space(
        write(
            tmp_path / "heads.toml",
            """
            schemes = ["fp16", "fp8"]
            untie = ["boxes"]
            [[rules]]
            role = "head.regression"
            allow = ["fp16"]
            reason = "coordinates need fp16"
            """,
        )
    )
    graph = tie_groups(graph, space)
    mask, reasons = allowed(space, graph)
    assert mask.tolist() == [[True, True], [True, False]]
    assert reasons == {("boxes", "fp8"): "'boxes': coordinates need fp16"}


def test_a_space_may_define_schemes_from_specs_or_after_another(tmp_path: Path) -> None:
    space = read_space(
        write(
            tmp_path / "mine.toml",
            """
            schemes = ["mine", "fp8_2of4_obs"]
            [[scheme]]
            name = "mine"
            weight = { format = "int4", granularity = "group", block_shape = [1, 32], scale_format = "fp16" }
            activation = { format = "e4m3", granularity = "token", range = "dynamic" }
            [[scheme]]
            name = "fp8_2of4_obs"
            like = "fp8_2of4"
            recovery = "obs"
            activation = { estimator = "mse" }
            """,
        )
    )
    mine, obs = space.schemes[1:]
    assert mine == Scheme(
        "mine",
        Spec("int4", "group", block_shape=(1, 32), scale_format="fp16"),
        Spec("e4m3", "token", "dynamic"),
    )
    assert obs == replace(
        find_scheme("fp8_2of4"),
        name="fp8_2of4_obs",
        recovery="obs",
        activation=Spec("e4m3", estimator="mse"),
    )


def test_recovery_at_the_top_is_that_of_all_sparse_schemes_but_those_with_their_own(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "mine.toml",
        """
        schemes = ["fp8", "fp8_2of4", "mine", "plain"]
        recovery = "obs"
        [[scheme]]
        name = "mine"
        like = "nvfp4_2of4"
        [[scheme]]
        name = "plain"
        like = "fp8_2of4"
        recovery = "none"
        """,
    )

    def recovering(space: SearchSpace) -> list[str]:
        return [scheme.name for scheme in space.schemes if scheme.recovery == "obs"]

    assert recovering(read_space(path)) == ["fp8_2of4", "mine"]
    assert recovering(read_space(path, recovery="none")) == []
    assert recovering(read_space("hopper", recovery="obs")) == [
        "fp16_2of4",
        "fp8_2of4",
        "int8_2of4",
    ]
    assert recovering(read_space("hopper")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schemes = [", "mine.toml: must be a TOML file"),
        ("base = 'fp16'", "mine.toml: schemes: must be given"),
        ("schemes = ['fp16']\nscheems = []", "scheems: no such key; keys are: .*schemes"),
        ("schemes = ['fp17']", "mine.toml: scheme must be one of .*got 'fp17'"),
        ("schemes = ['a']\n[[scheme]]\nname='a'\nlike='fp8'\nwieght={}", "scheme 'a': .*'wieght'"),
        ("schemes = ['a']\n[[scheme]]\nname='a'\nlike='fp8'\nweight={format='e9'}", "'e9'"),
        ("schemes = ['a']\n[[scheme]]\nname='a'\nlike='fp8'\nrecovery='obs'", "for sparse schemes"),
        ("schemes = ['fp8_2of4']\nrecovery = 'magic'", "recovery: Input should be 'none' or 'obs'"),
        ("schemes = ['a']\n[[scheme]]\nname='a'", "scheme 'a': weight: Field required"),
        ("schemes = ['fp8']\n[[scheme]]\nname='a'\nlike='fp8'", "listed in schemes, but 'a'"),
        ("schemes = ['fp8']\n[[scheme]]\nname='fp8'\nlike='fp16'", "'fp8' is built in"),
        ("schemes = ['fp8']\n[[rules]]\nforbid = ['x']", "rules.0.reason: must be given"),
    ],
)
def test_malformed_spaces_are_one_line_that_names_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises((SpaceError, UnknownNameError), match=message) as error:
        read_space(write(tmp_path / "mine.toml", text))
    assert "\n" not in str(error.value)


def test_unknown_names_list_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"space must be one of .*blackwell.*got 'hooper'"):
        read_space("hooper")
    with pytest.raises(UnknownNameError, match=r"target must be one of .*tensorrt.*got 'trt'"):
        read_space("npu", target="trt")
    with pytest.raises(UnknownNameError, match=r"absent\.toml"):
        read_space(tmp_path / "absent.toml")


def test_a_scheme_is_given_once() -> None:
    with pytest.raises(SpaceError, match="'fp16' twice"):
        SearchSpace("mine", (find_scheme("fp16"), find_scheme("fp16")))


def test_masks_are_boolean_arrays_of_groups_by_schemes() -> None:
    mask, _ = allowed(read_space("npu"), graph_of([linear("fc", 1, 4, 16)]))
    assert mask.dtype == np.bool_
