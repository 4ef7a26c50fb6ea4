"""Figures in words say what the figures show."""

import re
from dataclasses import replace

import numpy as np

from mpsearch.figures.content import Report
from mpsearch.figures.words import say_front, say_latency, say_plan, say_report, say_sensitivity
from mpsearch.stats.digits import number


def test_every_figure_has_words(report: Report) -> None:
    said = say_report(report)
    assert said.keys() == {"front", "plan", "latency", "sensitivity", "trust"}
    assert all(text.endswith(".") for text in said.values())


def test_the_front_in_words_counts_its_points_and_names_both_ends(report: Report) -> None:
    said = say_front(report.front, "latency_us", "loss", unit="nats", chosen=report.chosen)
    points = report.front.points
    assert f"{len(points)} plans" in said
    for point in (points[0], points[-1], report.chosen):
        assert point is not None
        assert number(point.predicted["latency_us"].mean) in said


def test_shares_of_a_plan_in_words_add_up(report: Report) -> None:
    said = say_plan(report)
    shares = [float(share) for share in re.findall(r"takes ([\d.]+) % of layers", said)]
    assert abs(sum(shares) - 100) <= 1.5  # each is rounded


def test_the_most_fragile_group_is_named_first(report: Report) -> None:
    said = say_sensitivity(report.table, report.allowed)
    worst = report.table.groups[int(report.table.values[:, 2].argmax())]
    assert f"In nvfp4 the most fragile are {worst}" in said


def test_the_slowest_group_is_named_first(report: Report) -> None:
    assert report.chosen is not None
    chosen = np.array(report.chosen.assignment)
    own = report.costs.objectives["latency_us"][np.arange(len(chosen)), chosen]
    assert f"the slowest are {report.costs.groups[int(own.argmax())]}" in say_latency(
        report.costs, report.chosen.assignment
    )


def test_words_need_no_chosen_plan(report: Report) -> None:
    said = say_report(replace(report, chosen=None))
    assert said["plan"] == "No plan was chosen."
    assert "latency" not in said
