from typing import Any

import numpy as np
import pytest

from mpsearch.errors import ProblemError
from mpsearch.problem.build import build_problem
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Costs, Table

GROUPS, SCHEMES = ("conv1", "/model/q, k", "fc"), ("fp16", "nvfp4")


def make_problem(**more: Any) -> Problem:
    settings: dict[str, Any] = {
        "schemes": SCHEMES,
        "groups": GROUPS,
        "parameters": [10, 20, 30],
        "constants": {"weight_bytes": 100.0},
    }
    objectives = {
        "latency_us": [[4.0, 1.0], [4.0, 1.0], [4.0, 1.0]],
        "loss": [[0.0, 0.1], [0.0, 0.2], [0.0, 0.3]],
        "weight_bytes": [[20, 6], [40, 12], [60, 18]],
    }
    return Problem(objectives, **{**settings, **more})


def test_totals_add_values_pair_terms_and_constants() -> None:
    pair = np.zeros((1, 2, 2))
    pair[0, 0, 1] = 0.5
    problem = make_problem(edges=[(2, 0)], pair_terms={"latency_us": pair})
    totals = problem.evaluate([[1, 0, 0], [0, 0, 0]])
    assert totals["latency_us"].tolist() == [9.5, 12.0]
    assert totals["weight_bytes"].tolist() == [206.0, 220.0]
    assert problem.effective_bits([[0, 0, 0], [1, 1, 1]]).tolist() == [16.0, pytest.approx(4.8)]


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_the_standard_error_of_a_sum_is_that_of_errors_with_the_stated_correlation(
    correlation: float,
) -> None:
    own = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    problem = make_problem(stderr={"loss": own}, correlation=correlation)
    covariance = np.outer(own[:, 1], own[:, 1]) * (
        correlation + (1 - correlation) * np.eye(len(own))
    )
    assert problem.stderrs([[1, 1, 1]])["loss"][0] == pytest.approx(covariance.sum() ** 0.5)
    assert problem.stderrs([[1, 1, 1]])["latency_us"].tolist() == [0.0]


def test_with_confidence_a_limit_is_on_the_bound() -> None:
    stderr = {"latency_us": np.full((3, 2), 0.5)}
    row = [[1, 1, 1]]  # 3 µs, errors add up to 1.5
    upper = 3 + 1.6448536269514722 * 1.5
    for limit, fine in ((upper - 0.001, False), (upper + 0.001, True)):
        words = [f"latency_us <= {limit}"]
        assert make_problem(stderr=stderr, constraints=words).feasible(row)[0]
        sure = make_problem(stderr=stderr, constraints=words, confidence=0.95)
        assert sure.feasible(row)[0] == fine
    lower = 3 - 1.6448536269514722 * 1.5
    for limit, fine in ((lower - 0.001, True), (lower + 0.001, False)):
        words = [f"latency_us >= {limit}"]
        sure = make_problem(stderr=stderr, constraints=words, confidence=0.95)
        assert sure.feasible(row)[0] == fine


def test_an_error_that_is_a_share_of_the_objective_is_one_of_boundary_terms_too() -> None:
    pair = np.full((1, 2, 2), 2.0)
    objective = np.array([[4.0, 1.0], [4.0, 1.0], [4.0, 1.0]])
    total = (3 + 2) * (1 + 1.6448536269514722 * 0.1)
    for limit, fine in ((total - 0.001, False), (total + 0.001, True)):
        problem = make_problem(
            stderr={"latency_us": 0.1 * objective},
            edges=[(0, 1)],
            pair_terms={"latency_us": pair},
            constraints=[f"latency_us <= {limit}"],
            confidence=0.95,
        )
        assert problem.feasible([[1, 1, 1]])[0] == fine


