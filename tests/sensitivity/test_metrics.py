"""What every metric promises, built in or third party."""

from pathlib import Path

import numpy as np
import pytest
from small_models import SPARSE, mlp_simulator, random_weights

from mpsearch.errors import DataError, UnknownNameError
from mpsearch.execute.simulator import Simulator
from mpsearch.registry import list_names
from mpsearch.sensitivity.score import score_sensitivity
from mpsearch.tables import Table, read_table, write_table


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    weights = random_weights(18, 16, 12, 5)
    return mlp_simulator(tmp_path_factory.mktemp("mlp"), weights, schemes=SPARSE)


@pytest.fixture(scope="module", params=list_names("metrics"))
def metric(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def table(simulator: Simulator, metric: str) -> Table:
    return score_sensitivity(simulator, metric=metric, seed=3)


def test_the_table_is_groups_by_schemes(simulator: Simulator, metric: str, table: Table) -> None:
    shape = (3, 4)
    assert table.metric == metric
    assert table.groups == simulator.groups
    assert table.schemes == simulator.space.names
    assert table.values.shape == table.stderr.shape == table.allowed.shape == shape
    assert table.unit


def test_values_and_errors_are_finite_and_errors_are_not_negative(table: Table) -> None:
    assert np.isfinite(table.values).all()
    assert np.isfinite(table.stderr).all()
    assert (table.stderr >= 0).all()
    for detail in table.details.values():
        assert np.isfinite(detail).all()


def test_the_base_and_what_is_not_allowed_are_zero(simulator: Simulator, table: Table) -> None:
    assert (table.values[:, 0] == 0).all()
    assert (table.values[~table.allowed] == 0).all()
    np.testing.assert_array_equal(table.allowed, simulator.allowed)
    assert not table.allowed[0, 3]  # 18 channels do not divide by 4
    assert "channels" in table.reasons["fc0", "fp8_2of4"]


def test_fewer_bits_hurt_more_in_total(table: Table) -> None:
    totals = table.values.sum(axis=0)
    assert 0 < totals[1] < totals[2]


def test_a_seed_repeats_to_the_last_bit(simulator: Simulator, metric: str, table: Table) -> None:
    again = score_sensitivity(simulator, metric=metric, seed=3)
    np.testing.assert_array_equal(again.values, table.values)
    np.testing.assert_array_equal(again.stderr, table.stderr)


def test_progress_ends_at_its_total(simulator: Simulator, metric: str) -> None:
    seen: list[tuple[int, int]] = []
    score_sensitivity(
        simulator, metric=metric, progress=lambda done, total, _: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_table_can_be_written_and_read(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "t.json")
    np.testing.assert_array_equal(read_table(tmp_path / "t.json").values, table.values)


def test_one_sample_is_scored_with_an_error_as_large_as_the_value(
    metric: str, tmp_path: Path
) -> None:
    one = mlp_simulator(tmp_path, random_weights(16, 8, 3), n=1)
    if metric == "information":  # nothing varies: there is nothing to be informed about
        with pytest.raises(DataError, match="samples >= 4"):
            score_sensitivity(one, metric=metric)
        return
    table = score_sensitivity(one, metric=metric)
    assert np.isfinite(table.values).all()
    assert np.isfinite(table.stderr).all()
    assert table.stderr.sum() > 0


def test_a_dead_layer_is_zero(metric: str, tmp_path: Path) -> None:
    weights = random_weights(16, 8, 3)
    weights[0][:] = 0
    weights[1][:] = 0
    x = np.zeros((12, 16), np.float32)
    table = score_sensitivity(mlp_simulator(tmp_path, weights, x=x), metric=metric)
    assert (table.values == 0).all()
    assert (table.stderr == 0).all()


def test_an_unknown_metric_lists_the_choices(simulator: Simulator) -> None:
    with pytest.raises(UnknownNameError, match=r"metric must be one of sqnr, .*got 'magic'"):
        score_sensitivity(simulator, metric="magic")
