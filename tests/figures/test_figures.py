from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from mpsearch.figures.comparison import compare, uniform_rows
from mpsearch.figures.content import Report
from mpsearch.figures.front import histogram, plot_front, trust_figure
from mpsearch.figures.layers import latency_figure, pair_cost, plan_figure, sensitivity_heatmap
from mpsearch.figures.plan_row import predicted_line, uniform_scheme
from mpsearch.figures.shown.front import show_front
from mpsearch.figures.shown.trust import show_trust
from mpsearch.figures.theme import label, scheme_colours, short_names, shorten
from mpsearch.schemes import SCHEMES
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Estimate


def _trace(figure: go.Figure, word: str) -> go.Scatter:
    return next(t for t in figure.data if (t.name or "").startswith(word))


def test_predicted_and_measured_points_are_different_traces(report: Report) -> None:
    figure = plot_front(report.front)
    measured = [p.measured["loss"] for p in report.front.points if p.measured]
    shown, place = _trace(figure, "measured"), show_front(report.front).scale.place
    assert sorted(shown.y) == sorted(place(loss.mean) for loss in measured)
    above = [y + error for y, error in zip(shown.y, shown.error_y.array, strict=True)]
    assert sorted(above) == pytest.approx(sorted(place(e.mean + e.stderr) for e in measured))
    assert len(_trace(figure, "predicted").y) == len(report.front.points)
    assert all("measured" not in text for text in _trace(figure, "predicted").hovertext)


def test_a_front_of_predictions_shows_no_measured_points(report: Report) -> None:
    points = tuple(replace(p, measured={}) for p in report.front.points)
    figure = plot_front(replace(report.front, points=points))
    assert not [t for t in figure.data if "measured" in (t.name or "")]


def test_the_chosen_plan_is_starred_at_its_measured_loss(report: Report) -> None:
    assert report.chosen is not None
    star = _trace(plot_front(report.front, chosen=report.chosen), "chosen")
    assert star.marker.symbol == "star"
    place = show_front(report.front, chosen=report.chosen).scale.place
    assert star.y == (place(report.chosen.measured["loss"].mean),)


def test_uniform_plans_are_hollow_where_only_predicted(report: Report) -> None:
    rows = uniform_rows(report)
    rows[0] = replace(rows[0], measured={})
    figure = plot_front(report.front, rows=rows)
    hollow = _trace(figure, "plans to compare (predicted)")
    assert hollow.marker.symbol == "diamond-open"
    place = show_front(report.front, rows=rows).scale.place
    assert hollow.y == (place(rows[0].predicted["loss"].mean),)
    assert len(_trace(figure, "plans to compare (measured)").y) == len(rows) - 1


def test_the_hover_counts_every_group_once(report: Report) -> None:
    text = histogram(report.front.points[0].assignment, report.front.schemes)
    counts = [int(line.rsplit(" ", 1)[1]) for line in text.split("<br>")]
    assert sum(counts) == len(report.front.groups)


def test_heat_map_rows_follow_the_schedule_and_refused_cells_say_why(report: Report) -> None:
    figure = sensitivity_heatmap(report.table)
    heat, grey = figure.data[0], figure.data[1]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # first layer on top
    z = np.array(heat.z, dtype=float)
    assert (np.isnan(z) == ~report.table.allowed).all()
    g, s = np.argwhere(~report.table.allowed)[0]
    reason = report.table.reasons[report.table.groups[g], report.table.schemes[s]]
    assert label(reason, 90) in grey.text[g][s]


def test_heat_map_colour_is_the_logarithm_of_the_value(report: Report) -> None:
    z = np.array(sensitivity_heatmap(report.table).data[0].z, dtype=float)
    values = report.table.values
    seen = report.table.allowed & (values > values[report.table.allowed].max() * 1e-5)
    np.testing.assert_allclose(z[seen], np.log10(values[seen]))


def test_heat_map_takes_zero_and_negative_losses(report: Report) -> None:
    values = report.table.values.copy()
    values[:2] = [[0.0], [-0.01]]
    z = np.array(sensitivity_heatmap(replace(report.table, values=values)).data[0].z, dtype=float)
    assert np.nanmin(z[:2]) == np.nanmax(z[:2]) == np.nanmin(z)


def test_each_strip_of_the_plan_covers_all_layers_without_gaps(report: Report) -> None:
    assert report.chosen is not None
    figure = plan_figure(
        report.graph,
        report.front.schemes,
        report.chosen.assignment,
        costs=report.costs,
        table=report.table,
    )
    strips = {y for bar in figure.data for y in bar.y}
    assert strips == {"layers", "parameters", "FLOPs", "latency", "predicted loss"}
    for strip in strips:
        tiles = sorted(
            (base, x)
            for bar in figure.data
            for base, x, y in zip(bar.base, bar.x, bar.y, strict=True)
            if y == strip
        )
        ends = np.cumsum([x for _, x in tiles])
        np.testing.assert_allclose([base for base, _ in tiles], [0, *ends[:-1]], atol=1e-9)
        assert ends[-1] == pytest.approx(100)


