"""Every metric, third parties' included, passes the conformance suite."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mpsearch.errors import UnknownNameError
from mpsearch.problem.tables import Table
from mpsearch.registry import find, list_names
from mpsearch.sensitivity.score_sensitivity import score_sensitivity
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.testing.metrics import CHECKS, example_simulator


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("name", list_names("metrics"))
def test_every_metric_keeps_its_promises(name: str, check: Any) -> None:
    check(find("metrics", name))


PERTURBATION = find("metrics", "perturbation")


def negated(task: MetricTask) -> Table:
    table = PERTURBATION.score(task)
    return replace(table, values=-table.values)


def unseeded(task: MetricTask) -> Table:
    table = PERTURBATION.score(task)
    noise = np.random.default_rng().random(table.values.shape)
    return replace(table, values=table.values * noise)


def silent(task: MetricTask) -> Table:
    return PERTURBATION.score(replace(task, progress=None))


def endless(task: MetricTask) -> Table:
    return PERTURBATION.score(replace(task, deadline=None))


def base_is_not_zero(task: MetricTask) -> Table:
    table = PERTURBATION.score(task)
    return replace(table, values=table.values + 1)


def odd(task: MetricTask, *, size: int = 0.5) -> Table:  # type: ignore[assignment]  # that is what is odd
    return PERTURBATION.score(task)


@pytest.mark.parametrize(
    ("score", "check", "why"),
    [
        (negated, "direction", "fewer bits"),
        (unseeded, "repeatability", "not equal"),
        (silent, "progress", "must be told"),
        (base_is_not_zero, "forbidden_entries", "base format must be 0"),
        (base_is_not_zero, "dead_layers", "zero sensitivity"),
        (endless, "deadline", "cut short"),
        (odd, "declaration", "default of size must be int"),
    ],
)
def test_a_metric_that_breaks_a_promise_is_found_out(score: Any, check: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        CHECKS[check](Metric(score, stops_early=True))


def test_a_table_says_its_metric() -> None:
    simulator = example_simulator()
    for name in list_names("metrics"):
        assert score_sensitivity(simulator, metric=name).metric == name


def test_what_cannot_be_pruned_says_why() -> None:
    table = PERTURBATION.score(MetricTask(example_simulator()))
    assert not table.allowed[0, 3]  # 18 channels do not divide by 4
    assert "channels" in table.reasons["fc0", "fp8_2of4"]


def test_an_unknown_metric_lists_the_choices() -> None:
    with pytest.raises(UnknownNameError, match=r"metric must be one of sqnr, .*got 'magic'"):
        score_sensitivity(example_simulator(), metric="magic")
