from dataclasses import replace

import numpy as np
import pytest

from mpsearch.cost.device import Device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.schemes import find_scheme
from mpsearch.space.files import read_space
from mpsearch.space.rules import Fusing
from mpsearch.space.space import SearchSpace
from tests.cost.test_estimate_costs import TWO, board, total
from tests.support.handmade_graph import graph_of, linear

ONE = 1 + 8 * 16 * 3 / 100e3  # a launch, and 128 elements in two bytes read and in one written
FP16, FP8 = 0, 1


def reading(layer: Layer, value: str) -> Layer:
    gemm = layer.gemms[0]
    return replace(layer, gemms=(replace(gemm, left=replace(gemm.left, value=value)),))


def siblings(writer: bool) -> ModelGraph:
    """q, k and v of one tensor, which layer a writes or two layers merge."""
    heads = [reading(linear(name, 8, 16, 16), "t") for name in ("q", "k", "v")]
    if writer:
        layers = [linear("a", 8, 16, 16), *heads]
        return graph_of(layers, edges=[(0, i, 128) for i in (1, 2, 3)])
    layers = [linear("a", 8, 16, 16), linear("b", 8, 16, 16), *heads]
    edges = [(s, t, 128) for s in (0, 1) for t in (2, 3, 4)]
    return graph_of(layers, edges=[(0, 1, 128), *edges])


def converting(costs: Costs, assignment: list[int], device: Device) -> float:
    """Latency beyond that of the kernels alone, which a device that converts in no time has."""
    assert device.launch_us == 1
    plain = [costs.objectives["latency_us"][g, 0] for g in range(len(costs.groups))]
    narrow = estimate_costs(graph_of([linear("x", 8, 16, 16)]), TWO, device)
    kernel = narrow.objectives["latency_us"][0, FP8] - ONE
    return total(costs, "latency_us", assignment) - sum(
        kernel if s == FP8 else plain[g] for g, s in enumerate(assignment)
    )


@pytest.mark.parametrize(
    ("heads", "copies"),
    [
        ((0, 0, 0), 0),
        ((1, 0, 0), 1),
        ((1, 1, 0), 1),
        ((1, 1, 1), 1),
        ((0, 1, 1), 1),
        ((1, 0, 1), 2),
    ],
)
def test_a_merged_tensor_is_converted_once_for_its_readers(
    heads: tuple[int, ...], copies: int
) -> None:
    costs = estimate_costs(siblings(writer=False), TWO, board())
    found = converting(costs, [0, 0, *heads], board())
    assert found == pytest.approx(copies * ONE, abs=1e-9)


@pytest.mark.parametrize(
    ("writer", "heads", "copies"),
    [(0, (1, 1, 1), 1), (0, (0, 1, 1), 1), (1, (1, 1, 1), 0), (1, (0, 0, 0), 0), (0, (1, 0, 0), 1)],
)
def test_what_one_layer_writes_is_converted_once_unless_its_epilogue_does_it(
    writer: int, heads: tuple[int, ...], copies: int
) -> None:
    costs = estimate_costs(siblings(writer=True), TWO, board())
    entry = ONE if writer else 0.0  # the network's input
    found = converting(costs, [writer, *heads], board())
    assert found == pytest.approx(copies * ONE + entry, abs=1e-9)


@pytest.mark.parametrize(
    ("quantisation", "expected"),
    [("same", [[0, ONE], [0, 0]]), ("static", [[0, 0], [0, 0]]), ("never", [[0, ONE], [0, ONE]])],
)
def test_targets_say_whose_quantisation_a_kernel_takes_in(
    quantisation: str, expected: list[list[float]]
) -> None:
    fusing = Fusing.model_validate({"quantisation": quantisation})
    graph = graph_of([linear("a", 8, 16, 16), linear("b", 8, 16, 16)])
    costs = estimate_costs(graph, replace(TWO, fusing=fusing), board())
    np.testing.assert_allclose(costs.pair_terms["latency_us"], [expected])


def test_dynamic_ranges_are_never_taken_in() -> None:
    space = SearchSpace("d", tuple(map(find_scheme, ("fp16", "fp8_dynamic"))))
    space = replace(space, fusing=Fusing(quantisation="static"))
    graph = graph_of([linear("a", 8, 16, 16), linear("b", 8, 16, 16)])
    assert estimate_costs(graph, space, board()).pair_terms["latency_us"][0, 1, 1] > 0


def test_tensorrt_quantises_in_the_kernel_before() -> None:
    assert read_space("hopper", target="tensorrt").fusing.quantisation == "static"
    assert read_space("hopper").fusing == Fusing()


def test_a_further_reader_in_floats_pays_the_way_back_of_a_narrow_writer() -> None:
    cpu = board(dequantize_ns=1, formats=["fp16", "fp8"])
    costs = estimate_costs(siblings(writer=True), TWO, cpu)
    floats = [total(costs, "latency_us", [w, 0, 0, 0]) for w in (FP16, FP8)]
    narrow = estimate_costs(siblings(writer=True), TWO, board())
    plain = [total(narrow, "latency_us", [w, 0, 0, 0]) for w in (FP16, FP8)]
    back = 1 + 128 * (4 / 100e3 + 1e-3)
    assert floats[0] == pytest.approx(plain[0])
    assert floats[1] - plain[1] == pytest.approx(3 * back)
