"""Figures that the dashboard adds say what the tables say."""

from dataclasses import replace

import numpy as np
import pytest

from mpsearch.cost.device import read_device
from mpsearch.figures.content import Report
from mpsearch.figures.parallel import parallel_figure
from mpsearch.figures.progress import hypervolume_curve, progress_figure
from mpsearch.figures.ranges import ranges_figure, say_ranges, shown_shares
from mpsearch.figures.reasons import scheme_reasons
from mpsearch.figures.roofline import place_groups, roofline_figure
from mpsearch.figures.sensitivities import errors_figure, order_groups, ranks_figure, take_groups
from mpsearch.figures.several import fronts_figure
from mpsearch.figures.shown.scale import Scale
from mpsearch.problem.front import Step
from tests.support.made_run import with_ranges


@pytest.mark.parametrize("scale", [Scale(), Scale("log"), Scale("symlog", 1e-3)])
@pytest.mark.parametrize("value", [1e-4, 0.02, 3.0])
def test_a_place_on_an_axis_leads_back_to_its_value(scale: Scale, value: float) -> None:
    assert scale.value(scale.place(value)) == pytest.approx(value)


def test_a_reason_names_the_scheme_that_would_lose_or_may_not_be(report: Report) -> None:
    assignment = [0] * len(report.table.groups)  # fp16 everywhere
    found = scheme_reasons(report.graph, report.table, report.costs, assignment)
    fastest = [report.table.schemes.index("nvfp4_2of4")] * len(assignment)
    cheapest = scheme_reasons(report.graph, report.table, report.costs, fastest)
    assert all("sensitive" in text or "costs less alone" in text for text in found)
    assert set(cheapest) == {"the cheapest scheme of this layer"}
    dense = [report.table.schemes.index("nvfp4")] * len(assignment)
    said = scheme_reasons(report.graph, report.table, report.costs, dense)
    for g, text in enumerate(said):
        sparse = report.allowed[g, 3:].any()
        assert ("is not allowed: `channels % 4 == 0`" in text) == (not sparse)


def test_the_share_of_a_reason_is_of_the_whole_loss(report: Report) -> None:
    table = report.table
    assignment = [1] * len(table.groups)
    total = table.values[:, 1].sum()
    found = scheme_reasons(report.graph, table, report.costs, assignment)
    for g, text in enumerate(found):
        if "nvfp4 would add" in text and "%" in text:
            share = (table.values[g, 2] - table.values[g, 1]) / total
            assert f"{100 * share:.0f} %" in text


def test_a_group_stands_where_its_operations_and_bytes_put_it(report: Report) -> None:
    device = read_device("npu_200tops").model_copy(update={"on_chip_mb": 0.0})
    assignment = [1] * len(report.table.groups)
    for placed in place_groups(report.graph, report.costs, device, assignment)[:5]:
        layer = report.graph.layers[placed.group]
        moved = 16 * (layer.input_elements + 2 * layer.output_elements)
        moved += report.costs.objectives["weight_bytes"][placed.group, 1]
        us = report.costs.objectives["latency_us"][placed.group, 1]
        assert placed.intensity == pytest.approx(16 * layer.flops / moved)
        assert placed.tflops == pytest.approx(16 * layer.flops / us / 1e6)
    assert len(roofline_figure(report.graph, report.costs, device, assignment).data) > 1


def test_groups_are_ordered_and_kept_by_role(report: Report) -> None:
    roles = [layer.role for layer in report.graph.layers]
    index = order_groups(report.table, roles, "fragility", "depthwise")
    assert {roles[g] for g in index} == {"depthwise"}
    worst = report.table.values.max(axis=1)[index]
    assert (np.diff(worst) <= 0).all()
    part = take_groups(report.table, index)
    assert part.groups == tuple(report.table.groups[g] for g in index)
    figure = errors_figure(part, part.allowed, 2)
    assert len(figure.data[0].x) == min(40, len(index))


def test_a_metric_ranks_itself_on_the_diagonal(report: Report) -> None:
    table = replace(report.table, details={"alone": report.table.values})
    drawn = ranks_figure(table, "alone", report.allowed).data[1]
    assert list(drawn.x) == list(drawn.y)


def test_fronts_of_several_runs_have_each_a_colour_and_a_mark(report: Report) -> None:
    drawn = fronts_figure({"a": report.front, "b": report.front}, ("latency_us", "loss"), "nats")
    marks = [trace.marker.symbol for trace in drawn.data if trace.mode == "markers"]
    assert len(set(marks)) == 2


def test_parallel_lines_run_from_the_best_to_the_worst(report: Report) -> None:
    drawn = parallel_figure(report.front, ("latency_us", "loss", "weight_bytes"))
    places = [v for trace in drawn.data for v in trace.y if v is not None]
    assert min(places) == 0.0
    assert max(places) == 1.0


def test_the_curve_of_a_search_ends_at_all_it_found(report: Report) -> None:
    steps = tuple(Step(float(i), (10.0 - i, 1.0 / (1 + i))) for i in range(5))
    front = replace(report.front, history=steps)
    curve = hypervolume_curve(front)
    assert curve[-1] == (4.0, 1.0)
    assert [share for _, share in curve] == sorted(share for _, share in curve)
    assert len(progress_figure(front).data[0].x) == 5
    assert hypervolume_curve(report.front) == []


def test_ranges_mark_where_the_chosen_scheme_clips(report: Report) -> None:
    layers = with_ranges(report).ranges
    colour, low, high = shown_shares(layers)
    assert colour.shape[0] == len(layers)
    assert low < high
    chosen = {layer.layer: "nvfp4" for layer in layers}
    marks = [t for t in ranges_figure(layers, chosen).data if t.type == "scatter"]
    assert [mark.name for mark in marks] == ["nvfp4 clips here"]
    assert list(marks[0].x) == pytest.approx([np.log2(la.clips["nvfp4"]) for la in layers])
    assert "in nvfp4 1.0 %" in say_ranges(layers)
