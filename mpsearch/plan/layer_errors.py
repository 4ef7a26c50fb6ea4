"""What was done to each layer of a plan, and what it bought: errors of layers' outputs before and after."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mpsearch.graph.layers.traversal import all_nodes
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.plan import Change, site_of
from mpsearch.program.program import Step
from mpsearch.program.schedule import LayerCall, make_schedule, run_schedule
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.changes import Changes
from mpsearch.stats.estimates import Floats, Ints


def describe_changes(
    changed: Calibrated,
    assignment: Ints,
    feeds: Sequence[Mapping[str, Tensor]],
    *,
    recovery: Sequence[str] = (),
    transforms: Sequence[str] = (),
) -> tuple[Change, ...]:
    """Return what was done to each layer that is changed, and its error in the plan before and after.

    Errors are those of the layer's output in the running plan, so that they hold what layers before it leave: against fp32,
    by the same equivalent transforms.

    Args:
        changed: The model as a plan changes it.
        assignment: [G] the plan.
        feeds: Input name to tensor of runs, better not of those that the changes come from.
        recovery: Names of what recovered weights and biases.
        transforms: Names of equivalent transforms.
    """
    plain, changes = changed.unchanged, changed.changes
    before, after = (layer_errors(known, assignment, feeds) for known in (plain, changed))
    reads = _read_constants(plain.graph, changes)
    weighted = {layer for layer, _ in changes.weights}
    found = []
    for i, layer in enumerate(plain.graph.layers):
        names = [n for n in transforms if i in reads]
        names += [n for n in recovery if i in (changes.biases if n == "bias" else weighted)]
        if i in reads or i in weighted or i in changes.biases:
            found.append(Change(site_of(layer), tuple(names), float(before[i]), float(after[i])))
    return tuple(found)


def layer_errors(
    calibrated: Calibrated, assignment: Ints, feeds: Iterable[Mapping[str, Tensor]]
) -> Floats:
    """Return the squared error [L] of each layer's output in a running plan, relative to the fp32 model's.

    Args:
        calibrated: The model.
        assignment: [G] the plan.
        feeds: Input name to tensor of each run.
    """
    program = calibrated.program
    schedule = make_schedule(program, [program.slots[name] for name in program.outputs])
    schemes = layer_schemes(calibrated, assignment)
    squares = np.zeros((len(calibrated.graph.layers), 2))

    def run(feed: Mapping[str, Tensor], call: LayerCall) -> None:
        values = program.make_values()
        for name, tensor in feed.items():
            values[program.slots[name]] = tensor
        run_schedule(schedule, values, call=call)

    for feed in feeds:
        outputs: dict[int, list[Tensor]] = {}

        def keep(
            step: Step, inputs: list[Tensor | None], kept: dict[int, list[Tensor]] = outputs
        ) -> object:
            result = step.kernel(*inputs)
            kept.setdefault(step.layer, []).append(_first(result))
            return result

        rounded = calibrated.start(schemes, schedule.steps)

        def compare(
            step: Step,
            inputs: list[Tensor | None],
            kept: dict[int, list[Tensor]] = outputs,
            rounded: LayerCall = rounded,
        ) -> object:
            result = rounded(step, inputs)
            if kept.get(step.layer):
                want = kept[step.layer].pop(0)
                difference = _first(result).double() - want.double()
                squares[step.layer] += (
                    float(difference.square().sum()),
                    float(want.double().square().sum()),
                )
            return result

        with torch.inference_mode():
            run(feed, keep)
            run(feed, compare)
    difference, power = squares.T
    return np.where(power > 0, difference / np.maximum(power, 1e-300), (difference > 0) * 1.0)


def _first(result: object) -> Tensor:
    first = result[0] if isinstance(result, tuple) else result
    assert isinstance(first, Tensor)
    return first


def _read_constants(graph: ModelGraph, changes: Changes) -> set[int]:
    """Layers whose own node reads a changed constant."""
    names = {layer.name: i for i, layer in enumerate(graph.layers)}
    return {
        names[node.name]
        for node in all_nodes(graph.nodes)
        if node.name in names and not changes.constants.keys().isdisjoint(node.inputs)
    }
