"""An export for TensorRT says every precision in the graph, as its parser takes it, and computes what the plan says."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import Batches, make_batches
from mpsearch.export.export_plan import export_plan
from mpsearch.export.tensorrt.build_script import build_script
from mpsearch.export.tensorrt.can_write import can_write
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.verify.verify_plan import verify_plan
from tests.support.torch_models import Array, build
from tests.verify.test_verify_plan import export_uniform

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def dense_net() -> onnx.ModelProto:
    """Products whose reduction is divisible by every block, one of a weight with a row of zeros."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return (rng.standard_normal(shape) / 8).astype("float32")

    weights = {f"w{i}": normal(128, 128) for i in range(4)} | {
        "b0": normal(128),
        "w4": normal(8, 128),
    }
    weights["w1"][:, 3] = 0
    node = helper.make_node
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["h0"], "first"),
        node("Relu", ["h0"], ["r0"]),
        node("MatMul", ["r0", "w1"], ["h1"], "second"),
        node("MatMul", ["h1", "w2"], ["h2"], "third"),
        node("MatMul", ["h2", "w3"], ["h3"], "fourth"),
        node("Gemm", ["h3", "w4"], ["y"], "last", transB=1),
    ]
    return build(nodes, {"x": ["n", 128]}, {"y": ["n", 8]}, weights)


def rows() -> Batches:
    x = np.random.default_rng(1).standard_normal((8, 128)).astype("float32")
    return make_batches({"x": x}, batch_size=8)


def exported(folder: Path, *names: str, base: str = "fp16") -> tuple[Plan, Path]:
    """A plan of :func:`dense_net` that deals schemes out in turn, and its file; the export lies in ``out``."""
    path = folder / "net.onnx"
    onnx.save(dense_net(), path)
    space = SearchSpace("s", tuple(map(find_scheme, dict.fromkeys((base, *names)))), base)
    simulator = Simulator(import_onnx(path), space, rows())
    groups = len(simulator.graph.groups)
    chosen = tuple(space.index(names[g % len(names)]) for g in range(groups))
    plan = make_plan(Point(chosen, {}), simulator)
    export_plan(plan, path, folder / "out", target="tensorrt")
    return plan, path


@pytest.mark.parametrize("base", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize(
    "schemes",
    [("nvfp4", "fp8", "nvfp4a16", "int8"), ("w4a16", "w4a16_g64", "fp16", "bf16", "fp8_tensor")],
)
def test_every_product_is_proven_in_the_reference(
    tmp_path: Path, schemes: tuple[str, ...], base: str
) -> None:
    plan, path = exported(tmp_path, *schemes, base=base)
    found = verify_plan(plan, path, tmp_path / "out", rows(), runtime="reference")
    assert found.ok, str(found)
    assert {check.scheme for check in found.layers} == set(schemes)


@pytest.mark.parametrize("base", ["fp16", "bf16"])
def test_convolutions_are_proven_in_the_reference(tmp_path: Path, base: str) -> None:
    made = export_uniform(tmp_path, "conv", base, "int8", "fp8_2of4", "fp8", base=base)
    export_plan(made.plan, made.model, made.folder, target="tensorrt")
    found = verify_plan(made.plan, made.model, made.folder, made.batches, runtime="reference")
    assert found.ok, str(found)


def test_the_file_is_strongly_typed(tmp_path: Path) -> None:
    exported(tmp_path, "fp16", "bf16", "w4a16", "fp8", "nvfp4")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert next(o.version for o in model.opset_import if not o.domain) <= 25
    typed = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in typed.graph.value_info}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in typed.graph.output}
    products = {
        node.name: kinds[node.output[0]] for node in model.graph.node if node.op_type in PRODUCTS
    }
    # bf16 is not the base: its operator stays wide, so that its output is rounded once
    half, wide = TensorProto.FLOAT16, TensorProto.FLOAT
    assert products == {"first": half, "second": wide, "third": half, "fourth": wide, "last": wide}


def test_quantisation_is_symmetric_and_every_scale_positive(tmp_path: Path) -> None:
    exported(tmp_path, "int8", "fp8", "w4a16", "nvfp4", base="fp32")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert len(node.input) == 2  # no zero point is a zero point of 0
        if node.input[1] in tensors:
            assert (tensors[node.input[1]].astype(np.float32) > 0).all()
    assert not [n for n in model.graph.node if n.op_type == "Clip"]


def test_sparse_weights_are_dense_with_zeros_and_the_command_says_so(tmp_path: Path) -> None:
    exported(tmp_path, "fp8_2of4", base="fp32")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    stored = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT8E4M3FN]
    assert sum(np.prod(t.dims) for t in stored) == 4 * 128 * 128 + 8 * 128
    codes = next(numpy_helper.to_array(t) for t in stored if t.name.startswith("mpsearch/w1/"))
    kept = (codes.astype(np.float32).reshape(32, 4, 128) != 0).sum(1)
    assert kept.max() == 2
    assert "--sparsity=enable" in (tmp_path / "out" / "build.sh").read_text()


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("fp8_dynamic", "one static scale a tensor"),
        ("w4a16_g32", "blocks of 64 or 128"),
        ("mxfp8", "MX operators are not written"),
    ],
)
def test_what_tensorrt_lacks_is_refused_by_rule(tmp_path: Path, scheme: str, reason: str) -> None:
    onnx.save(dense_net(), tmp_path / "net.onnx")
    graph = import_onnx(tmp_path / "net.onnx")
    found = can_write(graph, graph.layers[0], find_scheme(scheme))
    assert re.fullmatch(f"'first' in {scheme}: TensorRT.* ({reason}).*", found)


def test_blocks_that_do_not_divide_and_later_opsets_are_refused(tmp_path: Path) -> None:
    onnx.save(dense_net(), tmp_path / "net.onnx")
    graph = import_onnx(tmp_path / "net.onnx")
    layer = graph.layers[0]
    narrow = replace(layer, gemms=(replace(layer.gemms[0], k=24),))
    assert "K % 16 == 0" in can_write(graph, narrow, find_scheme("nvfp4"))
    assert "opset 25 or earlier" in can_write(replace(graph, opset=26), layer, find_scheme("fp8"))


def test_the_command_is_one_that_the_shell_and_trtexec_take(tmp_path: Path) -> None:
    plan, path = exported(tmp_path, "fp8")
    name = "a'b; touch x:0"
    odd = replace(plan, shapes={name: (None, 128)})
    script = tmp_path / "odd.sh"
    script.write_text(build_script(odd, import_onnx(path)))
    environment = {"PATH": os.environ["PATH"], "TRTEXEC": "echo", "MIN": "2"}
    given = subprocess.run(
        ["sh", script, "--verbose"], env=environment, capture_output=True, text=True, check=True
    )
    assert given.stdout.split("\n")[0] == (
        "--onnx=model.onnx --saveEngine=model.plan --stronglyTyped --noTF32 "
        f"--minShapes='{name}':2x128 --optShapes='{name}':8x128 --maxShapes='{name}':32x128 --verbose"
    )
    assert not (tmp_path / "x").exists()