def test_with_confidence_a_measured_loss_is_judged_by_its_own_error() -> None:
    problem = make_problem(constraints=["loss <= 0.5"], confidence=0.95)
    measured = {"loss": (np.array([0.4, 0.4, 0.51]), np.array([0.05, 0.07, 0.0]))}
    assert problem.feasible([[0, 0, 0]] * 3, measured=measured).tolist() == [True, False, False]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_what_meets_a_limit_with_confidence_exceeds_it_as_seldom_as_stated(
    correlation: float,
) -> None:
    rng = np.random.default_rng([4, int(10 * correlation)])
    G, worlds = 20, 2000
    mean, stderr = rng.uniform(0.1, 1, (G, 1)), rng.uniform(0.01, 0.2, (G, 1))
    shared, own = rng.normal(size=(worlds, 1)), rng.normal(size=(worlds, G))
    errors = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    truth = float(mean.sum())
    drawn = errors * stderr[:, 0] + mean[:, 0]
    exceeded = 0
    for table in drawn:
        sure = Problem(
            {"loss": table[:, None]},
            stderr={"loss": stderr},
            constraints=[f"loss <= {truth}"],
            confidence=0.95,
        )
        exceeded += bool(sure.feasible([[0] * G])[0])  # though the truth is at the limit
    assert exceeded / worlds <= 0.065


def test_a_changed_problem_keeps_everything_else() -> None:
    problem = make_problem(
        stderr={"loss": np.full((3, 2), 0.1)}, confidence=0.9, constraints=["latency_us <= 6"]
    )
    other = problem.changed(constraints=["latency_us <= 7"])
    assert other.constraints == ("latency_us <= 7",)
    assert (other.groups, other.confidence) == (problem.groups, 0.9)
    assert other.effective_bits([[0, 0, 0]]) == problem.effective_bits([[0, 0, 0]])
    halved = problem.changed(
        objectives={"loss": problem.objectives["loss"] / 2}, constraints=["loss <= 1"]
    )
    assert halved.evaluate([[1, 1, 1]])["loss"][0] == pytest.approx(0.3)


@pytest.mark.parametrize("more", [{"confidence": 1.0}, {"confidence": 0.3}, {"correlation": 2.0}])
def test_a_risk_out_of_range_is_refused(more: dict[str, float]) -> None:
    with pytest.raises(ProblemError, match=next(iter(more))):
        make_problem(**more)


@pytest.mark.parametrize(
    ("text", "row", "fine"),
    [
        ("latency_us <= 6", [1, 1, 0], True),
        ("latency_us <= 6", [1, 0, 0], False),
        ("weight_bytes <= 200", [0, 0, 1], True),
        ("effective_bits <= 4.8", [1, 1, 1], True),
        ("effective_bits <= 4.8", [1, 1, 0], False),
        ("count(nvfp4) >= 2", [1, 1, 0], True),
        ("count(nvfp4) >= 2", [1, 0, 0], False),
        ("count(fp16) == 1", [1, 1, 0], True),
        ("loss <= 0.05", [1, 0, 0], False),
        ("tie(conv1, '/model/q, k')", [1, 1, 0], True),
        ("tie(conv1, '/model/q, k')", [1, 0, 0], False),
        ("forbid(conv1=nvfp4, '/model/q, k'=fp16)", [1, 0, 1], False),
        ("forbid(conv1=nvfp4, '/model/q, k'=fp16)", [1, 1, 1], True),
    ],
)
def test_constraints_in_words(text: str, row: list[int], fine: bool) -> None:
    assert make_problem(constraints=[text]).feasible([row]).tolist() == [fine]


def test_constraints_as_code() -> None:
    problem = make_problem(constraints=[lambda rows: rows[:, 0] == 1])
    assert problem.feasible([[1, 0, 0], [0, 0, 0]]).tolist() == [True, False]


