from pathlib import Path

import numpy as np
import pytest
import torch

from mpsearch.numerics.quantize import fake_quantize
from mpsearch.sensitivity.sqnr import decibels
from tests.support.own_calls import scoring
from tests.support.small_models import mlp_simulator, random_weights

score = scoring("sqnr")


def test_noise_is_the_power_of_the_rounding_error_over_that_of_the_signal(tmp_path: Path) -> None:
    weights = random_weights(32, 16)
    x = np.random.default_rng(3).standard_normal((20, 32), dtype=np.float32)
    table = score(mlp_simulator(tmp_path, weights, x=x, classify=False, batch_size=7))
    w, signal = torch.from_numpy(weights[0]), torch.from_numpy(x)
    quantised = fake_quantize(w.T, "nvfp4").T
    expected = float(((w - quantised) ** 2).sum() / (w**2).sum())
    assert table.details["weight_noise"][0, 2] == pytest.approx(expected, rel=1e-5)
    live = fake_quantize(signal, "nvfp4")
    expected = float(((signal - live) ** 2).sum() / (signal**2).sum())
    assert table.details["activation_noise"][0, 2] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        table.values, table.details["weight_noise"] + table.details["activation_noise"]
    )


def test_formats_have_the_noise_that_their_bits_imply(tmp_path: Path) -> None:
    table = score(mlp_simulator(tmp_path, random_weights(64, 64), n=200, classify=False))
    db = decibels(table.values[0])
    assert np.isnan(db[0])
    assert 25 < db[1] < 34  # three bits of mantissa on two operands
    assert 14 < db[2] < 20


def test_pruned_weights_count_as_noise(tmp_path: Path) -> None:
    schemes = ("fp32", "fp8", "fp8_2of4")
    table = score(mlp_simulator(tmp_path, random_weights(64, 64), schemes=schemes))
    assert table.values[0, 2] > 10 * table.values[0, 1]


def test_the_error_bar_is_that_of_a_ratio_of_means(tmp_path: Path) -> None:
    weights = random_weights(16, 8)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(40):
        x = (rng.standard_normal((30, 16)) * rng.gamma(1, size=(30, 1))).astype(np.float32)
        table = score(mlp_simulator(tmp_path, weights, x=x, classify=False))
        values.append((table.values[0, 1], table.stderr[0, 1]))
    spread = np.std([value for value, _ in values])
    assert 0.5 * spread < np.median([stderr for _, stderr in values]) < 2 * spread
