"""Means that training has moved, set right at its end: biases of layers, statistics of batch normalisations."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mpsearch.program.program import Step, Values
from mpsearch.program.schedule import run_schedule
from mpsearch.recovery.training.run import Trainable
from mpsearch.simulate.changes import output_channel_axis

Feed = Mapping[str, Tensor]


@torch.no_grad()
def correct_biases(model: Trainable, feed: Feed) -> None:
    """Add to each layer's bias what the mean of its output lacks, layer after layer, against the fp32 model's.

    Each is measured behind those that were corrected before it, on one batch.
    """
    graph, program = model.calibrated.graph, model.calibrated.program
    wanted: dict[int, Tensor] = {}

    def plain(step: Step, inputs: list[Tensor | None]) -> object:
        result = step.kernel(*inputs)
        if isinstance(result, Tensor) and output_channel_axis(graph.layers[step.layer]) is not None:
            wanted[step.layer] = channel_means(result, step.layer)
        return result

    def channel_means(output: Tensor, layer: int) -> Tensor:
        axis = output_channel_axis(graph.layers[layer])
        assert axis is not None
        return output.movedim(axis, -1).reshape(-1, output.shape[axis]).float().mean(0)

    def correct(layer: int, output: Tensor) -> Tensor:
        bias = model.parameters.tensors.get(f"bias.{layer}")
        if bias is None or layer not in wanted:
            return output
        by = wanted[layer] - channel_means(output, layer)
        bias += by
        shape = [1] * output.ndim
        axis = output_channel_axis(graph.layers[layer])
        assert axis is not None
        shape[axis] = -1
        return output + by.to(output.dtype).reshape(shape)

    values = program.make_values()
    for name, tensor in feed.items():
        values[program.slots[name]] = tensor
    run_schedule(model.schedule, values, call=plain)
    model.run(feed, hook=correct)


@torch.no_grad()
def reestimate_norms(model: Trainable, feed: Feed) -> None:
    """Set mean and variance of each batch normalisation that is no part of a layer to those of its input."""
    parameters = model.parameters
    names = {slot: name for name, slot in parameters.constants.items()}

    def watch(step: Step, values: Values) -> None:
        if step.node.op_type != "BatchNormalization":
            return
        x, slots = values[step.inputs[0]], step.inputs[3:5]
        if x is None or any(slot not in names for slot in slots):
            return
        flat = x.movedim(1, -1).reshape(-1, x.shape[1]).float()
        found = flat.mean(0), flat.var(0, correction=0)
        for slot, estimate in zip(slots, found, strict=True):
            parameters.tensors[f"constant.{names[slot]}"].copy_(estimate)

    model.run(feed, watch=watch)