def test_a_measured_loss_is_judged_in_place_of_the_predicted_one() -> None:
    problem = make_problem(constraints=["loss <= 0.05"])
    good = problem.feasible([[1, 0, 0]], measured={"loss": (np.array([0.04]), np.array([1.0]))})
    assert good.tolist() == [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed <= 3", "latency_us, loss, weight_bytes, effective_bits"),
        ("latency_us < 3", "<=, >=, =="),
        ("latency_us <= fast", "'fast' must be a number"),
        ("latency_us <= nan", "finite"),
        ("count(int3) >= 1", "fp16, nvfp4"),
        ("tie(conv1)", "two groups"),
        ("tie(conv1, nowhere)", "nowhere"),
        ("forbid(conv1=nvfp4)", "forbid"),
        ("forbid(conv1=nvfp4, conv1=fp16)", "different groups"),
        ("", "must read like"),
    ],
)
def test_words_that_cannot_be_read_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ProblemError, match=message) as caught:
        make_problem(constraints=[text])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"allowed": [[0, 0], [1, 1], [1, 1]]}, "'conv1' has none"),
        ({"edges": [(0, 3)]}, "two different groups"),
        ({"edges": [(1, 1)]}, "two different groups"),
        ({"pair_terms": {"speed": np.zeros((0, 2, 2))}}, "speed"),
        ({"pair_terms": {"loss": np.zeros((1, 2, 2))}}, "shape"),
        ({"stderr": {"speed": np.zeros((3, 2))}}, "speed"),
        ({"schemes": ("a", "a")}, "different names"),
        ({"groups": ("a", "b")}, "3 different names"),
        ({"parameters": [1, 2]}, "parameters"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        make_problem(**more)


def test_infinity_is_refused_and_hidden_where_not_allowed() -> None:
    values = [[1.0, np.inf], [1.0, 2.0]]
    with pytest.raises(ProblemError, match="group0"):
        Problem({"loss": values})
    problem = Problem({"loss": values}, allowed=[[1, 0], [1, 1]])
    assert problem.objectives["loss"][0, 1] == 0


def test_arrays_are_read_only_copies() -> None:
    values = np.ones((3, 2))
    problem = Problem({"loss": values})
    values[0, 0] = 9
    assert problem.objectives["loss"][0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        problem.objectives["loss"][0, 0] = 2


def make_tables() -> tuple[Table, Costs]:
    table = Table(
        "perturbation",
        "nats",
        GROUPS,
        SCHEMES,
        np.array([[0.0, 0.1]] * 3),
        np.zeros((3, 2)),
        np.array([[1, 1], [1, 0], [1, 1]], bool),
        edges=np.array([[1, 0], [0, 2]]),
        pair_terms=np.arange(8.0).reshape(2, 2, 2),
    )
    costs = Costs(
        "npu",
        GROUPS,
        SCHEMES,
        {"latency_us": np.ones((3, 2))},
        {"latency_us": np.zeros((3, 2))},
        np.array([[0, 1], [1, 1], [1, 1]], bool),
        np.array([[0, 1], [1, 2]]),
        {"latency_us": np.ones((2, 2, 2))},
        np.array([1, 2, 3]),
        {"latency_us": 7.0},
    )
    return table, costs


def test_table_and_costs_join_with_the_union_of_their_edges() -> None:
    problem = build_problem(*make_tables(), constraints=["latency_us <= 99"])
    assert problem.allowed.tolist() == [[False, True], [True, False], [True, True]]
    assert problem.edges.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert problem.pair_terms["loss"][0].tolist() == [[0, 2], [1, 3]]  # turned round
    assert problem.pair_terms["loss"][2].tolist() == [[4, 5], [6, 7]]
    assert problem.pair_terms["latency_us"][:, 0, 0].tolist() == [1, 1, 0]
    assert problem.evaluate([[1, 0, 0]])["latency_us"].tolist() == [12.0]
    assert problem.constraints == ("latency_us <= 99",)


def test_tables_of_other_groups_are_refused() -> None:
    table, costs = make_tables()
    other = Table("x", "nats", ("a", "b", "c"), SCHEMES, table.values, table.stderr, table.allowed)
    with pytest.raises(ProblemError, match="groups"):
        build_problem(other, costs)
