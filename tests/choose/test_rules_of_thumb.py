"""Rules of thumb do what they say, within what is allowed."""

import numpy as np
import pytest

from mpsearch.choose.rules_of_thumb import (
    embeddings_heads,
    first_last,
    rule_points,
    snr_15db,
)
from mpsearch.errors import UnknownNameError
from mpsearch.problem.problem import Problem
from mpsearch.schemes import find_scheme
from mpsearch.simulate.probe import plain_weight, simulated_weight
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.rules import Rule
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import conv_net, images, imported

NAMES = ("fp16", "fp8", "mxfp4", "fp8_2of4")
FP16, FP8, MXFP4 = 0, 1, 2
LAYERS = ("stem", "depthwise", "pointwise", "head")


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    kept = Rule(reason="asked", forbid=("mxfp4",), name="pointwise")
    space = SearchSpace("test", tuple(map(find_scheme, NAMES)), "fp16", rules=(kept,))
    graph = imported(conv_net(softmax=False), tmp_path_factory.mktemp("model"))
    return Simulator(graph, space, images(64, batch_size=32))


def named(simulator: Simulator, assignment: np.ndarray) -> dict[str, int]:  # type: ignore[type-arg]
    return dict(zip(simulator.groups, map(int, assignment), strict=True))


def test_first_and_last_layers_stay_in_the_base(simulator: Simulator) -> None:
    found = named(simulator, first_last(simulator, MXFP4, simulator.allowed))
    assert found == {"stem": FP16, "depthwise": MXFP4, "pointwise": FP16, "head": FP16}


def test_heads_stay_in_the_base(simulator: Simulator) -> None:
    assert [layer.role for layer in simulator.graph.layers][-1].startswith("head")
    found = named(simulator, embeddings_heads(simulator, FP8, simulator.allowed))
    assert found == {"stem": FP8, "depthwise": FP8, "pointwise": FP8, "head": FP16}


def test_noisy_layers_take_eight_bits(simulator: Simulator) -> None:
    found = named(simulator, snr_15db(simulator, MXFP4, simulator.allowed))
    for name, scheme in found.items():
        layer = LAYERS.index(name)
        w = plain_weight(simulator.calibrated, layer)
        error = w - simulated_weight(simulator.calibrated, layer, MXFP4)
        noise = float(error.square().sum() / w.square().sum())
        if noise > 10**-1.5:  # the weights alone leave less than 15 dB
            assert scheme == FP8 or name == "pointwise"
    assert FP8 in found.values()
    assert named(simulator, snr_15db(simulator, FP8, simulator.allowed)) == {
        "stem": FP8, "depthwise": FP8, "pointwise": FP8, "head": FP8,
    }  # fmt: skip


def test_the_fastest_dense_scheme_is_the_narrow_one(simulator: Simulator) -> None:
    latency = np.tile([4.0, 2.0, 1.0, 0.5], (4, 1))
    costs = {"loss": latency, "latency_us": latency, "weight_bytes": latency}
    problem = Problem(costs, allowed=simulator.allowed, groups=simulator.groups)
    points = rule_points(("first_last", "embeddings_heads"), problem, simulator)
    assert list(points) == ["rule first_last", "rule embeddings_heads"]
    assert points["rule first_last"].assignment == (FP16, MXFP4, FP16, FP16)
    assert points["rule first_last"].predicted["latency_us"].mean == 13
    slow = {name: -values for name, values in costs.items()}
    assert rule_points(("first_last",), Problem(slow, allowed=simulator.allowed), simulator) == {}
    with pytest.raises(UnknownNameError, match="rule of thumb must be one of first_last"):
        rule_points(("magic",), problem, simulator)
