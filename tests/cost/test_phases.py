from dataclasses import replace

import numpy as np
import pytest

from mpsearch.cost.device import read_device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.cost.gemm import gemm_latency
from mpsearch.cost.phases import Phase, Tokens, read_phases
from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Costs
from mpsearch.schemes import find_scheme
from mpsearch.space.space import SearchSpace
from tests.support.handmade_graph import attention, graph_of, linear

HEADS, WIDTH, OWN = 4, 16, 32
SPACE = SearchSpace("two", (find_scheme("fp16"), find_scheme("fp8")))
PHASES = {"prefill": 2048, "decode": "1@kv=4096"}


def decoder() -> ModelGraph:
    """A projection, scores, weighted values and a projection of 32 tokens."""
    scores = replace(attention("scores", HEADS, OWN, WIDTH), role="attention.scores")
    values = attention("values", HEADS, OWN, WIDTH)
    values = replace(
        values,
        role="attention.values",
        gemms=(replace(values.gemms[0], n=WIDTH, k=OWN),),
        input_elements=HEADS * OWN * OWN,
        output_elements=HEADS * OWN * WIDTH,
    )
    width = HEADS * WIDTH
    return graph_of(
        [linear("q", OWN, width, width), scores, values, linear("out", OWN, width, width)]
    )


def price(tokens: Tokens | None = None, mix: dict[str, float] | None = None) -> Costs:
    return estimate_costs(decoder(), SPACE, "h100_sxm5_80gb", tokens=tokens, mix=mix)


def test_texts_read_as_phases() -> None:
    assert read_phases(PHASES) == (Phase("prefill", 2048, 0), Phase("decode", 1, 4096))
    assert [phase.context for phase in read_phases(PHASES)] == [2048, 4097]
    assert read_phases(512) == read_phases({"": "512"}) == (Phase(tokens=512),)
    assert read_phases(None) == (Phase(),)


@pytest.mark.parametrize("text", ["", "two", "0", "-1", "1@kv", "1@kv=", "1@context=2", "1.5"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(DeviceError, match=f"decode:1@kv=4096; got decode:{text}"):
        read_phases({"decode": text})


@pytest.mark.parametrize("mix", [{"decode": 1.0}, {"prefill": -1, "decode": 2}, {"other": 1}])
def test_a_mix_names_every_phase(mix: dict[str, float]) -> None:
    with pytest.raises(DeviceError, match=r"mix must give each phase.*prefill, decode"):
        read_phases(PHASES, mix)


def test_each_phase_is_a_latency_of_its_own_and_the_mix_is_the_latency() -> None:
    costs = price(PHASES, {"prefill": 0.2, "decode": 0.8})
    parts = [costs.objectives[f"latency_us:{name}"] for name in PHASES]
    expected = 0.2 * parts[0] + 0.8 * parts[1]
    np.testing.assert_allclose(costs.objectives["latency_us"], expected)
    pairs = [costs.pair_terms[f"latency_us:{name}"] for name in PHASES]
    np.testing.assert_allclose(costs.pair_terms["latency_us"], 0.2 * pairs[0] + 0.8 * pairs[1])
    for name, phase in PHASES.items():
        alone = price({name: phase})
        np.testing.assert_allclose(
            costs.objectives[f"latency_us:{name}"], alone.objectives["latency_us"]
        )
    one_of_each = price(PHASES).objectives["latency_us"]
    np.testing.assert_allclose(one_of_each, parts[0] + parts[1])
    assert costs.tensor_parallel == 1


def test_a_phase_can_be_limited() -> None:
    costs = price(PHASES)
    decode = costs.objectives["latency_us:decode"]
    least = decode.min(axis=1).sum()
    problem = Problem(
        costs.objectives, constraints=[f"latency_us:decode <= {least * 1.2}"], schemes=SPACE.names
    )
    assert problem.linear[0].quantity == "latency_us:decode"


def test_decoding_reads_the_keys_and_values_of_all_tokens_before() -> None:
    device = read_device("h100_sxm5_80gb")
    short, long = (price({"decode": f"1@kv={n}"}).objectives["latency_us"] for n in (64, 65536))
    assert (short[[0, 3]] == long[[0, 3]]).all()
    base = gemm_latency(device, "fp16", 1, HEADS * WIDTH, HEADS * WIDTH).mean
    assert short[0, 0] == pytest.approx(base)
    read = HEADS * 65537 * WIDTH * 2 + HEADS * (65537 + WIDTH) * 2
    assert long[1, 0] >= read / 3350e3  # keys, at least, once
    assert long[1, 1] < long[1, 0]  # half the bytes in fp8


def test_a_prompt_attends_to_itself() -> None:
    one, two = (price({"prefill": n}).objectives["latency_us"][1, 0] for n in (8192, 16384))
    assert 3.5 < two / one < 4.1  # scores grow with the square


def test_a_number_leaves_the_context_as_it_is() -> None:
    number = price(1).objectives["latency_us"]
    text = price({"decode": f"1@kv={OWN - 1}"}).objectives["latency_us"]
    np.testing.assert_allclose(number, text)
    assert "latency_us:" not in " ".join(price(1).objectives)


def test_bytes_take_energy_where_the_device_says_how_much() -> None:
    device = read_device("h100_sxm5_80gb")
    paid = device.model_copy(update={"dram_picojoule_per_byte": 30.0, "max_power_w": None})
    width = HEADS * WIDTH
    energy = estimate_costs(decoder(), SPACE, paid).objectives["energy_uj"][0]
    moved = [2 * (2 * OWN * width + width**2), OWN * width * 3 + width**2 + 4 * width]
    np.testing.assert_allclose(energy, np.array(moved) * 30e-6)


def test_a_decoder_that_was_imported_at_one_token_has_phases_too() -> None:
    whole = decoder()
    layers = tuple(
        replace(layer, gemms=tuple(replace(gemm, m=1) for gemm in layer.gemms))
        for layer in whole.layers
    )
    one = replace(whole, layers=layers)
    tables = [
        estimate_costs(g, SPACE, "h100_sxm5_80gb", tokens={"decode": "1@kv=99"}).objectives
        for g in (one, whole)
    ]
    np.testing.assert_allclose(tables[0]["latency_us"][1:3], tables[1]["latency_us"][1:3])


def test_energy_is_at_most_the_boards_power_for_as_long_as_it_runs() -> None:
    costs = price(PHASES)
    np.testing.assert_allclose(costs.objectives["energy_uj"], 700 * costs.objectives["latency_us"])
    np.testing.assert_allclose(costs.pair_terms["energy_uj"], 700 * costs.pair_terms["latency_us"])
    cpu = estimate_costs(
        decoder(), SearchSpace("c", (find_scheme("fp32"),), "fp32"), "cpu_epyc_turin_1t"
    )
    assert "energy_uj" not in cpu.objectives
