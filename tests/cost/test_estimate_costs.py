from dataclasses import replace

import numpy as np
import pytest

from mpsearch.cost.device import Device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.cost.gemm import gemm_latency
from mpsearch.errors import DeviceError
from mpsearch.graph.model import Layer
from mpsearch.problem.tables import Costs
from mpsearch.schemes import Scheme, find_scheme
from mpsearch.space.files import read_space
from mpsearch.space.space import SearchSpace
from tests.support.handmade_graph import attention, conv, graph_of, linear

NPU = read_space("npu")
TWO = SearchSpace("two", (find_scheme("fp16"), find_scheme("fp8")))


def total(costs: Costs, objective: str, assignment: list[int]) -> float:
    """The additive objective by the book: unary terms and pair terms."""
    unary = sum(costs.objectives[objective][g, s] for g, s in enumerate(assignment))
    pairs = costs.pair_terms.get(objective)
    if pairs is None:
        return float(unary)
    return float(
        unary
        + sum(
            pairs[e, assignment[a], assignment[b]] for e, (a, b) in enumerate(costs.edges.tolist())
        )
    )


def board(**changes: object) -> Device:
    facts = {
        "name": "mine",
        "title": "My board",
        "bandwidth_gb_s": 100,
        "launch_us": 1,
        "relative_error": 0.25,
        "formats": ["fp16", "fp8"],
        "peak_tflops": {"fp16": 10, "fp8": 20},
    }
    return Device.model_validate(facts | changes)


def test_the_ten_layer_exercise_takes_23_units_and_three_switches() -> None:
    flops = [2, 4, 8, 8, 16, 16, 8, 4, 2, 1]
    graph = graph_of([linear(f"l{i}", f * 128, 1024, 1024) for i, f in enumerate(flops)])
    costs = estimate_costs(graph, NPU, "npu_200tops")
    assignment = [NPU.index(name) for name in ["fp8"] + ["nvfp4"] * 5 + ["fp8"] * 2 + ["fp16"] * 2]
    unit = costs.objectives["latency_us"][9, 0]
    assert total(costs, "latency_us", assignment) == pytest.approx(23 * unit + 3 * 0.015)


def test_the_npu_switches_15_cycles_where_the_compute_format_changes() -> None:
    graph = graph_of([linear(f"l{i}", 8, 16, 16) for i in range(3)])
    costs = estimate_costs(graph, NPU, "npu_200tops")
    assert costs.edges.tolist() == [[0, 1], [1, 2]]
    term = costs.pair_terms["latency_us"][0]
    fp16, fp8, nvfp4, fp8_sparse, nvfp4_sparse = range(5)
    assert term[fp8, nvfp4] == term[fp16, fp8] == pytest.approx(0.015)
    assert term[fp8, fp8_sparse] == term[nvfp4, nvfp4_sparse] == term[fp16, fp16] == 0


def test_switches_follow_the_schedule_not_the_dataflow() -> None:
    layers = [linear(f"l{i}", 8, 16, 16) for i in range(3)]
    costs = estimate_costs(graph_of(layers, edges=[(0, 2, 128)]), NPU, "npu_200tops")
    assert costs.edges.tolist() == [[0, 1], [1, 2]]


def test_switches_inside_a_group_are_free_and_repeated_ones_add_up() -> None:
    layers = [linear(f"l{i}", 8, 16, 16) for i in range(5)]
    graph = graph_of(layers, groups=[(0, 2, 4), (1, 3)])
    costs = estimate_costs(graph, NPU, "npu_200tops")
    assert costs.edges.tolist() == [[0, 1]]
    np.testing.assert_allclose(costs.pair_terms["latency_us"][0, 0, 1], 4 * 0.015)
    np.testing.assert_allclose(costs.pair_terms["latency_us"][0, 1, 0], 4 * 0.015)


def test_weight_only_on_the_npu_switches_to_fp16() -> None:
    space = SearchSpace("w", (find_scheme("fp16"), find_scheme("nvfp4a16"), find_scheme("nvfp4")))
    graph = graph_of([linear("a", 4096, 256, 256), linear("b", 4096, 256, 256)])
    costs = estimate_costs(graph, space, "npu_200tops")
    assert costs.pair_terms["latency_us"][0, 0, 1] == 0
    assert costs.pair_terms["latency_us"][0, 1, 2] == pytest.approx(0.015)


