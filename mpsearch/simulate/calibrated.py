"""A model made ready to be simulated: compiled, its ranges known, what each group may take, its weights."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.data.fit import check_batches
from mpsearch.graph.model import ModelGraph
from mpsearch.losses.outputs import find_mask
from mpsearch.program.compile import compile_graph
from mpsearch.program.memory_of_machine import find_device, keep_freed_blocks
from mpsearch.program.program import Program, Step
from mpsearch.registry import find
from mpsearch.schemes import Scheme
from mpsearch.simulate.changes import Changes, change_constants
from mpsearch.simulate.memory_budget import make_budget
from mpsearch.simulate.observation import Observation, find_overflows, make_ranges
from mpsearch.simulate.reference import Reference, iterate_feeds, measure_reference
from mpsearch.simulate.scheme_run import Ports, Ranges, SchemeRun, find_ports
from mpsearch.simulate.weight_cache import WeightStore
from mpsearch.space.allowed import allowed, tie_groups, ties_anything
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Bools


class Recoverer(Protocol):
    """Makes up for what pruning loses, layer by layer: what a plug-in of kind ``recoveries`` makes.

    The plug-in is called with (graph, program, feeds, *, limit, mask): ``feeds()`` yields input name to
    tensor of each batch, ``limit`` is how many bytes it may hold, ``mask`` the input that says which positions count.
    """

    def __call__(self, layer: int, gemm: int, weight: Tensor, scheme: Scheme) -> Tensor:
        """Return the fp32 weight of a layer's product, pruned and recovered."""

    def refuse(self, layer: int) -> str:
        """Return why a layer cannot be recovered, "" where it can."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A model and a space, and all that calibration data say of them.

    Attributes:
        graph: The model, its groups tied as the space says.
        space: The schemes that may be chosen.
        program: The compiled fp32 model.
        batches: The data that it was calibrated on; None where ranges and weights are those of a plan.
        ranges: (value name, activation spec) to the range, for the static specs of the space.
        allowed: [G, S]; False: the space forbids it, or it overflows on the data.
        reasons: (group, scheme) names to why it is not allowed.
        weights: The weights of all layers in all schemes.
        ports: [L] where each layer takes its operands.
        layer_steps: Layer to the step that it is, and the program (or subgraph's program) that this stands in.
        max_memory: Bytes of anonymous memory that the process may hold, None where nobody said.
        changes: What a plan changes: then only its own assignment may be run. The constants among them are in
            ``graph`` and ``program`` already.
        original: The model without them; None where there are none.
    """

    graph: ModelGraph
    space: SearchSpace
    program: Program
    batches: Batches | None
    ranges: Ranges
    allowed: Bools
    reasons: Mapping[tuple[str, str], str]
    weights: WeightStore
    ports: tuple[Ports, ...]
    layer_steps: Mapping[int, tuple[Program, Step]]
    max_memory: int | None
    changes: Changes = field(default_factory=Changes)
    original: "Calibrated | None" = None

    @property
    def unchanged(self) -> "Calibrated":
        """The model without what a plan changes: the one that losses compare with."""
        return self if self.original is None else self.original

    @property
    def base(self) -> Scheme:
        """The scheme of what nobody decides."""
        return self.space.schemes[self.space.index(self.space.base)]

    def start(self, schemes: Sequence[int], steps: Sequence[Step]) -> SchemeRun:
        """Return what runs the layers of ``steps`` in ``schemes`` [L], over one batch."""
        return SchemeRun(
            self.graph,
            [self.space.schemes[s] for s in schemes],
            self.base,
            self.ranges,
            self.weights,
            [step.layer for step in steps if step.layer >= 0],
            self.ports,
            self.changes.biases,
        )


def calibrate(
    graph: ModelGraph,
    space: SearchSpace,
    batches: Batches,
    *,
    device: str = "auto",
    max_memory: int | None = None,
) -> Calibrated:
    """Return ``graph`` compiled and calibrated to ``batches``.

    Args:
        graph: The model.
        space: The schemes that may be chosen.
        batches: Calibration data.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``.
        max_memory: As :class:`mpsearch.simulate.simulator.Simulator` takes it.

    Raises:
        DataError: The data do not fit the model.
        NumericsError: The fp32 model is not finite on the data, or the base format overflows.
        UnsupportedOperatorError: The graph holds operators that cannot be executed.
    """
    return calibrate_and_refer(graph, space, batches, device=device, max_memory=max_memory)[0]


