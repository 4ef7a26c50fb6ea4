from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpsearch.errors import ArtifactError, ProblemError
from mpsearch.problem.front import Front, Point, Step, diff, merge, read_front, write_front
from mpsearch.problem.pareto import hypervolume, knee, non_dominated, thin
from mpsearch.stats.estimates import Estimate

grids = st.integers(1, 4).flatmap(
    lambda n: arrays(
        np.int64, st.tuples(st.integers(1, 12), st.just(n)), elements=st.integers(0, 5)
    )
)


def make_front(
    values: list[tuple[float, float]], *, measured: bool = False, second: int = 0
) -> Front:
    points = tuple(
        Point(
            (k, second),
            {"latency_us": Estimate(x), "loss": Estimate(y, 0.5)},
            {"loss": Estimate(y + 1)} if measured else {},
            "exact",
            0.25 if k == 0 else None,
            0.0 if k == 0 else None,
        )
        for k, (x, y) in enumerate(values)
    )
    return Front(
        points,
        ("latency_us", "loss"),
        tuple("abcdef"),
        ("g", "h"),
        "exact",
        "complete",
        (Step(1.0, (1.0, 2.0)),),
    )


@given(grids)
def test_non_dominated_equals_its_definition(values: np.ndarray) -> None:
    wanted = []
    for i, row in enumerate(values):
        dominated = any((o <= row).all() and (o < row).any() for o in values)
        repeated = any((values[j] == row).all() for j in range(i))
        wanted.append(not dominated and not repeated)
    assert non_dominated(values).tolist() == wanted


@given(grids)
@settings(deadline=None)
def test_hypervolume_equals_counted_unit_cubes(values: np.ndarray) -> None:
    n = values.shape[1]
    cells = np.array(list(product(range(6), repeat=n)))
    covered = (values[:, None, :] <= cells).all(axis=2).any(axis=0).sum()
    assert hypervolume(values, [6.0] * n) == pytest.approx(covered)


def test_hypervolume_of_five_objectives_equals_counted_unit_cubes() -> None:
    values = np.random.default_rng(0).integers(0, 4, (8, 5))
    cells = np.array(list(product(range(4), repeat=5)))
    covered = (values[:, None, :] <= cells).all(axis=2).any(axis=0).sum()
    assert hypervolume(values, [4.0] * 5) == pytest.approx(covered)


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume([[1.0, 9.0], [9.0, 1.0]], [5.0, 5.0]) == 0.0


def test_the_knee_is_farthest_below_the_chord() -> None:
    assert knee([[0, 10], [1, 3], [4, 2], [10, 0]]) == 1


@given(st.integers(1, 30), st.integers(1, 40))
def test_thinning_keeps_the_ends_and_leaves_no_gap_twice_the_best(n: int, count: int) -> None:
    x = np.sort(np.random.default_rng(count).random(count))
    values = np.stack([x, 1 - x], axis=1)
    kept = thin(values, n)
    assert len(kept) == min(n, count)
    if n >= 2 and count >= 2:
        assert {0, count - 1} <= set(kept.tolist())
        scaled = (x - x[0]) / (x[-1] - x[0])
        distance = np.abs(scaled[:, None] - scaled[kept]).min(axis=1).max()
        least = min(  # best cover of a line by n intervals: bisect on their radius
            r for r in np.linspace(0, 1, 201) if _cover(scaled, r) <= n
        )
        assert distance <= 2 * least + 1e-9


def _cover(sorted_values: np.ndarray, radius: float) -> int:
    count, end = 0, -np.inf
    for value in sorted_values:
        if value > end:
            count, end = count + 1, value + 2 * radius
    return count


def test_merging_keeps_the_non_dominated_points_of_all() -> None:
    merged = merge([make_front([(2, 5), (3, 3)]), make_front([(1, 6), (2.5, 3)], second=1)])
    assert merged.objectives.tolist() == [[1, 6], [2, 5], [2.5, 3]]
    assert [point.assignment for point in merged.points] == [(0, 1), (0, 0), (1, 1)]
    assert merged.method == "exact"


pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8)