def test_a_depthwise_layer_is_never_faster_in_blocks() -> None:
    graph = graph_of([conv("dw", 32, 64, 64, 3, groups=64, batch=16)], batch=16)
    latency = estimate_costs(graph, NPU, "npu_200tops", batch=16).objectives["latency_us"][0]
    assert latency[NPU.index("nvfp4")] >= latency[NPU.index("fp8")]


def test_the_npus_compute_rates_are_one_two_four_and_1_8_for_sparse() -> None:
    layer = conv("c", 40, 80, 80, 3)  # 92 M MACs that fill the arrays, everything on the chip
    latency = estimate_costs(graph_of([layer]), NPU, "npu_200tops").objectives["latency_us"][0]
    macs = 40 * 40 * 80 * 80 * 9
    expected = [macs / (25600e3 * rate) for rate in (1, 2, 4, 2 * 1.8, 4 * 1.8)]
    np.testing.assert_allclose(latency, expected)


def test_full_rate_takes_40_watts_on_the_npu_and_10_static_ones() -> None:
    graph = graph_of([linear("fc", 12_800, 1280, 1280)])
    costs = estimate_costs(graph, NPU, "npu_200tops")
    watts = costs.objectives["energy_uj"][0] / costs.objectives["latency_us"][0]
    assert (watts[:3] > 50.96).all()  # activations of 50 MB leave the chip
    layers = [linear("fc", 1280, 1280, 1280)]
    costs = estimate_costs(graph_of(layers), NPU, "npu_200tops")
    watts = costs.objectives["energy_uj"][0] / costs.objectives["latency_us"][0]
    weights = costs.objectives["weight_bytes"][0]
    dram = weights * 31e-6 / costs.objectives["latency_us"][0]
    np.testing.assert_allclose((watts - dram)[:3], 40.96 + 10)


def test_a_switch_takes_static_energy() -> None:
    graph = graph_of([linear(f"l{i}", 8, 16, 16) for i in range(2)])
    costs = estimate_costs(graph, NPU, "npu_200tops")
    assert costs.pair_terms["energy_uj"][0, 0, 1] == pytest.approx(10 * 0.015)


def test_conversions_take_cycles_where_no_switch_and_no_other_kernel_hides_them() -> None:
    space = SearchSpace("c", tuple(map(find_scheme, ("fp16", "fp4", "nvfp4", "fp8"))))
    layers = [linear(f"l{i}", 8, 16, 16) for i in range(3)]
    fp16, fp4, nvfp4, fp8 = range(4)
    costs = estimate_costs(graph_of(layers), space, "npu_200tops")
    term = costs.pair_terms["latency_us"][0]
    assert term[fp4, nvfp4] == term[nvfp4, fp4] == pytest.approx(0.002)
    assert term[fp8, nvfp4] == term[fp16, fp8] == pytest.approx(0.015)
    far = estimate_costs(graph_of(layers, edges=[(0, 2, 128)]), space, "npu_200tops")
    assert far.pair_terms["latency_us"][0][fp4, nvfp4] == 0
    mixed = Scheme("a8w4", find_scheme("nvfp4").weight, find_scheme("fp16").activation)
    wide = Scheme("w8", find_scheme("fp8").weight, find_scheme("fp16").activation)
    space = SearchSpace("u", (find_scheme("fp16"), mixed, wide))
    costs = estimate_costs(graph_of(layers), space, "npu_200tops")
    assert not costs.pair_terms["latency_us"].any()  # one activation format, one rate


def test_unary_latencies_are_the_kernels_latency() -> None:
    graph = graph_of(
        [linear("a", 64, 256, 128), linear("b", 64, 32, 256)], edges=[(0, 1, 64 * 256)]
    )
    costs = estimate_costs(graph, TWO, board())
    assert costs.objectives["latency_us"][1, 1] == pytest.approx(
        gemm_latency(board(), "fp8", 64, 32, 256).mean
    )
    np.testing.assert_allclose(costs.stderr["latency_us"], 0.25 * costs.objectives["latency_us"])


def test_the_networks_input_is_converted_at_its_first_reader() -> None:
    graph = graph_of([linear("a", 64, 256, 128)])
    costs = estimate_costs(graph, TWO, board())
    entry = 1 + 64 * 128 * 3 / 100e3
    expected = gemm_latency(board(), "fp8", 64, 256, 128).mean + entry
    assert costs.objectives["latency_us"][0, 1] == pytest.approx(expected)


def test_conversions_are_charged_where_activation_formats_change_and_not_fused() -> None:
    graph = graph_of([linear("a", 8, 16, 16), linear("b", 8, 16, 16)])
    costs = estimate_costs(graph, TWO, board())
    convert = 1 + 8 * 16 * 3 / 100e3
    np.testing.assert_allclose(costs.pair_terms["latency_us"], [[[0, convert], [0, 0]]])


