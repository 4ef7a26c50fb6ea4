"""What losses on some data are compared with, and one pass of the fp32 program that finds it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from mpsearch.data.batches import Array, Batches
from mpsearch.graph.model import ModelGraph
from mpsearch.losses.losses import Target, absolute_losses, loss_unit
from mpsearch.losses.outputs import LABELLED, Head, choose_heads, parse_loss, read_heads
from mpsearch.losses.references import find_batch_axes, make_targets
from mpsearch.losses.scales import Scale
from mpsearch.program.program import Program
from mpsearch.program.schedule import make_schedule
from mpsearch.program.tensors import to_tensor
from mpsearch.simulate.batch_form import find_batch_form
from mpsearch.simulate.memory_budget import Budget, Shares
from mpsearch.simulate.observation import Observation, observe_model


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The fp32 model on some data, by one loss.

    Attributes:
        batches: The data as the model takes them.
        loss: The loss as it was asked for, None where it was read from graph and data.
        kind: ``kl``, ``nll``, ``mse``, ``ctc``, ``ctc_last`` or ``quality``.
        unit: Unit of the loss.
        heads: What of the outputs the loss reads.
        targets: [n_runs] What the heads of each run are compared with.
        slices: [n] slice of each sample where the loss is that of the worst one, else None.
        slot_bytes: Bytes of every slot of the program on the first batch.
        shares: Bytes that may be kept from run to run, beside all this.
    """

    batches: Batches
    loss: str | None
    kind: str
    unit: str
    heads: tuple[Head, ...]
    targets: tuple[Target, ...]
    slices: NDArray[Any] | None
    slot_bytes: dict[int, int]
    shares: Shares

    @property
    def scales(self) -> tuple[Scale, ...]:
        """What squared errors are relative to, one a head."""
        return self.targets[0].scales


def measure_reference(
    graph: ModelGraph,
    program: Program,
    batches: Batches,
    loss: str | None,
    budget: Budget,
    *,
    recovers: bool = False,
    scales: tuple[Scale, ...] | None = None,
) -> tuple[Reference, Observation]:
    """Run the fp32 program over ``batches`` once: what losses compare with, and what it showed.

    Args:
        graph: The model.
        program: It, compiled.
        batches: The data.
        loss: As :class:`mpsearch.simulate.simulator.Simulator` takes it.
        budget: Memory that may be taken.
        recovers: Whether any scheme recovers pruned weights.
        scales: What squared errors are relative to; None takes the variances of this pass.

    Raises:
        DataError: The data do not fit the model, or the loss does not fit both.
        NumericsError: A layer's input or output is not finite; the message names the layer.
    """
    heads, kind = choose_heads(read_heads(graph), loss, batches, graph)
    form = find_batch_form(graph, program, batches, [head.value for head in heads])
    batches = form.apply(batches)
    choice = parse_loss(loss)
    unit = loss_unit(choice, kind, heads)
    feeds = iterate_feeds(program, batches)
    seen = observe_model(graph, program, feeds, [head.value for head in heads])
    rows = batches.run_rows or min(batches.run_size, len(batches))
    heads = find_batch_axes(graph, heads, seen.references[0], rows, form.outputs)
    targets = make_targets(graph, batches, seen.references, program.device, heads, choice, scales)
    if kind in LABELLED:  # labels that do not fit are said here, before anything runs
        for target in targets:
            absolute_losses(heads, target.reference, target)
    schedule = make_schedule(program, head_slots(program, heads))
    shares = budget.share(
        graph, program, schedule, seen.slot_bytes, batch_size=rows, recovers=recovers
    )
    slices = batches.slice if choice.worst_slice else None
    reference = Reference(
        batches, loss, kind, unit, heads, tuple(targets), slices, dict(seen.slot_bytes), shares
    )
    return reference, seen


def head_slots(program: Program, heads: Sequence[Head]) -> list[int]:
    """Return the slots of what the loss reads."""
    return [program.slots[head.value] for head in heads]


def iterate_feeds(program: Program, batches: Batches) -> Iterator[dict[str, Tensor]]:
    """Yield input name to tensor of each run of the model, on the program's device."""
    return (to_tensors(program, arrays) for arrays in batches.iterate())


def to_tensors(program: Program, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return ``arrays`` as tensors on the program's device."""
    return {name: to_tensor(array, program.device) for name, array in arrays.items()}
