"""Block reconstruction: the weights of a residual or transformer block, learned together to give what the fp32 block gives.

Blocks (BRECQ, arXiv 2102.05426) end where one value alone carries all that layers made so far: behind a residual sum, a norm, a pool.
Each is trained straight through its rounding, on what the plan gives it, towards what the fp32 model gives there, one after the
other; what does not lower its error on data that take no part is not kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mpsearch.deadline import has_passed
from mpsearch.graph.model import ModelGraph
from mpsearch.program.program import Program
from mpsearch.program.schedule import Schedule, make_schedule, run_schedule
from mpsearch.recovery.task import Method, Recovered, RecoveryTask
from mpsearch.recovery.training.parameters import Parameters, State, make_parameters
from mpsearch.recovery.training.recipe import Recipe
from mpsearch.recovery.training.run import Trainable
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.reference import head_slots
from mpsearch.simulate.simulator import Simulator

STEPS = 200
"""Of the optimiser, for each block."""

_RATE = 1e-3
_CHECKS = 5
"""How often, for each block, the error on the data that judge is looked at."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a program between two values that carry everything.

    Attributes:
        start: Name of the first; "" where it begins with the model's inputs.
        end: Name of the second.
        layers: Layers in between.
    """

    start: str
    end: str
    layers: tuple[int, ...]


def find_blocks(graph: ModelGraph, program: Program, wanted: Sequence[int]) -> tuple[Block, ...]:
    """Return the blocks of ``program`` that come before the slots ``wanted``, in order.

    Masks and positions, which no layer reads and no layer made, may stay beside the one value.
    """
    steps = make_schedule(program, wanted).steps
    last = {slot: i for i, step in enumerate(steps) for slot in step.inputs}
    last |= dict.fromkeys(wanted, len(steps))
    names = {slot: name for name, slot in program.slots.items()}
    read = {gemm.left.value for layer in graph.layers for gemm in layer.gemms}
    deep = {program.slots[name] for name in read if name in program.slots}
    blocks: list[Block] = []
    made = {program.slots[name] for name in program.inputs}
    start, layers = "", list[int]()
    for i, step in enumerate(steps):
        own = step.layers()
        layers += own
        if own or not deep.isdisjoint(step.inputs):
            deep.update(slot for slot in step.outputs if slot >= 0)
        made.update(step.outputs)
        live = [slot for slot in deep if slot in made and last.get(slot, -1) > i]
        if len(live) == 1 and layers:
            blocks.append(Block(start, names[live[0]], tuple(layers)))
            start, layers = names[live[0]], []
    return tuple(blocks)


def reconstruct(task: RecoveryTask) -> Recovered:
    """Weights of each block are learned together, towards what the fp32 block gives (BRECQ)."""
    calibrated = task.made.calibrated
    slots = head_slots(calibrated.program, task.made.heads)
    schemes = [calibrated.space.schemes[s] for s in layer_schemes(calibrated, task.assignment)]
    parameters = make_parameters(calibrated, schemes, Recipe(scales=False, ranges="fixed"))
    rng = np.random.default_rng([task.seed, 17])
    blocks = find_blocks(calibrated.graph, calibrated.program, slots)
    lanes = [_Lane(task.made)] + ([] if task.judge is None else [_Lane(task.judge)])
    names = [layer.name for layer in calibrated.graph.layers]
    for number, block in enumerate(blocks):
        if has_passed(task.deadline):
            break
        if task.progress is not None:
            task.progress(number, len(blocks), names[block.layers[-1]])
        schedule = _schedule(calibrated.program, block)
        end = calibrated.program.slots[block.end]
        model = Trainable(calibrated, schemes, parameters, schedule, [end], by_clip=False)
        targets = [lane.target(calibrated.unchanged.program, block) for lane in lanes]
        tensors = list(_own(parameters, block))
        if tensors:
            _fit(model, tensors, lanes, targets, rng)
        for lane, target in zip(lanes, targets, strict=True):
            lane.go_on(model, target, block)
    if task.progress is not None:
        task.progress(len(blocks), len(blocks), "")
    found = parameters.changes(calibrated).changes
    return Recovered(replace(calibrated.changes, weights=found.weights, biases=found.biases))


BLOCKS = Method(reconstruct, takes_bias=True)


class _Lane:
    """What stands at the boundary that was reached, for each run of some data."""

    __slots__ = ("fp32", "inputs", "plan")

    def __init__(self, simulator: Simulator) -> None:
        self.inputs = [simulator.feed_run(run) for run in range(simulator.n_runs)]
        self.plan: list[Mapping[str, Tensor]] = [{} for _ in self.inputs]
        self.fp32: list[Mapping[str, Tensor]] = [{} for _ in self.inputs]

    def target(self, program: Program, block: Block) -> list[Tensor]:
        """Return what the fp32 model gives at the end of a block, for each run."""
        schedule, found = _schedule(program, block), []
        for inputs, own in zip(self.inputs, self.fp32, strict=True):
            values = program.make_values()
            for name, tensor in (*inputs.items(), *own.items()):
                values[program.slots[name]] = tensor
            with torch.no_grad():
                run_schedule(schedule, values)
            end = values[program.slots[block.end]]
            assert end is not None
            found.append(end)
        return found

    def go_on(self, model: Trainable, target: Sequence[Tensor], block: Block) -> None:
        """Move to the end of a block."""
        with torch.no_grad():
            self.plan = [{block.end: model.run(feed)[0]} for feed in self.feeds()]
        self.fp32 = [{block.end: tensor} for tensor in target]

    def feeds(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield what a block of the plan starts from, for each run."""
        for inputs, own in zip(self.inputs, self.plan, strict=True):
            yield {**inputs, **own}


