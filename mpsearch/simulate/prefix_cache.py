"""Values of a program that was run before, kept so that a changed layer re-runs only what depends on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mpsearch.graph.model import ModelGraph
from mpsearch.program.program import ABSENT, Program
from mpsearch.program.schedule import Schedule

_MAX_CUTS = 128


@dataclass(slots=True)
class Anchor:
    """Values of one assignment, for each batch.

    Attributes:
        schemes: [L] scheme index of each layer.
        slots: Which slots are kept.
        values: Batch to its slots, once it was run.
    """

    schemes: tuple[int, ...]
    slots: frozenset[int]
    values: dict[int, Mapping[int, Tensor]] = field(default_factory=dict)

    def changed(self, program: Program, schemes: Sequence[int]) -> list[int]:
        """Return the steps of the layers that run in another scheme."""
        return [
            step.index
            for step in program.steps
            if any(self.schemes[layer] != schemes[layer] for layer in step.layers())
        ]


def step_flops(program: Program, graph: ModelGraph) -> list[float]:
    """Return the operations that the layers of each step do on one sample."""
    return [
        sum(graph.layers[layer].flops for layer in step.layers()) / max(graph.batch, 1)
        for step in program.steps
    ]


def step_costs(
    program: Program, flops: Sequence[float], slot_bytes: Mapping[int, int]
) -> list[float]:
    """Return about how long each step takes: FLOPs of layers, and ten a byte written.

    Only the ratio matters; elementwise work is bound by memory.
    """
    return [
        own + 10.0 * sum(slot_bytes.get(slot, 0) for slot in step.outputs)
        for own, step in zip(flops, program.steps, strict=True)
    ]


def schedule_cost(schedule: Schedule, costs: Sequence[float]) -> float:
    """Return the cost of all steps of ``schedule``."""
    return sum(costs[step.index] for step in schedule.steps)


def choose_slots(
    program: Program,
    schedule: Schedule,
    slot_bytes: Mapping[int, int],
    costs: Sequence[float],
    budget: float,
) -> frozenset[int]:
    """Return the slots to keep under ``budget`` bytes a batch.

    A run that starts at a layer needs the values that are alive there: those of all layers if they
    fit. Otherwise a few layers are chosen, one by one, for how much re-execution each saves a byte when
    every layer is changed once.
    """
    steps = schedule.steps
    produced = {slot for step in steps for slot in step.outputs if slot != ABSENT}
    layers = [i for i, step in enumerate(steps) if step.layers()]
    alive_at = _alive(schedule, layers, produced)
    everything = frozenset().union(*alive_at.values())
    if sum(slot_bytes.get(slot, 0) for slot in everything) <= budget:
        return everything
    prefix = [0.0]
    for step in steps:
        prefix.append(prefix[-1] + costs[step.index])
    candidates = {i: alive_at[i] for i in layers[:: -(-len(layers) // _MAX_CUTS)]}
    kept: set[int] = set()
    cuts: list[int] = []
    left = budget
    while candidates:
        best, gain = -1, 0.0
        for cut, alive in candidates.items():
            size = sum(slot_bytes.get(slot, 0) for slot in alive - kept)
            if size > left:
                continue
            saved = sum(
                max(prefix[cut] - max((prefix[c] for c in cuts if c <= i), default=0.0), 0.0)
                for i in layers
                if i >= cut
            )
            if saved > 0 and saved / (size + 1) > gain:
                best, gain = cut, saved / (size + 1)
        if best < 0:
            break
        alive = candidates.pop(best)
        left -= sum(slot_bytes.get(slot, 0) for slot in alive - kept)
        kept |= alive
        cuts.append(best)
    return frozenset(kept)


def _alive(
    schedule: Schedule, cuts: Sequence[int], produced: set[int]
) -> dict[int, frozenset[int]]:
    """Step position to the slots that are made before it and read from it on."""
    alive, wanted_at = set(schedule.wanted) & produced, set(cuts)
    found: dict[int, frozenset[int]] = {}
    for position in range(len(schedule.steps) - 1, -1, -1):
        step = schedule.steps[position]
        alive.difference_update(step.outputs)
        alive.update(slot for slot in step.inputs if slot in produced)
        if position in wanted_at:
            found[position] = frozenset(alive)
    return found
