"""Runs a program with every layer in a scheme, from the start or from values that are kept."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.program.program import Step, Values
from mpsearch.program.schedule import LayerCall, Schedule, make_schedule, run_schedule
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.gradients.mixture import MixtureRun
from mpsearch.simulate.prefix_cache import (
    Anchor,
    choose_slots,
    schedule_cost,
    step_costs,
    step_flops,
)

_WORTH_AN_ANCHOR = 0.9  # of a full run: what a schedule that starts from one must stay below

Feed = Mapping[str, Tensor]


class Runner:
    """A calibrated model that computes what a loss reads, and kept values of two assignments.

    One is the base, that sweeps change; the other, where memory allows, is the last one that ran whole,
    since searches move in small steps.

    Attributes:
        flops: Operations of all layers that have run, on all samples of their batches.
    """

    __slots__ = (
        "_anchor",
        "_calibrated",
        "_costs",
        "_flops",
        "_full",
        "_keeps_recent",
        "_program",
        "_recent",
        "_slots",
        "_starts",
        "flops",
    )

    def __init__(
        self,
        calibrated: Calibrated,
        slots: Sequence[int],
        slot_bytes: Mapping[int, int],
        batch_budget: float,
    ) -> None:
        """Prepare to compute ``slots``, keeping at most ``batch_budget`` bytes a batch."""
        graph, space, program = calibrated.graph, calibrated.space, calibrated.program
        self._calibrated, self._program, self._slots = calibrated, program, list(slots)
        self._full = make_schedule(program, slots)
        self._flops = step_flops(program, graph)
        self._costs = step_costs(program, self._flops, slot_bytes)
        kept = choose_slots(program, self._full, slot_bytes, self._costs, batch_budget)
        self._anchor = Anchor((space.index(space.base),) * len(graph.layers), kept)
        self._recent: Anchor | None = None
        size = sum(slot_bytes.get(slot, 0) for slot in kept)
        self._keeps_recent = bool(kept) and 2 * size <= batch_budget
        self._starts: dict[tuple[int, ...], tuple[Anchor, Schedule]] = {}
        self.flops = 0.0

    def run(
        self,
        feed: Feed,
        schemes: Sequence[int] | None,
        *,
        schedule: Schedule | None = None,
        loads: Mapping[int, Tensor] = {},
    ) -> Values:
        """Run ``schedule`` (None: what the heads need) on ``feed``; None is the fp32 program.

        Args:
            feed: Input name to tensor.
            schemes: [L] scheme index of each layer.
            schedule: What to run.
            loads: Slots that are at hand.

        Raises:
            NumericsError: A head is not finite; the message names the first node that is not.
        """
        schedule = self._full if schedule is None else schedule
        values = run_program(self._calibrated, feed, schemes, schedule, loads)
        rows = max((len(tensor) for tensor in feed.values() if tensor.ndim), default=1)
        self.flops += rows * sum(self._flops[step.index] for step in schedule.steps)
        check_finite(self._calibrated, feed, schemes, values, self._slots)
        return values

    def run_batch(self, feed: Feed, schemes: tuple[int, ...], batch: int) -> Values:
        """Run ``schemes`` on batch number ``batch``, from kept values where that saves enough."""
        if schemes == self._anchor.schemes:
            return self._fill(self._anchor, feed, batch)
        anchor, schedule = self._find_start(schemes, batch)
        if schedule is self._full:
            if not self._keeps_recent:
                return self.run(feed, schemes)
            if self._recent is None or self._recent.schemes != schemes:
                self._recent, self._starts = Anchor(schemes, self._anchor.slots), {}
            return self._fill(self._recent, feed, batch)
        if batch not in anchor.values:
            self._fill(anchor, feed, batch)
        kept = anchor.values[batch]
        loads = {slot: kept[slot] for slot in schedule.loads if slot in kept}
        return self.run(feed, schemes, schedule=schedule, loads=loads)

    def run_mixture(
        self, feed: Feed, probabilities: Sequence[Sequence[tuple[int, Tensor]]]
    ) -> Values:
        """Run every layer in a mixture of schemes; see :class:`MixtureRun` for ``probabilities``."""
        known = self._calibrated
        mixture = MixtureRun(
            known.graph,
            known.space.schemes,
            known.base,
            known.ranges,
            known.weights,
            probabilities,
            known.ports,
        )
        values = self._program.enter(feed)
        run_schedule(self._full, values, call=mixture)
        return values

    def heads(self, values: Values) -> tuple[Tensor, ...]:
        """Return the tensors that the loss reads."""
        found = tuple(values[slot] for slot in self._slots)
        return tuple(tensor for tensor in found if tensor is not None)

    def _find_start(self, schemes: tuple[int, ...], batch: int) -> tuple[Anchor, Schedule]:
        """The values that ``schemes`` need least beside, and what is left to run."""
        recent = self._recent
        if schemes not in self._starts:
            starts = [(self._anchor, self._plan(schemes, self._anchor))]
            if recent is not None:
                starts.append((recent, self._plan(schemes, recent)))
            best = min(starts, key=lambda start: schedule_cost(start[1], self._costs))
            self._starts = {schemes: best}
        anchor, schedule = self._starts[schemes]
        if anchor is recent and batch not in anchor.values:
            return self._anchor, self._plan(schemes, self._anchor)
        return anchor, schedule

    def _plan(self, schemes: tuple[int, ...], anchor: Anchor) -> Schedule:
        """What must run when ``schemes`` replace the anchor's, if that is worth it."""
        partial = make_schedule(
            self._program,
            self._slots,
            changed=anchor.changed(self._program, schemes),
            stored=anchor.slots,
        )
        whole = schedule_cost(self._full, self._costs)
        worth = schedule_cost(partial, self._costs) <= _WORTH_AN_ANCHOR * whole
        return partial if worth else self._full

    def _fill(self, anchor: Anchor, feed: Feed, batch: int) -> Values:
        """Run the anchor's assignment on a batch and keep its values."""
        schedule = make_schedule(self._program, [*self._slots, *anchor.slots])
        values = self.run(feed, anchor.schemes, schedule=schedule)
        anchor.values[batch] = {
            slot: tensor for slot in anchor.slots if (tensor := values[slot]) is not None
        }
        return values


