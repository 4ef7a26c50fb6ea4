"""Single layers: what they read and produce in a run, and one of them alone."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph
from mpsearch.program.program import Program, Step
from mpsearch.program.schedule import LayerCall, make_schedule, run_schedule
from mpsearch.simulate.calibration import activation_inputs
from mpsearch.simulate.scheme_run import SchemeRun


def capture_values(
    graph: ModelGraph,
    program: Program,
    layers: Collection[int],
    feed: Mapping[str, Tensor],
    start: Callable[[Sequence[Step]], SchemeRun] | None,
) -> dict[str, Tensor]:
    """Return value name to tensor of what ``layers`` read and produce, in one run on ``feed``.

    A layer inside a loop gives its last run. ``start`` makes what runs layers; None: the fp32 program.
    """
    wanted, found = set(layers), dict[str, Tensor]()
    run = None if start is None else start(program.steps)

    def call(step: Step, inputs: list[Tensor | None]) -> object:
        layer = graph.layers[step.layer]
        before = list(inputs)
        result = step.kernel(*inputs) if run is None else run(step, inputs)
        if step.layer in wanted:
            for index, (value, _, _) in activation_inputs(layer).items():
                tensor = before[index]
                if tensor is not None:
                    found[value] = tensor
            first = result[0] if isinstance(result, tuple) else result
            if isinstance(first, Tensor):
                found[layer.output] = first
        return result

    outer = [step for step in program.steps if not wanted.isdisjoint(step.layers())]
    slots = [slot for step in outer for slot in step.outputs if slot >= 0]
    values = program.make_values()
    for name, tensor in feed.items():
        values[program.slots[name]] = tensor
    with torch.no_grad():
        run_schedule(make_schedule(program, slots), values, call=call)
    return found


def replay_layer(
    graph: ModelGraph,
    program: Program,
    step: Step,
    inputs: Mapping[str, Tensor],
    run: LayerCall | None,
) -> Tensor:
    """Return the output of one layer alone; ``program`` is the one that ``step`` stands in.

    Raises:
        DataError: An input is missing.
    """
    name = graph.layers[step.layer].name
    names = {slot: value for value, slot in program.slots.items()}
    tensors: list[Tensor | None] = []
    for slot in step.inputs:
        if slot < 0:
            tensors.append(None)
        elif names[slot] in inputs:
            tensors.append(inputs[names[slot]])
        elif slot in program.constants:
            tensors.append(program.constants[slot])
        else:
            raise DataError(
                f"layer {name!r} reads {names[slot]!r}, which must be among the inputs; "
                f"got {', '.join(inputs)}"
            )
    with torch.no_grad():
        result = step.kernel(*tensors) if run is None else run(step, tensors)
    first = result[0] if isinstance(result, tuple) else result
    if not isinstance(first, Tensor):
        raise DataError(f"layer {name!r} gives no tensor")
    return first
