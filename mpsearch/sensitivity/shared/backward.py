"""Gradients of the fp32 model: at the outputs of its layers and at its weights.

Losses here are drawn, not given: a label (or a direction) is drawn from the model's own prediction,
so that the mean outer product of gradients is the Fisher matrix, which is the curvature of the
divergence from the fp32 model. Source: Martens, arXiv 1412.1193; Kunstner et al., arXiv 1905.12558, on why
drawn labels and not the data's.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.losses.losses import Target, class_axis
from mpsearch.losses.outputs import Head
from mpsearch.losses.scales import Scale
from mpsearch.program.program import Step
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.simulate.scheme_run import read_operands
from mpsearch.simulate.simulator import Simulator


@dataclass(frozen=True, slots=True)
class Pass:
    """One fp32 run of a batch with its autograd graph alive.

    Attributes:
        outputs: Layer index to its output, as a node of the graph.
        inputs: Value name to tensor of what layers read; no gradient.
        weights: Names of the weights to the leaves that were put in their place.
        heads: What the loss reads, one a head.
        target: What the heads are compared with.
        n: Samples of the batch.
    """

    outputs: Mapping[int, Tensor]
    inputs: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    heads: tuple[Tensor, ...]
    target: Target
    n: int


def iterate_passes(
    simulator: Simulator, *, outputs: bool = True, weights: Collection[str] = ()
) -> Iterator[Pass]:
    """Yield a pass for each run of the simulator's data.

    Args:
        simulator: The model and its data.
        outputs: Whether gradients are wanted at the outputs of layers.
        weights: Names of the weights to be leaves of the graph.
    """
    simulator.warn_lost_gradients()
    for run in range(simulator.n_runs):
        yield _run(simulator, run, outputs, weights)


def draw_losses(simulator: Simulator, done: Pass, rng: torch.Generator) -> Tensor:
    """Return [n] scalars whose gradients' outer products have the curvature of the loss as mean.

    Of class scores, −log p(y) with y drawn from p, independently at each position; of numbers, their
    sum with random signs, scaled as the relative squared error is.
    """
    total: Tensor | None = None
    share = len(simulator.heads) ** -0.5  # the loss is the mean over heads
    for head, whole, scale in zip(simulator.heads, done.heads, done.target.scales, strict=True):
        value = head.take(whole, done.n)
        each = _draw_head(head, value, scale, done.target.mask, rng) * share
        total = each if total is None else total + each
    if total is None:
        raise NumericsError("a model without outputs has no loss")
    return total


def layer_gradients(
    simulator: Simulator, done: Pass, losses: Tensor, *, keep: bool
) -> dict[int, Tensor]:
    """Return the gradient of the summed ``losses`` [n] at the output of each layer.

    Args:
        simulator: Names the layers in errors.
        done: The pass that the losses belong to.
        losses: Scalars of the samples.
        keep: Whether the graph is used again.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the layer.
    """
    layers = list(done.outputs)
    found = torch.autograd.grad(
        losses.sum(),
        [done.outputs[i] for i in layers],
        retain_graph=keep,
        materialize_grads=True,
    )
    for i, gradient in zip(layers, found, strict=True):
        if not bool(torch.isfinite(gradient).all()):
            raise NumericsError(
                f"gradients must be finite, but that of layer {simulator.graph.layers[i].name!r} "
                "holds NaN or Inf on the calibration data"
            )
    return dict(zip(layers, found, strict=True))


def _run(simulator: Simulator, run: int, outputs: bool, weights: Collection[str]) -> Pass:
    program = simulator.program
    slots = [program.slots[head.value] for head in simulator.heads]
    values = program.make_values()
    leaves = {}
    for name in weights:
        slot = program.slots[name]
        leaves[name] = program.constants[slot].detach().clone().requires_grad_()
        values[slot] = leaves[name]
    feed = simulator.feed_run(run)
    for name, tensor in feed.items():
        values[program.slots[name]] = tensor
    produced: dict[int, Tensor] = {}
    read: dict[str, Tensor] = {}

    def call(step: Step, inputs: list[Tensor | None]) -> object:
        for operand in read_operands(simulator.graph.layers[step.layer]):
            x = inputs[operand.index]
            if x is not None:
                read[operand.value] = x.detach()
        result = step.kernel(*inputs)
        first = result[0] if isinstance(result, tuple) else result
        if outputs and isinstance(first, Tensor) and first.is_floating_point():
            marked = first if first.requires_grad else first.detach().requires_grad_()
            produced[step.layer] = marked
            result = (marked, *result[1:]) if isinstance(result, tuple) else marked
        return result

    with torch.enable_grad():
        run_schedule(make_schedule(program, slots), values, call=call)
    heads = tuple(found for slot in slots if (found := values[slot]) is not None)
    batches = simulator.batches
    n = min(batches.run_size, len(batches) - run * batches.run_size)
    return Pass(produced, read, leaves, heads, simulator.targets[run], n)


def _draw_head(
    head: Head, value: Tensor, scale: Scale, mask: Tensor | None, rng: torch.Generator
) -> Tensor:
    scores = head.samples_first(value).double()
    if head.is_number:
        signs = torch.randint(0, 2, scores.shape, generator=rng) * 2 - 1
        each = signs.to(scores.device) * scores * (2 * scale.spread(scale.weights, scores)).sqrt()
        return _sum_positions(each, mask)
    if head.is_class:
        scores = scores.movedim(class_axis(head, scores.ndim), -1)
        if head.meaning == "logits":
            scores = torch.log_softmax(scores, -1)
        elif head.meaning == "probabilities":
            scores = scores.clamp_min(1e-38).log()
        chances = scores.detach().exp().cpu().reshape(-1, scores.shape[-1])
        drawn = torch.multinomial(chances, 1, generator=rng).reshape(*scores.shape[:-1], 1)
        return _sum_positions(-scores.gather(-1, drawn.to(scores.device)).squeeze(-1), mask)
    if head.meaning != "odds":
        inside = scores.clamp(1e-12, 1 - 1e-12)
        scores = inside.log() - (1 - inside).log()
    drawn = torch.bernoulli(torch.sigmoid(scores.detach()).cpu(), generator=rng)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        scores, drawn.to(scores), reduction="none"
    )
    return _sum_positions(each, mask)


def _sum_positions(each: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over positions divided by the root of their number: a mean of curvatures, not of losses."""
    if each.ndim == 1:
        return each
    if mask is not None and each.shape[:2] == mask.shape:
        kept = mask.to(each.dtype).reshape(*mask.shape, *[1] * (each.ndim - 2))
        inner = each[0, 0].numel()
        count = mask.sum(1).clamp_min(1).to(each.dtype) * inner
        return (each * kept).reshape(len(each), -1).sum(1) / count.sqrt()
    return each.reshape(len(each), -1).sum(1) / each[0].numel() ** 0.5
