from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from mpsearch.errors import ArtifactError
from mpsearch.problem.tables import Costs, Table, read_costs, read_table, write_costs, write_table
from mpsearch.stats.estimates import estimate_mean

TABLE = Table(
    metric="perturbation",
    unit="nats",
    groups=("a", "b"),
    schemes=("fp16", "fp8", "nvfp4"),
    values=np.arange(6.0).reshape(2, 3),
    stderr=np.full((2, 3), 0.1),
    allowed=np.array([[True, True, False], [True, True, True]]),
    edges=np.array([[0, 1]]),
    pair_terms=np.ones((1, 3, 3)),
    reasons={("a", "nvfp4"): "channels"},
    details={"weight_noise": np.zeros((2, 3))},
    cost_plans=5.0,
)
COSTS = Costs(
    device="npu_200tops",
    groups=("a", "b"),
    schemes=("fp16", "fp8"),
    objectives={"latency_us": np.ones((2, 2)), "weight_bytes": np.full((2, 2), 8.5)},
    stderr={"latency_us": np.zeros((2, 2)), "weight_bytes": np.zeros((2, 2))},
    allowed=np.ones((2, 2), np.bool_),
    edges=np.zeros((0, 2), np.int64),
    pair_terms={"latency_us": np.zeros((0, 2, 2))},
    parameters=np.array([4, 5]),
    constants={"latency_us": 2.0},
    batch=16,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and np.array_equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@pytest.mark.parametrize("table", [TABLE, replace(TABLE, pair_terms=None, edges=TABLE.edges[:0])])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, table: Table) -> None:
    write_table(table, tmp_path / "t.json", inputs={"graph": "1"})
    again = read_table(tmp_path / "t.json")
    assert all(same(getattr(table, f.name), getattr(again, f.name)) for f in fields(Table))


def test_costs_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_costs(COSTS, tmp_path / "c.json")
    again = read_costs(tmp_path / "c.json")
    assert all(same(getattr(COSTS, f.name), getattr(again, f.name)) for f in fields(Costs))


@given(
    hnp.arrays(
        np.float64, (2, 3), elements=st.floats(allow_nan=False, allow_infinity=False, width=64)
    )
)
def test_values_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray
) -> None:
    path = tmp_path_factory.getbasetemp() / "bits.json"
    write_table(replace(TABLE, values=values), path)
    np.testing.assert_array_equal(read_table(path).values, values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_never_written(tmp_path: Path, bad: float) -> None:
    values = TABLE.values.copy()
    values[0, 0] = bad
    with pytest.raises(ArtifactError, match="values"):
        write_table(replace(TABLE, values=values), tmp_path / "t.json")
    assert not list(tmp_path.iterdir())


def test_arrays_must_have_the_shape_of_groups_by_schemes(tmp_path: Path) -> None:
    write_table(replace(TABLE, values=np.ones((1, 3))), tmp_path / "t.json")
    with pytest.raises(ArtifactError, match=r"values must have shape \[2, 3\]"):
        read_table(tmp_path / "t.json")


def test_a_table_is_not_read_as_costs(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path / "t.json")
    with pytest.raises(ArtifactError, match=r"mpsearch\.costs version 1 is needed"):
        read_costs(tmp_path / "t.json")


def test_estimates_of_normal_samples_have_student_errors() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 5, 30, 400):
        samples = rng.normal(3, 2, n)
        samples = np.concatenate([samples, 6 - samples])  # no skew at all
        found = estimate_mean(samples)
        usual = samples.std(ddof=1) / len(samples) ** 0.5
        assert found.mean == pytest.approx(3)
        factor = stats.t.ppf(0.975, 2 * n - 1) / stats.norm.ppf(0.975)
        assert found.stderr == pytest.approx(usual * factor, rel=2e-4)


@pytest.mark.parametrize(
    ("draw", "n"),
    [("normal", 8), ("normal", 64), ("exponential", 16), ("exponential", 64), ("lognormal", 64)],
)
def test_the_true_mean_is_within_196_errors_in_95_of_100_cases(draw: str, n: int) -> None:
    rng = np.random.default_rng(1)
    truth = {"normal": 0.0, "exponential": 1.0, "lognormal": float(np.exp(0.5))}[draw]
    samples = getattr(rng, draw)(size=(3000, n))
    found = [estimate_mean(row) for row in samples]
    inside = np.mean([abs(e.mean - truth) <= 1.96 * e.stderr for e in found])
    assert 0.93 <= inside <= 0.97


def test_one_sample_is_as_uncertain_as_large_and_equal_ones_are_certain() -> None:
    assert estimate_mean(np.array([-2.0])) == (-2.0, 2.0)
    assert estimate_mean(np.full(9, 0.1)) == (pytest.approx(0.1), 0.0)
    assert estimate_mean(np.zeros(4)) == (0.0, 0.0)


def test_notes_are_kept_and_older_files_have_none(tmp_path: Path) -> None:
    one = np.zeros((1, 1))
    table = Table("m", "u", ("g",), ("s",), one, one, one == 0, notes=("stopped early",))
    write_table(table, tmp_path / "t.json")
    assert read_table(tmp_path / "t.json").notes == ("stopped early",)
