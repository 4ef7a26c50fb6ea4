"""A plan says what was done to each layer, and what that bought in the running plan."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpsearch as mp
from mpsearch.plan.changes import bring_changes
from mpsearch.plan.files import write_plan
from mpsearch.plan.layer_errors import describe_changes, layer_errors
from mpsearch.simulate.changes import Changes
from mpsearch.simulate.probe import capture, quantized_weight
from tests.support.changed_plans import changed_plan
from tests.support.command_line import Mpsearch


def oracle(simulator: mp.Simulator, chosen: np.ndarray) -> list[float]:
    """Errors from outputs that are captured whole, batch by batch."""
    layers = range(len(simulator.graph.layers))
    sums = np.zeros((len(layers), 2))
    for run in range(simulator.n_runs):
        feed = simulator.feed_run(run)
        right = capture(simulator.calibrated, layers, feed)
        found = capture(simulator.calibrated, layers, feed, chosen)
        for i, layer in enumerate(simulator.graph.layers):
            want, got = (x[layer.output].double().numpy() for x in (right, found))
            sums[i] += np.square(got - want).sum(), np.square(want).sum()
    return list(sums[:, 0] / sums[:, 1])


def test_errors_are_those_of_outputs_in_the_running_plan(tmp_path: Path) -> None:
    _, simulator, chosen, changes, _ = changed_plan(tmp_path, "nvfp4")
    for own in (simulator, simulator.change(changes)):
        feeds = (own.feed_run(run) for run in range(own.n_runs))
        found = layer_errors(own.calibrated, chosen, feeds)
        np.testing.assert_allclose(found, oracle(own, chosen), rtol=1e-6)


def test_each_layer_is_said_to_have_what_was_done_to_it(tmp_path: Path) -> None:
    _, simulator, chosen, _, _ = changed_plan(tmp_path, "fp8")
    graph = simulator.graph
    own = quantized_weight(simulator.calibrated, 0, int(chosen[0]))
    bias = np.asarray(graph.constants["b2"])
    changes = Changes(
        {(0, 0): own},
        {1: 0.01 * simulator.feed(0)["x"][0, :, 0, 0], 0: 0 * simulator.feed(0)["x"][0, :, 0, 0]},
        {"b2": bias, "gain": np.asarray(graph.constants["gain"])},
    )
    changed, feeds = simulator.change(changes).calibrated, [simulator.feed(0)]
    found = describe_changes(
        changed, chosen, feeds, recovery=("gptq", "bias"), transforms=("smooth",)
    )
    said = {change.site.node: change.methods for change in found}
    assert said == {"conv": ("gptq", "bias"), "depthwise": ("bias",), "grouped": ("smooth",)}
    assert found[0].error_before == pytest.approx(found[0].error_after)  # its own weight, no bias
    assert found[1].error_before < found[1].error_after  # a bias at random


def test_the_plan_keeps_and_shows_it(tmp_path: Path, mpsearch: Mpsearch) -> None:
    _, simulator, chosen, changes, plan = changed_plan(tmp_path, "fp8")
    changed = simulator.change(changes).calibrated
    done = describe_changes(changed, chosen, [simulator.feed(0)], recovery=("gptq", "bias"))
    made = bring_changes(plan, simulator.graph, changes, done=done)
    later = tuple(replace(c, methods=("train",), error_before=9.0) for c in done)
    made = bring_changes(made, simulator.graph, changes, recovery=("train",), done=later)
    assert made.recovery == ("gptq", "bias", "train")
    assert {change.methods for change in made.changes} == {("gptq", "bias", "train")}
    assert [c.error_before for c in made.changes] == [c.error_before for c in done]
    write_plan(made, tmp_path / "plan.json")
    said = mpsearch("plan", "show", tmp_path / "plan.json", "--json").json[0]
    assert said["recovery"] == ["gptq", "bias", "train"]
    assert len(said["changes"]) == 10
    assert said["changes"][0]["error_after"] == pytest.approx(done[0].error_after)
    shown = mpsearch("plan", "show", tmp_path / "plan.json")
    assert "changed layers" in shown.out
    assert "gptq, bias, train" in shown.out