def test_dynamic_ranges_read_the_tensor_once_more_and_never_fuse() -> None:
    space = SearchSpace("d", (find_scheme("fp16"), find_scheme("fp8_dynamic")))
    graph = graph_of([linear("a", 8, 16, 16), linear("b", 8, 16, 16)])
    convert = 1 + 8 * 16 * 5 / 100e3
    pairs = estimate_costs(graph, space, board()).pair_terms["latency_us"]
    np.testing.assert_allclose(pairs, [[[0, convert], [0, convert]]])


def test_readers_of_one_tensor_in_one_group_share_its_conversion() -> None:
    q, k = linear("q", 8, 16, 16), linear("k", 8, 16, 16)
    shared = replace(k, gemms=(replace(k.gemms[0], left=q.gemms[0].left),))
    layers = [linear("a", 8, 16, 16), q, shared]
    graph = graph_of(layers, edges=[(0, 1, 128), (0, 2, 128)], groups=[(0,), (1, 2)])
    costs = estimate_costs(graph, TWO, board())
    assert costs.pair_terms["latency_us"][0, 0, 1] == pytest.approx(1 + 8 * 16 * 3 / 100e3)


def test_a_sum_of_two_results_is_converted_once_by_its_reader() -> None:
    layers = [linear(name, 8, 16, 16) for name in "abc"]
    costs = estimate_costs(graph_of(layers, edges=[(0, 2, 128), (1, 2, 128)]), TWO, board())
    alone = gemm_latency(board(), TWO.names[1], 8, 16, 16).mean
    assert len(costs.edges) == 0
    assert costs.objectives["latency_us"][2, 1] == pytest.approx(alone + 1 + 8 * 16 * 3 / 100e3)


def test_batches_multiply_rows_or_calls_and_leave_weights_alone() -> None:
    graph = graph_of([linear("fc", 8, 16, 32), attention("qk", 4, 8, 16)])
    one, sixteen = (estimate_costs(graph, TWO, board(), batch=b) for b in (1, 16))
    np.testing.assert_array_equal(
        one.objectives["weight_bytes"], sixteen.objectives["weight_bytes"]
    )
    expected = gemm_latency(board(), "fp16", 8 * 16, 16, 32).mean
    assert sixteen.objectives["latency_us"][0, 0] == pytest.approx(expected)
    # 64 products of 8 × 8 × 16: two operands in, one result out, in fp16
    moved = 2 * 64 * (8 * 16 + 16 * 8 + 8 * 8)
    assert sixteen.objectives["latency_us"][1, 0] == pytest.approx(1 + moved / 100e3)
    assert sixteen.batch == 16


def test_a_graph_of_another_batch_is_priced_the_same() -> None:
    one = graph_of([conv("c", 8, 16, 16, 3), linear("fc", 1, 10, 16)])
    four = graph_of([conv("c", 8, 16, 16, 3, batch=4), linear("fc", 4, 10, 16)], batch=4)
    for batch in (1, 4, 16):
        np.testing.assert_allclose(
            estimate_costs(one, NPU, "npu_200tops", batch=batch).objectives["latency_us"],
            estimate_costs(four, NPU, "npu_200tops", batch=batch).objectives["latency_us"],
        )


def test_tokens_set_the_rows_of_layers_that_work_token_by_token() -> None:
    graph = graph_of([linear("up", 128, 64, 32), linear("pooled", 1, 10, 64)])
    decode = estimate_costs(graph, TWO, board(), batch=2, tokens=1)
    prefill = estimate_costs(graph, TWO, board(), batch=2, tokens=512)
    latency = [c.objectives["latency_us"] for c in (decode, prefill)]
    assert latency[0][0, 0] == pytest.approx(gemm_latency(board(), "fp16", 2, 64, 32).mean)
    assert latency[1][0, 0] == pytest.approx(gemm_latency(board(), "fp16", 1024, 64, 32).mean)
    assert latency[0][1, 0] == latency[1][1, 0]
    with pytest.raises(DeviceError, match="token by token"):
        estimate_costs(graph_of([conv("c", 4, 4, 4, 3)]), NPU, "npu_200tops", tokens=4)


