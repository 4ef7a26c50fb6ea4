"""A file that cannot be used is refused in one line that says why; nothing outside its folder is read."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mpsearch.errors import ModelError, MpsearchError
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.onnx_file.digests import digest_weights
from mpsearch.graph.onnx_file.write import to_onnx
from tests.support.attention_models import fused_encoder, grouped
from tests.support.graph_models import integers, model, noise, run, save, tensor

node = helper.make_node


def simple() -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", "w"], ["y"], name="fc")], {"x": ["n", 4]}, ["y"], [tensor("w", 4, 4)]
    )


def refused(path: Path, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        import_onnx(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.onnx") == "none.onnx: cannot be read: No such file or directory"


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "must be an ONNX model" in refused(path)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(simple().SerializeToString()[:-40])
    refused(path)


def test_a_value_that_nothing_produces(tmp_path: Path) -> None:
    proto = model([node("Relu", ["nowhere"], ["y"], name="r")], {"x": [1]}, ["y"])
    assert "node 'r' reads 'nowhere', which nothing produces" in refused(save(proto, tmp_path))


def test_an_output_that_nothing_produces(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["a"])], {"x": [1]}, ["y"])
    assert "nothing produces the output 'y'" in refused(save(proto, tmp_path))


def test_two_producers_of_one_value(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], {"x": [1]}, ["y"])
    assert "must have one producer" in refused(save(proto, tmp_path))


def test_a_cycle(tmp_path: Path) -> None:
    proto = model([node("Relu", ["b"], ["a"]), node("Neg", ["a"], ["b"])], {"x": [1]}, ["b"])
    assert "cycle" in refused(save(proto, tmp_path))


def test_operators_from_the_future(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["a"]), node("NotYet", ["a"], ["y"])], {"x": [1]}, ["y"])
    proto.opset_import[0].version = 999
    assert "opset 7 to 25 is needed, got 999, whose NotYet" in refused(save(proto, tmp_path))


def test_a_newer_opset_whose_operators_did_not_change(tmp_path: Path) -> None:
    proto = simple()
    proto.opset_import[0].version = 26
    graph = import_onnx(save(proto, tmp_path))
    assert (graph.opset, graph.nodes[0].version) == (25, 25)


def test_an_old_opset_is_converted(tmp_path: Path) -> None:
    nodes = [node("Add", ["x", "b"], ["y"], broadcast=1)]
    proto = model(nodes, {"x": [2, 3, 4]}, ["y"], [tensor("b", 4)], opset=6)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")
        for size in (2, 3, 4):
            value.type.tensor_type.shape.dim.add(dim_value=size)
    graph = import_onnx(save(proto, tmp_path))
    assert graph.opset == 7
    x = noise(2, 3, 4)
    b = numpy_helper.to_array(proto.graph.initializer[0])
    (found,) = run(to_onnx(graph), {"x": x})
    np.testing.assert_allclose(found, x + b, rtol=1e-6)


def test_bytes_that_do_not_fill_the_shape(tmp_path: Path) -> None:
    proto = simple()
    proto.graph.initializer[0].raw_data = b"\0" * 60
    assert "tensor 'w'" in refused(save(proto, tmp_path))


def test_a_huge_claim_is_refused_without_memory(tmp_path: Path) -> None:
    proto = simple()
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]
    assert "do not fit" in refused(save(proto, tmp_path))


def test_a_huge_constant_of_shape_is_not_folded(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])]
    graph = import_onnx(
        save(model(nodes, {"x": ["n", 4]}, ["y"], [integers("s", [1 << 30, 1 << 30])]), tmp_path)
    )
    assert [n.op_type for n in graph.nodes] == ["ConstantOfShape", "Add"]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"z": (1, 4)}, "shapes must name inputs (x), got 'z'"),
        ({"x": (1, 4, 4)}, "has 2 axes"),
        ({"x": (1, 5)}, "axis 1 of input 'x' is fixed at 4, shapes give 5"),
    ],
)
def test_shapes_that_do_not_fit(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    assert words in refused(save(simple(), tmp_path), shapes=shapes)


def external(proto: onnx.ModelProto, **entries: str) -> onnx.ModelProto:
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return proto


def test_external_data_are_mapped_when_asked_for(tmp_path: Path) -> None:
    weights = noise(4, 4)
    (tmp_path / "w.bin").write_bytes(b"\0" * 16 + weights.tobytes())
    graph = import_onnx(
        save(external(simple(), location="w.bin", offset="16", length="64"), tmp_path)
    )
    np.testing.assert_array_equal(graph.constants["w"], weights)
    assert isinstance(graph.constants["w"].base, np.memmap)


def test_inline_and_external_models_have_one_digest(tmp_path: Path) -> None:
    inline = simple()
    weights = numpy_helper.to_array(inline.graph.initializer[0])
    (tmp_path / "w.bin").write_bytes(weights.tobytes())
    first = import_onnx(save(inline, tmp_path, "a.onnx"))
    second = import_onnx(save(external(simple(), location="w.bin"), tmp_path, "b.onnx"))
    assert first.structure_digest == second.structure_digest
    assert digest_weights(first) == digest_weights(second)


def test_digests_tell_models_apart(tmp_path: Path) -> None:
    changed, renamed = simple(), simple()
    changed.graph.initializer[0].CopyFrom(tensor("w", 4, 4, seed=1))
    renamed.graph.node[0].op_type = "Gemm"
    first, second, third = (
        import_onnx(save(proto, tmp_path, f"{i}.onnx"))
        for i, proto in enumerate((simple(), changed, renamed))
    )
    assert first.structure_digest == second.structure_digest != third.structure_digest
    assert digest_weights(first) != digest_weights(second)


def test_missing_external_data(tmp_path: Path) -> None:
    path = save(external(simple(), location="gone.bin"), tmp_path)
    assert "tensor 'w': external data file 'gone.bin' is missing" in refused(path)


def test_short_external_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 60)
    assert "which holds 60" in refused(save(external(simple(), location="w.bin"), tmp_path))


@pytest.mark.parametrize("entries", [{"offset": "-4"}, {"offset": "x"}, {"length": "8"}])
def test_external_data_with_wrong_numbers(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 64)
    refused(save(external(simple(), location="w.bin", **entries), tmp_path))


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{absolute}", "link.bin", "folder/../../secret.bin", ""]
)
def test_external_data_outside_the_folder_are_never_read(tmp_path: Path, location: str) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\0" * 64)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.bin").symlink_to(secret)
    path = save(external(simple(), location=location.format(absolute=secret)), inside)
    message = refused(path)
    assert "external data must" in message


def test_unknown_operators_are_kept(tmp_path: Path) -> None:
    nodes = [
        node("Wild", ["x"], ["a"], name="wild", domain="example.org"),
        node("MatMul", ["a", "w"], ["y"], name="fc"),
    ]
    proto = model(nodes, {"x": ["n", 4]}, ["y"], [tensor("w", 4, 3)], domains=["example.org"])
    graph = import_onnx(save(proto, tmp_path))
    assert [(n.domain, n.op_type) for n in graph.nodes] == [("example.org", "Wild"), ("", "MatMul")]
    assert (graph.layers[0].m, graph.layers[0].n, graph.layers[0].k) == (1, 3, 4)


def mutated(data: bytes, seed: int) -> bytes:
    """Return ``data`` with a few bytes changed, cut out, put in, or its tail cut off."""
    rng = random.Random(seed)
    result = bytearray(data)
    for _ in range(rng.choice([1, 2, 5, 20])):
        if not result:
            break
        at, kind = rng.randrange(len(result)), rng.random()
        if kind < 0.6:
            result[at] = rng.randrange(256)
        elif kind < 0.75:
            del result[at : at + rng.randrange(1, 9)]
        elif kind < 0.95:
            result[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            del result[at:]
    return bytes(result)


def varied() -> bytes:
    """Return a small model with most of what an importer meets: control flow, constants, functions."""
    body = helper.make_graph(
        [node("MatMul", ["h", "w"], ["h2"]), node("Identity", ["go"], ["go2"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("go", 9, []),
            helper.make_tensor_value_info("h", 1, ["n", 4]),
        ],
        [
            helper.make_tensor_value_info("go2", 9, []),
            helper.make_tensor_value_info("h2", 1, ["n", 4]),
        ],
    )
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        node("Constant", [], ["k"], value=tensor("k", 4, 2, 3, 3)),
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        node("Shape", ["c"], ["s"]),
        node("Gather", ["s", "zero"], ["b"]),
        node("Concat", ["b", "rest"], ["t"], axis=0),
        node("Reshape", ["c", "t"], ["r"]),
        node("Loop", ["trips", "", "r"], ["l"], body=body, name="loop"),
        node("Twice", ["l"], ["tw"], domain="local"),
        node("Einsum", ["tw", "w"], ["e"], equation="ij,jk->ik"),
        node("Gemm", ["e", "w", "bias"], ["y"], name="fc", transB=1),
    ]
    tensors = [
        tensor("w", 4, 4),
        tensor("bias", 4),
        integers("zero", [0]),
        integers("rest", [-1, 4]),
        integers("trips", 3),
    ]
    nodes[5] = node("Reshape", ["c", "flat"], ["r"])
    tensors.append(integers("flat", [-1, 4]))
    proto = model(
        nodes, {"x": ["n", 2, 4, 4]}, ["y"], tensors, functions=[function], domains=["local"]
    )
    return proto.SerializeToString()


def survive(tmp_path: Path, seeds: range, data: bytes) -> dict[str, int]:
    path = tmp_path / "m.onnx"
    counts = {"imported": 0, "refused": 0}
    for seed in seeds:
        path.write_bytes(mutated(data, seed))
        try:
            import_onnx(path)
            counts["imported"] += 1
        except MpsearchError:
            counts["refused"] += 1
    return counts


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_imported_or_refused(tmp_path: Path) -> None:
    counts = survive(tmp_path, range(300), varied())
    assert counts["imported"] > 0  # else the mutations test the parser alone
    assert counts["refused"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [fused_encoder, grouped])
def test_mutated_operators_that_are_spelt_out_are_imported_or_refused(
    tmp_path: Path, make: Callable[[], tuple[onnx.ModelProto, object]]
) -> None:
    proto, _ = make()
    (tmp_path / "w.bin").write_bytes(b"\0" * (1 << 17))
    for weight in proto.graph.initializer:  # else the bytes of weights take most mutations
        if len(weight.raw_data) > 64:
            weight.ClearField("raw_data")
            weight.data_location = onnx.TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="w.bin")
    counts = survive(tmp_path, range(150), proto.SerializeToString())
    assert counts["imported"] > 0
    assert counts["refused"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_mutated_files_are_imported_or_refused(tmp_path: Path) -> None:
    counts = survive(tmp_path, range(300, 2300), varied())
    assert sum(counts.values()) == 2000


def test_the_unmutated_file_comes_in(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(varied())
    graph = import_onnx(path)
    assert [layer.op_type for layer in graph.layers] == ["Conv", "MatMul", "Einsum", "Gemm"]
    assert os.fspath(tmp_path) not in repr(graph.metadata)