def test_latency_bars_and_switches_add_up_to_the_predicted_latency(report: Report) -> None:
    assert report.chosen is not None
    figure = latency_figure(report.costs, report.chosen.assignment)
    total = sum(sum(bar.y) for bar in figure.data if bar.type == "bar")
    assert total == pytest.approx(report.chosen.predicted["latency_us"].mean)


def test_pair_cost_is_zero_without_edges(report: Report) -> None:
    costs = replace(report.costs, edges=np.zeros((0, 2), np.int64), pair_terms={})
    assert pair_cost(costs, [0] * len(costs.groups), "latency_us") == 0


def test_trust_figure_holds_exactly_the_points_with_both_values(report: Report) -> None:
    shown = _trace(trust_figure(report.front), "front points")
    both = [p for p in report.front.points if p.measured]
    place = show_trust(report.front).scale.place
    assert list(shown.x) == [place(p.predicted["loss"].mean) for p in both]
    assert list(shown.y) == [place(p.measured["loss"].mean) for p in both]


def test_every_figure_has_a_legend(report: Report) -> None:
    assert report.chosen is not None
    chosen = report.chosen.assignment
    for figure in (
        plot_front(report.front),
        trust_figure(report.front),
        plan_figure(report.graph, report.front.schemes, chosen),
        latency_figure(report.costs, chosen),
        sensitivity_heatmap(report.table, assignment=chosen),
    ):
        assert figure.layout.showlegend is True


@pytest.mark.parametrize("names", [tuple(SCHEMES)[:11], ("fp16", "fp8", "mine", "yours", "nvfp4")])
def test_a_scheme_has_one_colour_whatever_its_company(names: tuple[str, ...]) -> None:
    colours = scheme_colours(names)
    assert colours["fp8"] == scheme_colours(["fp8"])["fp8"]
    assert set(colours) == set(names)


def test_schemes_of_one_space_have_different_colours() -> None:
    names = ("fp16", "fp8", "nvfp4", "fp8_2of4", "nvfp4_2of4", "int8", "mine")
    assert len(set(scheme_colours(names).values())) == len(names)


def test_uniform_means_wherever_it_is_allowed() -> None:
    allowed = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    assert uniform_scheme((0, 2, 2), allowed) == 2
    assert uniform_scheme((1, 1, 1), allowed) == 1
    assert (
        uniform_scheme((0, 0, 2), allowed) is None
    )  # the second could have been 2, or the third 0
    assert uniform_scheme((0, 1, 2), allowed) is None


def test_the_rival_is_the_fastest_uniform_plan_that_loses_no_more(report: Report) -> None:
    found = compare(report)
    assert found is not None
    assert found.uniform.label == "uniform fp8"
    assert found.word == "measured"
    assert found.faster == pytest.approx(
        1 - (found.chosen.latency_us or 0) / (found.uniform.latency_us or 1)
    )


def test_a_worse_loss_is_said(report: Report) -> None:
    found = compare(report)
    assert found is not None
    worse = tuple(
        replace(r, measured={"loss": Estimate(5.0, 0.001)}) if r is found.chosen else r
        for r in report.rows
    )
    again = compare(replace(report, rows=worse))
    assert again is not None
    assert again.verdict == "a higher"


def test_predicted_losses_are_called_predicted(report: Report) -> None:
    rows = tuple(replace(r, measured={}) for r in report.rows)
    found = compare(replace(report, rows=rows))
    assert found is not None
    assert found.word == "predicted"
    assert "predicted loss" in found.sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1957.4, "1\u202f957"),
        (0.142, "0.142"),
        (-0.0123, "−0.0123"),
        (3.2e-6, "3.2e−6"),
        (float("nan"), "–"),
    ],
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert number(value) == text


def test_an_error_says_how_many_places_count() -> None:
    assert with_error(Estimate(0.14159, 0.0123)) == "0.142 ± 0.012"
    assert with_error(Estimate(0.25)) == "0.250"
    assert with_error(Estimate(-1e-9, 1e-5)) == "0 ± 1e−5"


def test_long_names_lose_their_middle_and_shared_parts() -> None:
    assert shorten("abcdefghijklmnop", 10) == "abc…klmnop"
    assert short_names(["m/a/x/Conv", "m/b/y/Conv"], 20) == ["a/x", "b/y"]
    assert short_names(["one"], 20) == ["one"]


def test_names_cannot_be_markup_for_plotly() -> None:
    assert label("<a href='x'>") == "&lt;a href='x'&gt;"
    assert "$" not in label("$x$")


def test_the_predicted_line_leaves_out_what_is_predicted_to_be_dominated(report: Report) -> None:
    best = report.front.points[0]
    loss = best.predicted["loss"]
    worse = replace(
        best, predicted={**best.predicted, "loss": Estimate(loss.mean + 1, loss.stderr)}
    )
    line = predicted_line([worse, *report.front.points], "latency_us", "loss")
    assert all(point is not worse for point in line)
    assert len(line) == len(report.front.points)
    latencies = [point.predicted["latency_us"].mean for point in line]
    assert latencies == sorted(latencies)