def test_a_weight_that_layers_share_is_stored_once_and_read_by_each() -> None:
    one, again = linear("a", 8, 16, 32), linear("b", 8, 16, 32)
    again = replace(again, gemms=(replace(again.gemms[0], right=one.gemms[0].right),))
    graph = graph_of([one, again], groups=[(0, 1)])
    costs = estimate_costs(graph, TWO, board())
    assert costs.parameters.tolist() == [16 * 32]
    assert costs.objectives["weight_bytes"][0].tolist() == [2 * 512, 512 + 4 * 16]


def test_effective_bits_of_a_depthwise_nvfp4_weight_are_twelve() -> None:
    costs = estimate_costs(graph_of([conv("dw", 8, 960, 960, 5, groups=960)]), NPU, "npu_200tops")
    bits = 8 * costs.objectives["weight_bytes"][0, 2] / costs.parameters[0]
    assert bits == pytest.approx(12, abs=0.01)


def test_what_space_or_device_refuses_is_masked_with_a_reason_and_costs_nothing() -> None:
    space = read_space("blackwell")
    costs = estimate_costs(graph_of([linear("fc", 8, 16, 34)]), space, "h100_sxm5_80gb")
    allowed = dict(zip(space.names, costs.allowed[0].tolist(), strict=True))
    assert allowed["fp8"]
    assert not allowed["nvfp4"]
    assert not allowed["fp8_2of4"]
    assert "no nvfp4 multipliers" in costs.reasons["fc", "nvfp4"]
    assert "channels % 4" in costs.reasons["fc", "fp8_2of4"]
    for values in costs.objectives.values():
        assert np.isfinite(values).all()
        assert (values[~costs.allowed] == 0).all()


def test_the_base_must_run_on_the_device() -> None:
    graph = graph_of([linear("fc", 8, 16, 32)])
    with pytest.raises(DeviceError, match=r"no fp16 multipliers.*fp32, bf16"):
        estimate_costs(graph, NPU, "cpu_epyc_turin_1t")
    cpu = estimate_costs(graph, read_space("cpu"), "cpu_epyc_turin_1t")
    assert cpu.allowed.all()


def test_a_cpu_also_pays_for_the_way_back_to_floating_point() -> None:
    graph = graph_of([linear("a", 8, 16, 16), linear("b", 8, 16, 16)])
    pairs = estimate_costs(graph, read_space("cpu"), "cpu_epyc_turin_1t").pair_terms["latency_us"][
        0
    ]
    assert pairs[1, 0] > 0
    assert pairs[0, 0] == pairs[1, 1] == 0


@pytest.mark.parametrize(
    ("space", "device"),
    [
        ("npu", "npu_200tops"),
        ("hopper", "h100_sxm5_80gb"),
        ("blackwell", "b200_hgx"),
        ("ada", "l4_24gb"),
        ("blackwell", "jetson_t5000_thor"),
        ("ampere", "a100_sxm4_80gb"),
        ("turing", "t4"),
        ("volta", "v100_sxm2_32gb"),
        ("ascend", "ascend_910b"),
        ("cpu", "cpu_epyc_turin_1t"),
    ],
)
def test_each_space_runs_whole_on_its_device(space: str, device: str) -> None:
    layers: list[Layer] = [linear("fc", 128, 256, 256), linear("out", 128, 64, 256)]
    costs = estimate_costs(graph_of(layers), read_space(space), device, batch=8)
    assert costs.allowed.all(), costs.reasons
    assert (costs.objectives["latency_us"] > 0).all()


def test_int8_is_no_gain_on_b300_which_has_almost_none() -> None:
    graph = graph_of([linear("fc", 8192, 8192, 8192)])
    space = SearchSpace("two", (find_scheme("fp16"), find_scheme("int8")))
    fp16, int8 = estimate_costs(graph, space, "b300_hgx").objectives["latency_us"][0]
    assert int8 / fp16 == pytest.approx(2250 / 150, rel=0.01)
    fp16, int8 = estimate_costs(graph, space, "h100_sxm5_80gb").objectives["latency_us"][0]
    assert int8 < fp16


@pytest.mark.parametrize("batch", [0, -1])
def test_batches_are_positive(batch: int) -> None:
    with pytest.raises(DeviceError, match="batch >= 1"):
        estimate_costs(graph_of([linear("fc", 8, 16, 32)]), NPU, "npu_200tops", batch=batch)


def test_layers_of_unknown_size_ask_for_shapes() -> None:
    graph = graph_of([linear("fc", 0, 16, 32)])
    with pytest.raises(DeviceError, match="dynamic axis, the first is 'fc'; give the shapes"):
        estimate_costs(graph, NPU, "npu_200tops")
