"""Single layers of a calibrated model: weights, what layers read and produce in a run, one of them alone.

What metrics and verifiers read of a model beside whole losses.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.errors import DataError
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.program.program import Step
from mpsearch.program.schedule import LayerCall, make_schedule, run_schedule
from mpsearch.program.tensors import to_tensor
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.observation import activation_inputs
from mpsearch.simulate.runner import check_finite, run_program
from mpsearch.stats.estimates import Ints

Inputs = Mapping[str, NDArray[np.generic] | Tensor]


def simulated_weight(calibrated: Calibrated, layer: int, scheme: int, gemm: int = 0) -> Tensor:
    """Return the simulated weight of a layer in a scheme, shaped as the node reads it."""
    return calibrated.weights.simulated(layer, calibrated.space.schemes[scheme], gemm)


def quantized_weight(
    calibrated: Calibrated, layer: int, scheme: int, gemm: int = 0
) -> QuantizedTensor:
    """Return the weight that a layer multiplies with in a scheme, as the scheme stores it."""
    return calibrated.weights.quantized(layer, calibrated.space.schemes[scheme], gemm)


def plain_weight(calibrated: Calibrated, layer: int, gemm: int = 0) -> Tensor:
    """Return the fp32 weight of a layer, shaped as the node reads it."""
    return calibrated.weights.plain(layer, gemm)


def run_outputs(
    calibrated: Calibrated, inputs: Inputs, assignment: Ints | None = None
) -> dict[str, Tensor]:
    """Return the model's outputs on ``inputs`` (any batch size); None is the fp32 program.

    Raises:
        DataError: An input is missing or unknown.
        SpaceError: The assignment has another length, or takes what is not allowed.
        NumericsError: An output is not finite; the message names the first layer that is not.
    """
    program, feed = calibrated.program, to_feed(calibrated, inputs)
    schemes = None if assignment is None else layer_schemes(calibrated, assignment)
    slots = [program.slots[name] for name in program.outputs]
    with torch.inference_mode():
        values = run_program(calibrated, feed, schemes, make_schedule(program, slots))
        check_finite(calibrated, feed, schemes, values, slots)
    found = zip(program.outputs, (values[slot] for slot in slots), strict=True)
    return {name: tensor for name, tensor in found if tensor is not None}


def capture(
    calibrated: Calibrated, layers: Sequence[int], batch: Inputs, assignment: Ints | None = None
) -> dict[str, Tensor]:
    """Return value name to tensor of what ``layers`` read and produce, in one run on ``batch``.

    A layer inside a loop gives its last run. None is the fp32 program.

    Raises:
        DataError: An input is missing or unknown.
        SpaceError: The assignment has another length, or takes what is not allowed.
    """
    graph, program = calibrated.graph, calibrated.program
    wanted, found = set(layers), dict[str, Tensor]()
    run = None
    if assignment is not None:
        run = calibrated.start(layer_schemes(calibrated, assignment), program.steps)

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
    for name, tensor in to_feed(calibrated, batch).items():
        values[program.slots[name]] = tensor
    with torch.no_grad():
        run_schedule(make_schedule(program, slots), values, call=call)
    return found


def replay(
    calibrated: Calibrated,
    layer: int,
    scheme: int | LayerCall | None,
    inputs: Mapping[str, Tensor],
) -> Tensor:
    """Return the output of one layer alone, in a scheme (None: fp32), on given tensors.

    Args:
        calibrated: The model.
        layer: The layer.
        scheme: The scheme that it runs in, or what runs its step instead.
        inputs: Value name to tensor of all that its node reads; constants may be left out.

    Raises:
        DataError: An input is missing.
    """
    graph = calibrated.graph
    program, step = calibrated.layer_steps[layer]
    run: LayerCall | None = None
    if isinstance(scheme, int):
        run = calibrated.start([scheme] * len(graph.layers), [step])
    elif scheme is not None:
        run = scheme
    name = graph.layers[layer].name
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


def to_feed(calibrated: Calibrated, inputs: Inputs) -> dict[str, Tensor]:
    """Return ``inputs`` as tensors on the program's device.

    Raises:
        DataError: An input is missing or unknown.
    """
    known = [value.name for value in calibrated.graph.inputs]
    if sorted(inputs) != sorted(known):
        raise DataError(f"inputs must be {', '.join(known)}; got {', '.join(inputs)}")
    device = calibrated.program.device
    return {
        name: x.to(device) if isinstance(x, Tensor) else to_tensor(x, device)
        for name, x in inputs.items()
    }
