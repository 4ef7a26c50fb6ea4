from dataclasses import replace
from math import ceil

import numpy as np
import pytest

from mpsearch.cost.arrays import Work, work
from mpsearch.cost.device import Device, read_device
from mpsearch.cost.gemm import gemm_latency
from mpsearch.cost.products import collect
from mpsearch.errors import DeviceError
from mpsearch.graph.model import Layer
from mpsearch.schemes import Scheme, find_scheme
from tests.support.handmade_graph import attention, conv, linear

NPU = read_device("npu_200tops")
FP16 = find_scheme("fp16").activation


def run(device: Device, scheme: Scheme | str, *layers: Layer) -> Work:
    products = collect(
        [layer.gemms[0] for layer in layers],
        [layer.input_elements for layer in layers],
        [layer.output_elements for layer in layers],
    )
    scheme = find_scheme(scheme) if isinstance(scheme, str) else scheme
    return work(device, scheme, products, out=FP16)


def with_npu(**changes: object) -> Device:
    facts = NPU.model_dump()
    return Device.model_validate({**facts, "npu": {**facts["npu"], **changes}})


def slow_cycles(m: int, n: int, k: int, lanes: int) -> float:
    """Cycles by walking over tiles: 64 arrays of 20 × 20, weights loaded a row a cycle."""
    found = []
    for along_m, along_n, along_k in ((lanes, 1, 1), (1, lanes, 1), (1, 1, lanes)):
        total = 0
        for _ in range(0, k, 20 * along_k):
            for _ in range(0, n, 20 * along_n):
                total += max(20, ceil(m / along_m))
        found.append(total)
    return ceil(max(20, min(found) / 64))


@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 10, 1024), (7, 33, 65), (128, 1024, 1024), (3000, 10, 9), (20, 20, 20)]
)
@pytest.mark.parametrize(("scheme", "lanes"), [("fp16", 1), ("fp8", 2)])
def test_cycles_are_those_of_a_walk_over_tiles(
    m: int, n: int, k: int, scheme: str, lanes: int
) -> None:
    done = run(NPU, scheme, linear("fc", m, n, k))
    assert done.compute_us[0] == pytest.approx(slow_cycles(m, n, k, lanes) / 1e3)
    assert done.busy[0] == pytest.approx(m * n * k / (slow_cycles(m, n, k, lanes) * 25600 * lanes))


def test_one_row_and_ten_columns_keep_few_multipliers_busy() -> None:
    assert run(NPU, "fp16", linear("head", 1, 10, 1024)).busy[0] == pytest.approx(0.02)


def test_products_that_fill_the_arrays_keep_them_busy() -> None:
    for scheme in ("fp16", "fp8"):
        assert run(NPU, scheme, linear("fc", 1280, 1280, 1280)).busy[0] == pytest.approx(1)


def test_a_depthwise_layer_is_far_from_full() -> None:
    done = run(NPU, "fp16", conv("dw", 64, 80, 80, 3, groups=80))
    assert done.busy[0] == pytest.approx(9 / 20)


def test_the_mapping_of_a_depthwise_layer_is_the_devices_key() -> None:
    depthwise = conv("dw", 64, 80, 80, 3, groups=80)
    padded = {s: run(NPU, s, depthwise).compute_us[0] for s in ("fp16", "fp8", "nvfp4")}
    assert padded["nvfp4"] > padded["fp16"] > padded["fp8"]
    across = {
        s: run(with_npu(mapping="channels"), s, depthwise).compute_us[0]
        for s in ("fp16", "fp8", "nvfp4")
    }
    assert across == {**padded, "nvfp4": pytest.approx(padded["fp16"] / 4)}


def test_groups_of_several_channels_run_one_after_another() -> None:
    whole = run(NPU, "fp16", conv("c", 32, 40, 40, 3)).compute_us[0]
    grouped = run(NPU, "fp16", conv("c", 32, 40, 40, 3, groups=2)).compute_us[0]
    assert grouped == pytest.approx(whole / 2)  # half of the products, both full of tiles
    many = run(NPU, "fp16", conv("c", 32, 40, 40, 3, groups=20))
    assert many.busy[0] < 0.1


def test_calls_are_independent_products() -> None:
    one, four = (run(NPU, "fp16", attention("qk", heads, 640, 64)) for heads in (1, 4))
    assert four.compute_us[0] == pytest.approx(4 * one.compute_us[0])


def test_the_textbook_case_of_a_sparse_product() -> None:
    # A 256 × 512 in 8 bits by B 512 × 256 in 4 bits, 2:4 sparse, result in 16 bits
    layer = linear("fc", 256, 256, 512)
    eight_by_four = Scheme("a8b4", find_scheme("fp4").weight, find_scheme("fp8").activation)
    dense = run(NPU, eight_by_four, layer)
    sparse = run(NPU, replace(eight_by_four, name="a8b4_2of4", sparsity="2:4"), layer)
    left, right, written = sparse.traffic["chip"][0] / 1024
    assert left == 128
    assert 38 <= right <= 44.01
    assert written == 128
    assert 0.85 <= sparse.busy[0] <= 0.9
    assert 1.6 <= dense.latency_us[0] / sparse.latency_us[0] <= 1.8


