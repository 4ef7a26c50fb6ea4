from pathlib import Path

import numpy as np
import pytest
from small_models import mlp_simulator, random_weights

from mpsearch.sensitivity.cross_terms import fit_factor, predicted_pairs, score
from mpsearch.sensitivity.single import base_assignment, change_one


def test_predicted_pairs_agree_with_brute_force(tmp_path: Path) -> None:
    weights = random_weights(32, 24, 24, 4)
    simulator = mlp_simulator(tmp_path, weights, n=256, batch_size=64)
    edges, terms = predicted_pairs(simulator)
    assert edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    base = base_assignment(simulator)
    measured = np.zeros_like(terms)
    for e, (g, h) in enumerate(edges.tolist()):
        for s in (1, 2):
            for t in (1, 2):
                one, other = change_one(base, g, s), change_one(base, h, t)
                both = simulator.losses(change_one(one, h, t)).mean()
                measured[e, s, t] = (
                    both - simulator.losses(one).mean() - simulator.losses(other).mean()
                )
    kept = measured != 0
    assert np.corrcoef(terms[kept], measured[kept])[0, 1] > 0.9
    assert (terms[:, 0] == 0).all()
    assert (terms[:, :, 0] == 0).all()


def test_the_factor_is_found_and_never_leaves_its_range() -> None:
    rng = np.random.default_rng(0)
    alone = rng.gamma(2, size=50)
    together = alone + rng.normal(0, 0.3, 50)
    assert fit_factor(alone, together, 0.6 * alone + 0.4 * together) == pytest.approx(0.4)
    assert fit_factor(alone, together, alone) == 0
    assert fit_factor(alone[:2], together[:2], alone[:2]) == 0


def test_single_values_are_those_of_perturbation(tmp_path: Path) -> None:
    simulator = mlp_simulator(tmp_path, random_weights(32, 24, 24, 4))
    table = score(simulator)
    base = base_assignment(simulator)
    expected = simulator.losses(change_one(base, 1, 2)) - simulator.losses(base)
    assert table.values[1, 2] == pytest.approx(expected.mean())
    assert table.pair_terms is not None
    assert table.pair_terms.shape == (3, 3, 3)