def run_program(
    calibrated: Calibrated,
    feed: Feed,
    schemes: Sequence[int] | None,
    schedule: Schedule,
    loads: Mapping[int, Tensor] = {},
) -> Values:
    """Run ``schedule`` on ``feed``, layers in ``schemes`` [L]; None is the fp32 program."""
    values = calibrated.program.enter(feed)
    for slot, tensor in loads.items():
        values[slot] = tensor
    call: LayerCall | None = None
    if schemes is not None:
        call = calibrated.start(schemes, schedule.steps)
    run_schedule(schedule, values, call=call)
    return values


def check_finite(
    calibrated: Calibrated,
    feed: Feed,
    schemes: Sequence[int] | None,
    values: Values,
    slots: Sequence[int],
) -> None:
    """Check that ``slots`` are finite in ``values``, which ``feed`` and ``schemes`` gave.

    Raises:
        NumericsError: One is not; the program runs again to name the first node that is not.
    """
    if all(found is None or _is_finite(found) for found in (values[slot] for slot in slots)):
        return
    first: list[str] = []

    def watch(step: Step, seen: Values) -> None:
        for slot in step.outputs:
            x = seen[slot] if slot >= 0 else None
            if first or x is None or not x.is_floating_point():
                continue
            if not _is_finite(x):
                kind = "layer" if step.layers() else "node"
                first.append(f"{kind} {step.node.name!r} ({step.node.op_type})")

    schedule = make_schedule(calibrated.program, slots)
    call = None if schemes is None else calibrated.start(schemes, schedule.steps)
    run_schedule(schedule, calibrated.program.enter(feed), call=call, watch=watch)
    where = first[0] if first else "the outputs"
    raise NumericsError(f"outputs must be finite, but {where} is the first to hold NaN or Inf")


def _is_finite(x: Tensor) -> bool:
    """Whether no element is NaN or Inf: then neither is their sum, unless it overflows."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())
