"""HAWQ-V3's published arrays (arXiv 2011.10680, Zhen-Dong/HAWQ ILP.ipynb, MIT)."""

import json
from pathlib import Path

import numpy as np
import pytest

from mpsearch.problem.problem import Problem
from tests.support.own_calls import searching

search = searching("exact")

DATA = json.loads((Path(__file__).parents[1] / "data" / "hawq_v3.json").read_text())


def hawq_problem(network: str, *, constraints: tuple[str, ...] = ()) -> Problem:
    arrays = DATA[network]
    trace = np.array(arrays["Hutchinson_trace"])[:, None]
    deltas = [arrays["delta_weights_4bit_square"], arrays["delta_weights_8bit_square"]]
    ties = [f"tie({', '.join(f'group{i}' for i in tie)})" for tie in arrays["ties"]]
    return Problem(
        {
            "loss": trace * np.array(deltas).T,
            "latency_us": 1e3 * np.array([arrays["latency_int4"], arrays["latency_int8"]]).T,
        },
        schemes=("int4", "int8"),
        constraints=(*ties, *constraints),
    )


@pytest.mark.parametrize(("network", "points"), [("resnet18", 41), ("resnet50", 638)])
def test_the_front_has_the_known_number_of_points(network: str, points: int) -> None:
    front = search(hawq_problem(network))
    assert len(front.points) == points
    assert front.certificate.startswith("complete")


@pytest.mark.parametrize(
    ("share", "loss", "latency_ms"),
    [(0.25, 0.137505, 8.7090), (0.50, 0.054861, 9.7589), (0.75, 0.022658, 10.7993)],
)
@pytest.mark.parametrize("method", ["exact", "milp"])
def test_the_published_optima_are_found(
    share: float, loss: float, latency_ms: float, method: str
) -> None:

    problem = hawq_problem("resnet50")
    low, high = problem.objectives["latency_us"].sum(axis=0)
    limit = low + share * (high - low)
    limited = hawq_problem("resnet50", constraints=(f"latency_us <= {limit}",))
    front = searching(method)(limited, objectives=("loss",))
    best = front.points[0].predicted
    assert round(best["loss"].mean, 6) == loss
    assert round(best["latency_us"].mean / 1e3, 4) == latency_ms
