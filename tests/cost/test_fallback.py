import numpy as np
import pytest

from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.errors import DeviceError
from mpsearch.schemes import find_scheme
from mpsearch.space.files import read_space
from mpsearch.space.rules import Fusing
from mpsearch.space.space import SearchSpace
from tests.cost.test_estimate_costs import board
from tests.support.handmade_graph import graph_of, linear

SCHEMES = tuple(map(find_scheme, ("fp16", "fp32", "fp8", "int8")))
GRAPH = graph_of([linear("a", 64, 128, 256)])


def space(**fallbacks: str) -> SearchSpace:
    return SearchSpace("s", SCHEMES, "fp32", fusing=Fusing(fallbacks=fallbacks))


def test_what_the_runtime_computes_in_another_format_takes_casts() -> None:
    cpu = board(formats=["fp32"], peak_tflops={"fp32": 10})
    costs = estimate_costs(GRAPH, space(fp16="fp32"), cpu)
    assert costs.allowed.tolist() == [[True, True, False, False]]
    fp16, fp32, _, _ = costs.objectives["latency_us"][0]
    cast = 1 + 64 * 256 * (2 + 4) / 100e3  # what is read, into fp32; fp32 is what is written
    assert fp16 - fp32 == pytest.approx(cast)
    assert costs.stderr["latency_us"][0, 0] == pytest.approx(0.25 * fp16)


def test_a_base_may_fall_back_and_casts_both_ways() -> None:
    cpu = board(formats=["fp32"], peak_tflops={"fp32": 10})
    base = SearchSpace("s", SCHEMES, "fp16", fusing=Fusing(fallbacks={"fp16": "fp32"}))
    costs = estimate_costs(GRAPH, base, cpu)
    fp16, fp32, _, _ = costs.objectives["latency_us"][0]
    casts = 2 + (64 * 256 + 64 * 128) * (2 + 4) / 100e3
    assert fp16 - fp32 == pytest.approx(casts)
    with pytest.raises(DeviceError, match="the base format must run on the device"):
        estimate_costs(GRAPH, SearchSpace("s", SCHEMES, "fp16"), cpu)


def test_a_device_that_has_the_kernel_does_not_fall_back() -> None:
    gpu = board(formats=["fp32", "fp16", "fp8"], peak_tflops={"fp32": 1, "fp16": 10, "fp8": 20})
    costs = [estimate_costs(GRAPH, s, gpu) for s in (space(), space(fp8="fp32", fp16="fp32"))]
    np.testing.assert_array_equal(*(c.objectives["latency_us"] for c in costs))


def test_onnxruntime_computes_fp8_in_fp32_and_never_faster() -> None:
    found = SearchSpace("c", SCHEMES, "fp32", fusing=read_space("cpu", target="onnxruntime").fusing)
    costs = estimate_costs(GRAPH, found, "cpu_epyc_turin_1t")
    latency = dict(zip(found.names, costs.objectives["latency_us"][0], strict=True))
    assert costs.allowed.all()
    assert min(latency["fp8"], latency["fp16"]) > latency["fp32"] > latency["int8"]
