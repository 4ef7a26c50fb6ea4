"""Outputs of the whole model: runtime, simulation and fp32 compared, and what a runtime itself scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.errors import DataError
from mpsearch.graph.model import ModelGraph
from mpsearch.losses.losses import Target, absolute_losses, accuracies, sample_losses
from mpsearch.losses.outputs import Head, Meaning, choose_heads, parse_loss, read_heads
from mpsearch.losses.references import make_targets
from mpsearch.losses.scales import Scale, make_scale
from mpsearch.stats.estimates import Floats, estimate_mean
from mpsearch.verify.verification import Measured, WholeCheck

Axes = Mapping[str, int | None]
Outputs = Mapping[str, Tensor]
_NAMES = {"kl": "KL", "mse": "relative MSE"}


@dataclass(frozen=True, slots=True)
class BatchOutputs:
    """Outputs of one batch.

    Attributes:
        fp32: Of the fp32 program.
        simulated: Of the plan's simulation.
        same_rounding: Of the simulation with the runtime's documented rounding.
        runtime: Of the runtime, with all else that it showed.
    """

    fp32: Outputs
    simulated: Outputs
    same_rounding: Outputs
    runtime: Outputs


def check_whole(
    graph: ModelGraph,
    heads: tuple[Head, ...],
    kind: str,
    axes: Axes,
    outputs: Sequence[BatchOutputs],
    least: float,
) -> WholeCheck:
    """Compare all outputs, as distributions where they are ones.

    Args:
        graph: The model.
        heads: What the loss reads.
        kind: ``kl`` or ``mse``.
        axes: Output to the axis of its samples.
        outputs: One a batch.
        least: What the difference may be where the plan itself changes next to nothing.
    """
    heads = at_outputs(heads, graph, axes)
    scales = make_scales(heads, [o.simulated for o in outputs])

    def between(pairs: Iterable[tuple[Outputs, Outputs]]) -> float:
        return divergence(heads, kind, scales, pairs)

    found = between((o.runtime, o.same_rounding) for o in outputs)
    changed = between((o.fp32, o.simulated) for o in outputs)
    limit = max(least, changed / 10)
    return WholeCheck(_NAMES[kind], found, changed, limit, found <= limit)


def make_scales(heads: Sequence[Head], outputs: Sequence[Outputs]) -> tuple[Scale, ...]:
    """Return what squared errors of each of ``heads`` are relative to: variances over all ``outputs``."""
    return tuple(make_scale([o[h.output].float() for o in outputs], h.batch_axis) for h in heads)


def divergence(
    heads: tuple[Head, ...],
    kind: str,
    scales: tuple[Scale, ...],
    pairs: Iterable[tuple[Outputs, Outputs]],
) -> float:
    """Return the mean divergence of the second outputs of each pair from the first, over all samples.

    Args:
        heads: What is compared, read at outputs.
        kind: ``kl`` or ``mse``.
        scales: What squared errors are relative to, one a head.
        pairs: One a run.
    """
    losses = []
    for source, other in pairs:
        reference, values = (tuple(o[h.output].float() for h in heads) for o in (source, other))
        losses.append(sample_losses(kind, heads, values, Target(reference, None, None, scales)))
    return float(torch.cat(losses).mean())


@dataclass(frozen=True, slots=True)
class Judge:
    """What outputs on some data lose against the fp32 model's, by one loss.

    Attributes:
        heads: What of the outputs counts, read where a runtime certainly shows it.
        kind: ``kl``, ``mse``, ``nll``, ``ctc``, ….
        targets: [n_runs] What the outputs of each run are compared with.
    """

    heads: tuple[Head, ...]
    kind: str
    targets: tuple[Target, ...]

    def losses(self, outputs: Sequence[Outputs]) -> Floats:
        """Return the [n] losses of the outputs of all runs."""
        found = [
            sample_losses(self.kind, self.heads, self._values(o), target)
            for o, target in zip(outputs, self.targets, strict=True)
        ]
        return torch.cat(found).cpu().numpy()

    def scores(self, outputs: Sequence[Outputs]) -> dict[str, Floats]:
        """Return ``nll`` [n] and, for classes, ``accuracy`` [n] against labels."""
        pairs = [(self._values(o), t) for o, t in zip(outputs, self.targets, strict=True)]
        nll = [absolute_losses(self.heads, values, target) for values, target in pairs]
        found = {"nll": torch.cat(nll).cpu().numpy()}
        if not self.heads[0].is_number:
            right = [accuracies(self.heads, values, target) for values, target in pairs]
            found["accuracy"] = torch.cat(right).cpu().numpy()
        return found

    def _values(self, outputs: Outputs) -> tuple[Tensor, ...]:
        return tuple(outputs[head.output].float() for head in self.heads)


def make_judge(
    graph: ModelGraph,
    batches: Batches,
    axes: Axes,
    references: Sequence[Outputs],
    loss: str | None = None,
) -> Judge:
    """Return what judges outputs of ``graph`` on ``batches``.

    Args:
        graph: The model.
        batches: The data as the model takes them.
        axes: Output to the axis of its samples.
        references: [n_runs] outputs of the fp32 model.
        loss: As :class:`mpsearch.simulate.simulator.Simulator` takes it.

    Raises:
        DataError: The loss does not fit outputs or labels.
    """
    heads, kind = choose_heads(read_heads(graph), loss, batches, graph)
    heads = at_outputs(heads, graph, axes)
    values = [tuple(o[head.output].float() for head in heads) for o in references]
    device = values[0][0].device
    targets = make_targets(graph, batches, values, device, heads, parse_loss(loss))
    return Judge(heads, kind, tuple(targets))


def measure_outputs(
    graph: ModelGraph, batches: Batches, axes: Axes, outputs: Sequence[BatchOutputs]
) -> tuple[Measured, ...]:
    """Return what the exported model loses in the runtime, beside the simulation; with labels also what it scores.

    Args:
        graph: The model.
        batches: The data as the model takes them.
        axes: Output to the axis of its samples.
        outputs: One a run.
    """
    fp32 = [o.fp32 for o in outputs]
    plain = make_judge(graph, replace(batches, labels=None), axes, fp32)
    found = [
        Measured(
            _NAMES[plain.kind],
            None,
            estimate_mean(plain.losses([o.simulated for o in outputs])),
            estimate_mean(plain.losses([o.runtime for o in outputs])),
        )
    ]
    if batches.labels is None:
        return tuple(found)
    try:
        judge = make_judge(graph, batches, axes, fp32)
        sides = [
            judge.scores(side)
            for side in (fp32, [o.simulated for o in outputs], [o.runtime for o in outputs])
        ]
    except DataError:  # labels that this output has no use for: the loss of the plan was another
        return tuple(found)
    found += [Measured(name, *(estimate_mean(side[name]) for side in sides)) for name in sides[0]]
    return tuple(found)


def at_outputs(heads: Sequence[Head], graph: ModelGraph, axes: Axes) -> tuple[Head, ...]:
    """Return ``heads`` read at the model's own outputs, where a runtime certainly shows them."""
    return tuple(_at_output(head, graph, axes.get(head.output, 0)) for head in heads)


def _at_output(head: Head, graph: ModelGraph, axis: int | None) -> Head:
    head = replace(head, batch_axis=axis)
    if head.value == head.output:
        return head
    meanings: dict[str, Meaning] = {
        "Softmax": "probabilities",
        "LogSoftmax": "log_probabilities",
        "Sigmoid": "chances",
    }
    readers = {node.inputs[0]: node.op_type for node in graph.nodes if node.op_type in meanings}
    return replace(head, value=head.output, meaning=meanings[readers[head.value]])
