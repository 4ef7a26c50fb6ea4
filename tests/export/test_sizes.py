"""The size that is told is the size that is stored: costs, plans and exports hold one number."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from mpsearch.cost.kernels import group_weights
from mpsearch.data.batches import make_batches
from mpsearch.export.export_plan import export_plan
from mpsearch.export.onnx.canonical import build_canonical
from mpsearch.export.planned import planned_weights
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.schemes import SCHEMES, Scheme, Spec
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import uniform
from mpsearch.space.space import SearchSpace
from mpsearch.space.stored import find_kept, total_weight_bytes
from mpsearch.verify.verify_plan import verify_plan
from tests.support.sized_models import MODELS, MORE
from tests.support.stored import stored_weights, weight_sources

Array = NDArray[np.generic]
TOLERANCE = 0.02
SOME = (
    "fp16", "fp8", "fp8_block", "int8", "w4a16", "nvfp4", "mxfp4", "fp4", "fp8_2of4", "nvfp4_4of8",
    "int3_zero", "int5_channel", "int6_2of4", "blocks_cut_the_pattern",
)  # fmt: skip


def grouped(name: str, bits: int, width: int, **more: object) -> Scheme:
    spec = Spec(f"int{bits}", "group", block_shape=(1, width), scale_format="fp16", **more)  # type: ignore[arg-type]
    return Scheme(name, spec, Spec("fp16", scale_format=None))


OWN = (
    *(grouped(f"int{bits}_g32", bits, 32) for bits in (2, 3, 5, 6, 7)),
    grouped("int4_zero", 4, 16, symmetric=False),
    grouped("int3_zero", 3, 16, symmetric=False),
    replace(grouped("int6_2of4", 6, 32), sparsity="2:4"),
    replace(grouped("blocks_cut_the_pattern", 4, 6), sparsity="2:4"),
    replace(SCHEMES["nvfp4"], name="nvfp4_2of8", sparsity="2:8"),
    Scheme(
        "fp4_channel", Spec("e2m1", "channel", scale_format="e8m0"), Spec("fp16", scale_format=None)
    ),
    Scheme("int5_channel", Spec("int5", "channel"), Spec("fp16", scale_format=None)),
    Scheme("int3_tensor", Spec("int3", symmetric=False), Spec("fp16", scale_format=None)),
)


def space_of(base: str, among: Sequence[str] | None) -> SearchSpace:
    rest = [
        s
        for s in (*SCHEMES.values(), *OWN)
        if s.name != base and (among is None or s.name in among)
    ]
    return SearchSpace("all", (SCHEMES[base], *rest), base)


def compare(
    proto: onnx.ModelProto,
    feeds: dict[str, Array],
    folder: Path,
    base: str,
    among: Sequence[str] | None = None,
) -> Iterator[tuple[str, float, float, float]]:
    """Yield a scheme that exports, used wherever it is allowed, the bytes that costs and plan tell and those stored."""
    onnx.save(proto, folder / "m.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = import_onnx(folder / "m.onnx")
        simulator = Simulator(graph, space_of(base, among), make_batches(feeds, batch_size=4))
    graph, space = simulator.graph, simulator.space
    told, parameters = group_weights(graph, space, simulator.allowed)
    weights = planned_weights(graph)
    groups = np.arange(len(graph.groups))
    for s, scheme in enumerate(space.schemes):
        if not simulator.allowed[:, s].any():
            continue
        chosen = uniform(space, graph, scheme.name, simulator.allowed)
        plan = make_plan(Point(tuple(chosen.tolist()), {}), simulator)
        model = build_canonical(plan, graph, weights)
        said = plan.coverage.effective_bits * parameters.sum() / 8
        yield (
            scheme.name,
            told[groups, chosen].sum(),
            said,
            stored_weights(model, weight_sources(graph)),
        )


def check(
    made: tuple[onnx.ModelProto, dict[str, Array]],
    folder: Path,
    bases: Sequence[str],
    among: Sequence[str] | None,
) -> int:
    tried = 0
    for base in bases:
        for scheme, told, said, stored in compare(*made, folder, base, among):
            assert told == pytest.approx(stored, rel=TOLERANCE), (base, scheme)
            assert said == pytest.approx(told, rel=1e-9), (base, scheme)
            tried += 1
    return tried


@pytest.mark.parametrize("name", MODELS)
def test_told_is_stored(name: str, tmp_path: Path) -> None:
    base = ("fp32", "fp16")[list(MODELS).index(name) % 2]
    assert check(MODELS[name](), tmp_path, [base], SOME) > 4


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_told_is_stored_in_every_scheme_that_exports(name: str, tmp_path: Path) -> None:
    assert check(MODELS[name](), tmp_path, ["fp32", "fp16", "bf16"], None) > 60


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_told_is_stored_on_drawn_models(name: str, tmp_path: Path) -> None:
    made = MORE[name]()
    if made is None:
        pytest.skip("this number draws no model whose samples are apart")
    base = ("fp32", "fp16", "bf16")[len(name) % 3]
    assert check(made, tmp_path, [base], SOME) > 4


def test_a_tied_table_is_told_twice_where_rows_are_looked_up_in_it(tmp_path: Path) -> None:
    """100 × 32 elements: in fp32 for the lookup, which is all that uniform fp32 stores, and in 8 bits."""
    found = {
        scheme: told for scheme, told, _, _ in compare(*MODELS["tied table"](), tmp_path, "fp32")
    }
    assert found["fp32"] == 100 * 32 * 4
    assert found["fp8"] == 100 * 32 * 4 + 100 * 32 + 100 * 4
    assert found["int6_g32"] == 100 * 32 * 4 + 100 * 32 * 6 / 8 + 100 * 2


def test_uniform_base_stores_a_tied_table_once_however_it_is_read(tmp_path: Path) -> None:
    found = {
        name: {
            scheme: told for scheme, told, _, _ in compare(*MODELS[name](), tmp_path, "fp32", ())
        }
        for name in ("tied table", "tied table, transposed")
    }
    assert found == {name: {"fp32": 100 * 32 * 4} for name in found}


@pytest.mark.parametrize(
    ("name", "base", "scheme"),
    [
        ("tied table, transposed", "fp32", "fp32"),
        ("tied table", "fp32", "int6_g32"),
        ("same in branches", "fp32", "fp8"),
        ("same in branches", "fp16", "int5_channel"),
        ("fp16", "fp16", "fp16"),
        ("read by others", "fp32", "fp4"),
    ],
)
@pytest.mark.parametrize("runtime", ["reference", "openvino"])
def test_what_is_stored_once_or_packed_computes_the_same(
    name: str, base: str, scheme: str, runtime: str, tmp_path: Path
) -> None:
    proto, feeds = MODELS[name]()
    onnx.save(proto, tmp_path / "m.onnx")
    batches = make_batches(feeds, batch_size=4)
    simulator = Simulator(import_onnx(tmp_path / "m.onnx"), space_of(base, [scheme]), batches)
    chosen = uniform(simulator.space, simulator.graph, scheme, simulator.allowed)
    plan = make_plan(Point(tuple(chosen.tolist()), {}), simulator)
    export_plan(plan, tmp_path / "m.onnx", tmp_path / "out")
    found = verify_plan(plan, tmp_path / "m.onnx", tmp_path / "out", batches, runtime=runtime)
    assert found.ok, str(found)


def test_slices_of_one_tensor_count_each(tmp_path: Path) -> None:
    found = {scheme: told for scheme, told, _, _ in compare(*MODELS["slices"](), tmp_path, "fp32")}
    assert found["fp16"] == 32 * 96 * 2
    assert found["fp4"] == 32 * 96 / 2 + 3
    assert found["blocks_cut_the_pattern"] == 32 * 96 / 2 + 96 * 6 * 2  # all elements, not half


def test_what_recovery_changes_is_stored_for_each_layer(tmp_path: Path) -> None:
    """Two layers that read one weight: recovered from what each of them reads, so stored for each."""
    onnx.save(MODELS["read by others"]()[0], tmp_path / "m.onnx")
    graph = import_onnx(tmp_path / "m.onnx")
    fp8 = replace(SCHEMES["fp8_2of4"], recovery="obs")
    kept = find_kept(graph)
    first = next(group for group in graph.groups if len(group.layers) == 2)
    one, two = (
        total_weight_bytes(graph, dict.fromkeys(first.layers, scheme), kept)
        for scheme in (SCHEMES["fp8_2of4"], fp8)
    )
    assert two == 2 * one
