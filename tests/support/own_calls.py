"""Searchers and metrics called with a problem or a simulator, fields of the task and own settings by name."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from mpsearch import registry
from mpsearch.problem.front import Front
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Table
from mpsearch.search.task import Task
from mpsearch.sensitivity.task import MetricTask
from mpsearch.simulate.simulator import Simulator


def searching(method: str) -> Callable[..., Front]:
    """Return ``search(problem, **more)`` by ``method``."""
    searcher = registry.find("searchers", method)

    def search(problem: Problem, **more: Any) -> Front:
        given, own = _split(Task, more)
        return searcher.search(Task(problem, **given), **own)

    return search


def scoring(metric: str) -> Callable[..., Table]:
    """Return ``score(simulator, **more)`` by ``metric``."""
    found = registry.find("metrics", metric)

    def score(simulator: Simulator, **more: Any) -> Table:
        given, own = _split(MetricTask, more)
        return found.score(MetricTask(simulator, **given), **own)

    return score


def _split(kind: type[Task] | type[MetricTask], more: dict[str, Any]) -> tuple[Any, Any]:
    names = {field.name for field in fields(kind)}
    own = {name: value for name, value in more.items() if name not in names}
    return {name: value for name, value in more.items() if name in names}, own