def test_sparse_kernels_halve_the_reduction_and_keep_nine_tenths_busy() -> None:
    layer = linear("fc", 640, 640, 1280)
    dense, sparse = (run(NPU, scheme, layer) for scheme in ("fp8", "fp8_2of4"))
    assert dense.compute_us[0] / sparse.compute_us[0] == pytest.approx(1.8, rel=1e-4)
    assert sparse.busy[0] == pytest.approx(0.9, rel=1e-4)


def test_bytes_are_counted_at_every_level() -> None:
    done = run(NPU, "fp16", linear("fc", 640, 40, 60))
    assert tuple(done.traffic) == ("tile", "cluster", "chip", "dram")
    a, b, c = 2 * 640 * 60, 2 * 60 * 40, 2 * 640 * 40
    assert done.traffic["chip"][0].tolist() == [a, b, c]
    assert done.traffic["cluster"][0].tolist() == [a, 4 * b, c]  # rows are split over 4 clusters
    # two columns of three tiles: activations twice, weights for each of 11 pieces, partial sums twice
    assert done.traffic["tile"][0].tolist() == [2 * a, 11 * b, c + 2 * 2 * 4 * 640 * 40]
    assert done.traffic["dram"][0].tolist() == [0, b, 0]
    large = run(NPU, "fp16", linear("fc", 64_000, 40, 60))
    assert large.traffic["dram"][0].tolist() == [100 * a, b, 100 * c]


def test_what_binds_is_named() -> None:
    done = run(NPU, "fp16", linear("a", 1, 4096, 4096), linear("b", 1280, 1280, 1280))
    assert done.slowest == ("dram", "dram")
    assert done.memory_us[0] > done.compute_us[0]
    assert done.memory_us[1] < done.compute_us[1]
    narrow = with_npu(memories=[{"name": "tile", "kb": 32, "count": 64, "bandwidth_gb_s": 1}])
    assert run(narrow, "fp16", linear("b", 1280, 1280, 1280)).slowest == ("tile",)


def test_energy_is_operations_bytes_and_time() -> None:
    done = run(NPU, "fp8", linear("fc", 100, 64, 64))
    operations, moved = 2 * 100 * 64 * 64, 64 * 64 + 4 * 64
    expected = operations * 0.4e-6 + moved * 31e-6 + 10 * done.latency_us[0]
    assert done.energy_uj[0] == pytest.approx(expected)
    sparse = run(NPU, "fp8_2of4", linear("fc", 100, 64, 64))
    moved = done_bytes = sparse.traffic["dram"][0].sum()
    assert done_bytes == 64 * 32 + 64 * 16 * 3 / 8 + 4 * 64
    expected = operations * 0.4e-6 * 0.6 + moved * 31e-6 + 10 * sparse.latency_us[0]
    assert sparse.energy_uj[0] == pytest.approx(expected)


def test_energy_of_sram_counts_where_the_device_gives_it() -> None:
    memories = [
        {"name": "tile", "kb": 32, "count": 64, "picojoule_per_byte": 2},
        {"name": "chip", "kb": 8192},
    ]
    layer = linear("fc", 100, 64, 64)
    free, paid = run(NPU, "fp8", layer), run(with_npu(memories=memories), "fp8", layer)
    moved = paid.traffic["tile"][0].sum()
    assert paid.energy_uj[0] - free.energy_uj[0] == pytest.approx(moved * 2e-6)


def test_at_a_lower_voltage_it_is_slower_and_saves_dynamic_energy() -> None:
    low = read_device("npu_200tops@0.7V")
    layer = linear("fc", 1280, 1280, 1280)
    one, other = run(NPU, "fp8", layer), run(low, "fp8", layer)
    assert low.name == "npu_200tops@0.7V"
    assert other.compute_us[0] == pytest.approx(one.compute_us[0] / 0.6)
    static = [10 * done.latency_us[0] for done in (one, other)]
    dram = 31e-6 * one.traffic["dram"][0].sum()
    ratio = (other.energy_uj[0] - static[1] - dram) / (one.energy_uj[0] - static[0] - dram)
    assert ratio == pytest.approx(0.49)


def test_a_single_kernel_is_priced_as_in_a_network() -> None:
    sizes = np.array([[1], [300]]), 70, np.array([33, 900])
    latency = np.asarray(gemm_latency("npu_200tops", "nvfp4", *sizes).mean)
    assert latency.shape == (2, 2)
    expected = run(NPU, "nvfp4", linear("fc", 300, 70, 33)).latency_us[0]
    assert latency[1, 0] == pytest.approx(expected)


def test_an_npu_without_arrays_runs_at_its_peak() -> None:
    plain = with_npu(arrays=None, memories=[])
    done = run(plain, "fp16", linear("head", 1, 10, 1024))
    assert done.busy[0] == pytest.approx(1)
    assert tuple(done.traffic) == ("dram",)


def test_a_rate_that_the_arrays_lack_is_named() -> None:
    lame = with_npu(arrays={"count": 1, "rows": 2, "columns": 2, "macs_per_unit": {"fp16": 1}})
    with pytest.raises(DeviceError, match=r"macs_per_unit. must hold fp8"):
        run(lame, "fp8", linear("fc", 8, 8, 8))