@given(pairs, pairs)
def test_merge_and_diff_equal_their_definitions(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    a, b = (
        make_front([(float(x), float(y)) for x, y in part], second=k)
        for k, part in enumerate((first, second))
    )
    everything = {*first, *second}
    best = {
        (x, y)
        for x, y in everything
        if not any(u <= x and v <= y and (u, v) != (x, y) for u, v in everything)
    }
    merged = merge([a, b]).objectives
    assert merged.tolist() == sorted([float(x), float(y)] for x, y in best)
    result = diff(a, b)
    assert result.common == ()
    for wins, mine, theirs in (
        (result.first_wins, first, second),
        (result.second_wins, second, first),
    ):
        assert wins == sum(
            any(x <= u and y <= v and (x, y) != (u, v) for u, v in theirs) for x, y in mine
        )


@given(grids)
def test_the_knee_has_the_least_sum_of_scaled_objectives(values: np.ndarray) -> None:
    span = np.maximum(np.ptp(values, axis=0), 1)
    sums = [sum((row - values.min(axis=0)) / span) for row in values]
    assert sums[knee(values)] == pytest.approx(min(sums))


@given(grids, st.integers(1, 12))
def test_thinning_covers_at_most_twice_as_far_as_the_best_choice(
    values: np.ndarray, n: int
) -> None:
    scaled = (values - values.min(axis=0)) / np.maximum(np.ptp(values, axis=0), 1)
    between = np.abs(scaled[:, None] - scaled[None]).max(axis=2)
    kept = thin(values, n)
    assert len(set(kept.tolist())) == len(kept) <= n
    if n > values.shape[1] and len(values) <= 9:  # the best of each objective are always kept
        free = between[:, kept].min(axis=1).max()
        ends = len(set(scaled.argmin(axis=0).tolist()))
        spare = min(
            between[:, list(chosen)].min(axis=1).max()
            for chosen in combinations(range(len(values)), min(n - ends + 1, len(values)))
        )
        assert free <= 2 * spare + 1e-12


def test_measured_and_predicted_fronts_are_not_mixed() -> None:
    with pytest.raises(ProblemError, match="all be measured or all be predicted"):
        merge([make_front([(1, 5)]), make_front([(2, 2)], measured=True)])


def test_a_diff_counts_what_one_front_has_over_the_other() -> None:
    first, second = make_front([(1, 5), (3, 3)]), make_front([(1, 5), (3, 4)])
    result = diff(first, second)
    assert result.common == ((0, 0), (1, 0))
    assert (result.first_wins, result.second_wins) == (1, 0)
    assert result.hypervolumes[0] >= result.hypervolumes[1]


def test_fronts_of_different_groups_are_not_compared() -> None:
    other = Front((), ("latency_us", "loss"), tuple("abcdef"), ("g",))
    with pytest.raises(ProblemError, match="groups"):
        diff(make_front([(1, 5)]), other)


@pytest.mark.parametrize("measured", [False, True])
def test_a_front_survives_its_file(tmp_path: Path, measured: bool) -> None:
    front = make_front([(1, 5), (3, 3)], measured=measured)
    path = tmp_path / "front.json"
    digest = write_front(front, path, {"table": "abc"})
    assert len(digest) == 64
    assert read_front(path) == front


def test_an_empty_front_survives_its_file(tmp_path: Path) -> None:
    front = Front((), ("loss",), ("a",), ("g",))
    write_front(front, tmp_path / "front.json")
    assert read_front(tmp_path / "front.json") == front


@pytest.mark.parametrize(
    ("old", "new"), [('"0 0"', '"0 9"'), ('"0 0"', '"0"'), ('"loss": {', '"gone": {')]
)
def test_a_front_that_contradicts_itself_is_refused(tmp_path: Path, old: str, new: str) -> None:
    import json

    from mpsearch.artifacts import digest_json

    path = tmp_path / "front.json"
    write_front(make_front([(1, 5)]), path)
    text = path.read_text()
    assert old in text
    envelope = json.loads(text.replace(old, new))
    envelope["digest"] = digest_json(envelope["content"])
    path.write_text(json.dumps(envelope))
    with pytest.raises(ArtifactError, match=r"front\.json"):
        read_front(path)


def test_history_becomes_a_rising_curve() -> None:
    front = make_front([(1, 5)])
    steps = (Step(1, (3, 3)), Step(2, (1, 4)), Step(5, (2, 1)))
    whole = Front((), front.names, front.schemes, front.groups, history=steps)
    assert whole.hypervolume_history([5, 5]) == [(1, 4.0), (2, 6.0), (5, 13.0)]


def test_infinite_values_are_refused() -> None:
    with pytest.raises(ProblemError, match="finite"):
        non_dominated([[1.0, np.inf]])