def calibrate_and_refer(
    graph: ModelGraph,
    space: SearchSpace,
    batches: Batches,
    *,
    loss: str | None = None,
    device: str = "auto",
    max_memory: int | None = None,
    program: Program | None = None,
) -> tuple[Calibrated, Reference]:
    """Return what :func:`calibrate` does, and what losses on the same data compare with: one pass serves both.

    Args:
        graph: The model.
        space: The schemes that may be chosen.
        batches: Calibration data.
        loss: As :class:`mpsearch.simulate.simulator.Simulator` takes it.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``.
        max_memory: As :class:`mpsearch.simulate.simulator.Simulator` takes it.
        program: ``graph`` compiled, on a device; None compiles it.
    """
    batches = check_batches(batches, graph)
    graph = tie_groups(graph, space) if ties_anything(space) else graph
    placed, budget = find_device(device), make_budget(max_memory)
    if program is None:
        keep_freed_blocks(budget.freed)
        program = compile_graph(graph, placed, max_held=budget.held)
    recoveries = sorted({scheme.recovery for scheme in space.schemes} - {"none"})
    reference, seen = measure_reference(
        graph, program, batches, loss, budget, recovers=bool(recoveries)
    )
    recoverers: dict[str, Recoverer] = {
        name: find("recoveries", name)(
            graph,
            program,
            partial(iterate_feeds, program, reference.batches),
            limit=reference.shares.grams,
            mask=find_mask(graph, batches),
        )
        for name in recoveries
    }
    weights = WeightStore(graph, program, reference.shares.weights, recoverers)
    mask, reasons = _find_allowed(graph, space, weights, seen, recoverers)
    calibrated = Calibrated(
        graph,
        space,
        program,
        reference.batches,
        make_ranges(graph, seen, space.schemes),
        mask,
        reasons,
        weights,
        find_ports(graph),
        program.find_layers(),
        max_memory,
    )
    return calibrated, reference


def apply_changes(calibrated: Calibrated, changes: Changes) -> Calibrated:
    """Return ``calibrated`` as a plan changes it: weights, biases, constants and the ranges that these have are its own.

    What it was changed to before is left out.
    """
    calibrated = calibrated.unchanged
    if not changes:
        return calibrated
    graph, program = change_constants(calibrated.graph, changes), calibrated.program
    if changes.constants:
        program = compile_graph(graph, program.device)
    return replace(
        calibrated,
        graph=graph,
        program=program,
        ranges={**calibrated.ranges, **changes.ranges},
        weights=calibrated.weights.change(program, changes.weights),
        layer_steps=program.find_layers(),
        changes=changes,
        original=calibrated,
    )


def _find_allowed(
    graph: ModelGraph,
    space: SearchSpace,
    weights: WeightStore,
    seen: Observation,
    recoverers: Mapping[str, Recoverer],
) -> tuple[Bools, dict[tuple[str, str], str]]:
    """What the space allows, less what overflows and what cannot be recovered."""
    mask, reasons = allowed(space, graph)
    refused = find_overflows(graph, seen, weights.amax(), space.schemes, space.base)
    refused |= _find_unrecoverable(graph, space.schemes, recoverers)
    groups = [group.name for group in graph.groups]
    for (group, scheme), reason in refused.items():
        mask[groups.index(group), space.index(scheme)] = False
        reasons.setdefault((group, scheme), reason)
    return mask, reasons


def _find_unrecoverable(
    graph: ModelGraph, schemes: Iterable[Scheme], recoverers: Mapping[str, Recoverer]
) -> dict[tuple[str, str], str]:
    """(group, scheme) names to why a scheme's recovery cannot be had there."""
    reasons = {}
    for scheme in schemes:
        if scheme.recovery == "none":
            continue
        refuse: Callable[[int], str] = recoverers[scheme.recovery].refuse
        for group in graph.groups:
            for index in group.layers:
                if reason := refuse(index):
                    reasons[group.name, scheme.name] = reason
    return reasons