def _schedule(program: Program, block: Block) -> Schedule:
    """What computes the end of a block from its start, and what else it reads from the inputs."""
    end = [program.slots[block.end]]
    if not block.start:
        return make_schedule(program, end)
    layers = set(block.layers)
    inside = {step.index for step in program.steps if not layers.isdisjoint(step.layers())}
    return make_schedule(program, end, changed=inside, stored=[program.slots[block.start]])


def _own(parameters: Parameters, block: Block) -> Iterator[Tensor]:
    """Tensors that belong to the layers of a block and to no others."""
    layers = set(block.layers)
    for master in parameters.masters:
        if all(layer in layers for layer, _ in master.products):
            yield parameters.tensors[f"master.{master.name}"]
    for layer in block.layers:
        if (bias := parameters.tensors.get(f"bias.{layer}")) is not None:
            yield bias


def _fit(
    model: Trainable,
    tensors: Sequence[Tensor],
    lanes: Sequence[_Lane],
    targets: Sequence[Sequence[Tensor]],
    rng: np.random.Generator,
) -> None:
    """Train ``tensors``; at the end they are as they were best on the last of ``lanes``."""
    feeds = list(lanes[0].feeds())
    groups = [
        {"params": [tensor], "lr": _RATE * max(float(tensor.detach().square().mean().sqrt()), 1e-3)}
        for tensor in tensors
    ]
    optimiser = torch.optim.Adam(groups)
    best = _copies(tensors)
    least = _error(model, lanes[-1], targets[-1])
    for step in range(STEPS):
        share = 0.5 * (1 + np.cos(np.pi * step / STEPS))
        for group, own in zip(optimiser.param_groups, groups, strict=True):
            group["lr"] = own["lr"] * share
        run = int(rng.integers(len(feeds)))
        found, target = model.run(feeds[run])[0], targets[0][run]
        loss = (found - target).square().mean() / target.square().mean().clamp(min=1e-12)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % (STEPS // _CHECKS) == 0:
            error = _error(model, lanes[-1], targets[-1])
            if error < least:
                best, least = _copies(tensors), error
    with torch.no_grad():
        for tensor, kept in zip(tensors, best.values(), strict=True):
            tensor.copy_(kept)


def _copies(tensors: Sequence[Tensor]) -> State:
    return {str(i): tensor.detach().clone() for i, tensor in enumerate(tensors)}


def _error(model: Trainable, lane: _Lane, targets: Sequence[Tensor]) -> float:
    """Squared error at the end of the block, relative to what the fp32 model gives."""
    error = power = 0.0
    with torch.no_grad():
        for feed, target in zip(lane.feeds(), targets, strict=True):
            error += float((model.run(feed)[0] - target).square().sum())
            power += float(target.square().sum())
    return error / power if power else error
