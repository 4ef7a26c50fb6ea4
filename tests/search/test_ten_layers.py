"""Ten layers, FLOPs 2 4 8 8 16 16 8 4 2 1, at speed 1 in fp16, 2 in fp8, 4 in nvfp4; latency <= 30.

The textbook proposes fp8, five nvfp4, two fp8, two fp16. It states no sensitivities: two are tried.
"""

from itertools import product

import numpy as np
import pytest

from mpsearch.problem.problem import Problem
from tests.support.own_calls import searching

search = searching("exact")

FLOPS = np.array([2, 4, 8, 8, 16, 16, 8, 4, 2, 1], float)
SPEED = np.array([1.0, 2.0, 4.0])
NOISE = np.array([0.0, 2.0**-8, 2.0**-4])  # relative error power falls by 4 a mantissa bit
TEXTBOOK = np.array([1, 2, 2, 2, 2, 2, 1, 1, 0, 0])
SENSITIVITIES = {
    "equal": np.ones(10),
    "ends": np.array([8, 4, 2, 1, 1, 1, 1, 2, 4, 8], float),
}


def ten_layers(kind: str, *constraints: str) -> Problem:
    return Problem(
        {"latency_us": FLOPS[:, None] / SPEED, "loss": SENSITIVITIES[kind][:, None] * NOISE},
        schemes=("fp16", "fp8", "nvfp4"),
        constraints=constraints,
    )


def test_the_textbook_plan_takes_23_not_25() -> None:
    assert ten_layers("equal").evaluate(TEXTBOOK)["latency_us"].tolist() == [23.0]


@pytest.mark.parametrize("kind", SENSITIVITIES)
def test_the_optimum_within_30_equals_brute_force(kind: str) -> None:
    front = search(ten_layers(kind, "latency_us <= 30"))
    rows = np.array(list(product(range(3), repeat=10)))
    latency = (FLOPS / SPEED[rows]).sum(axis=1)
    loss = (SENSITIVITIES[kind] * NOISE[rows]).sum(axis=1)
    assert front.objectives[-1, 1] == pytest.approx(loss[latency <= 30].min(), rel=1e-12)
    assert front.objectives[-1, 0] <= 30


@pytest.mark.parametrize("kind", SENSITIVITIES)
def test_the_textbook_plan_is_dominated(kind: str) -> None:
    problem = ten_layers(kind)
    totals = problem.evaluate(TEXTBOOK)
    values = search(problem).objectives
    mine = np.array([totals["latency_us"][0], totals["loss"][0]])
    assert ((values <= mine).all(axis=1) & (values < mine - 1e-12).any(axis=1)).any()
