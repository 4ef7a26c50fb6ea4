"""Information: bounded by what the answers hold, and against an exact integral."""

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mpsearch.losses.outputs import Head
from mpsearch.losses.scales import make_scale
from mpsearch.sensitivity.information import lost_information
from mpsearch.sensitivity.shared.answers import class_information, find_answers
from tests.support.own_calls import scoring
from tests.support.small_models import mlp_simulator, random_weights

score = scoring("information")
LOGITS = Head("y", "y", "logits", -1)
SCHEMES = ("fp32", "fp8", "nvfp4")


def answers_of(head: Head, value: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(value)
    return find_answers([head], [[tensor]], [make_scale([tensor])])


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 30.0])
def test_no_scheme_destroys_more_than_ten_classes_hold(tmp_path: Path, sharpness: float) -> None:
    """The last layer's output is the answer itself: without its own noise that would be told for ever."""
    weights = random_weights(32, 16, 10)
    weights = (*weights[:-1], weights[-1] * np.float32(sharpness))
    simulator = mlp_simulator(tmp_path, weights, n=96, schemes=SCHEMES)
    table = score(simulator)
    logits = np.concatenate([target.reference[0].numpy() for target in simulator.targets])
    p = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    mean = p.mean(0)
    held = -(mean * np.log(mean)).sum() + (p * np.log(np.maximum(p, 1e-300))).sum(1).mean()
    assert held < log(10)
    assert (table.details["answer_information"] <= held * (1 + 1e-6)).all()
    assert (table.values <= held).all()
    head = table.details["answer_information"][-1, 2]
    assert head > 0.8 * held  # eight directions of nine: T is Y there
    assert 0 < table.values[-1, 1] < table.values[-1, 2] < held


def binary_information(sharpness: float, noise: float) -> float:
    """I(t + noise; class) in nats, integrated; t ~ N(0, 1) and P(class | t) a sigmoid of ``sharpness`` t."""
    x = np.linspace(-8, 8, 1601) * np.sqrt(1 + noise**2)
    t = np.linspace(-8, 8, 1601)
    p = 1 / (1 + np.exp(-sharpness * t))
    joint = norm.pdf(t)[None] * norm.pdf(x[:, None], t[None], max(noise, 1e-9))
    seen = p if noise == 0 else (joint * p).sum(1) / np.maximum(joint.sum(1), 1e-300)
    weight = norm.pdf(x, scale=np.sqrt(1 + noise**2))
    entropy = -(seen * np.log(np.clip(seen, 1e-300, 1))) - (
        (1 - seen) * np.log(np.clip(1 - seen, 1e-300, 1))
    )
    return float(log(2) - (entropy * weight).sum() / weight.sum())


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_two_classes_lose_what_the_integral_says(sharpness: float, noise: float) -> None:
    """Told by a Gaussian, so within a tenth of all that there is; exact where the classes are faint."""
    t = norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    e = noise * np.random.default_rng(0).permutation(t)
    y = answers_of(LOGITS, np.hstack([sharpness * t, np.zeros_like(t)]))
    y = y @ np.array([[1.0], [-1.0]]) / np.sqrt(2)
    everything = binary_information(sharpness, 0)
    exact = everything - binary_information(sharpness, noise)
    assert lost_information(t, e, y) == pytest.approx(exact, abs=0.1 * everything)
    if sharpness < 0.5:
        assert lost_information(t, e, y) == pytest.approx(exact, rel=0.03)


def test_all_noise_destroys_all_that_the_answer_holds() -> None:
    logits = np.random.default_rng(0).standard_normal((500, 4)) * 2
    y = answers_of(LOGITS, logits)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    held = class_information(p)
    t = (logits - logits.mean(1, keepdims=True)) @ np.linalg.svd(
        logits - logits.mean(1, keepdims=True)
    )[2][:3].T
    assert lost_information(t, 1e4 * t, y) == pytest.approx(held, rel=1e-3)
    assert lost_information(t, np.zeros_like(t), y) == 0


def test_numbers_are_told_to_a_tenth_of_their_deviation() -> None:
    x = np.random.default_rng(0).standard_normal((400, 1)) * 50 + 7
    y = answers_of(Head("y", "y", "numbers", 0), x)
    assert y.std() == pytest.approx(10)
    assert lost_information(x, 1e5 * x, y) == pytest.approx(0.5 * log(101), rel=1e-2)


def test_chances_hold_a_bit_each_and_constant_answers_nothing() -> None:
    odds = np.where(np.arange(400)[:, None] % np.array([2, 4]) == 0, 40.0, -40.0)
    y = answers_of(Head("y", "y", "odds", 0), odds)
    each = 0.5 * np.log1p(y.var(0, ddof=1))
    quarter = -(0.25 * log(0.25) + 0.75 * log(0.75))
    np.testing.assert_allclose(each, [log(2), quarter], rtol=1e-6)
    assert not answers_of(LOGITS, np.ones((20, 5))).any()


@pytest.mark.parametrize("axis", [0, 1])
def test_samples_may_lie_along_another_axis(axis: int) -> None:
    logits = np.random.default_rng(0).standard_normal((30, 6, 4))
    head = Head("y", "y", "logits", -1, axis)
    tensor = torch.from_numpy(np.moveaxis(logits, 0, axis).copy())
    found = find_answers([head], [[tensor]], [make_scale([tensor], axis)])
    np.testing.assert_allclose(found, answers_of(LOGITS, logits))
