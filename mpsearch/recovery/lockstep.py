"""The fp32 model and a plan of it run side by side, step by step over all data; each layer is recovered as it is reached.

So a layer's inputs are those of the plan with everything before it recovered, its target is what the fp32 model gives there, and all
layers together cost one pass of each.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpsearch.deadline import Deadline, has_passed
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.program.program import Program, Step, Values
from mpsearch.program.schedule import Schedule, make_schedule, run_step
from mpsearch.recovery.layer_choice import (
    Choice,
    Found,
    Product,
    Rounding,
    choose_layer,
    recover_layer,
)
from mpsearch.recovery.moments import (
    CONVOLUTIONS,
    LINEAR,
    RECURRENT,
    Moments,
    find_moments,
    read_rows,
)
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.changes import Changes, output_channel_axis
from mpsearch.simulate.changes import Product as ProductIndex
from mpsearch.simulate.scheme_run import SchemeRun, quantize_input

_POSITIONS, _POSITIONS_EACH = 1 << 13, 256
"""Output positions of a convolution that are enough for its moments: so many, and so many more for each column."""

Feed = Mapping[str, Tensor]
Told = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One pass over the data.

    Attributes:
        calibrated: The model, changed by what went before.
        schemes: [L] scheme index of each layer.
        heads: Slots that the pass must reach.
        made: Inputs of each run that recovers.
        judge: Inputs of each run that judges what is made; without any all is taken as it is made.
        rounding: What rounds weights: ``gptq`` and ``round`` all, ``obs`` those of sparse schemes; None: no weight changes.
        bias: Whether biases may.
        mask: Input that says which positions count.
        progress: Told how many layers are done.
        deadline: From then on layers stay as they are.
    """

    calibrated: Calibrated
    schemes: Sequence[int]
    heads: Sequence[int]
    made: Sequence[Feed]
    judge: Sequence[Feed] = ()
    rounding: Rounding | None = "gptq"
    bias: bool = True
    mask: str | None = None
    progress: Told | None = None
    deadline: Deadline | None = None


def recover_in_lockstep(task: Pass) -> tuple[Changes, dict[int, Found]]:
    """Return what recovers the layers of a plan, each on what the plan before it gives, and what was found for each."""
    known = task.calibrated
    schedule = make_schedule(known.program, task.heads)
    lanes = _Lanes(task, schedule)
    steps = [step.index for step in schedule.steps if recoverable(known.graph, step)]
    layers: dict[int, Found] = {}
    with torch.no_grad():
        lanes.meet_sharers()
        for step, frees in zip(schedule.steps, schedule.frees, strict=True):
            if step.index in steps and not has_passed(task.deadline):
                layers[step.layer] = lanes.recover(step)
                if task.progress is not None:
                    task.progress(len(layers), len(steps), known.graph.layers[step.layer].name)
            lanes.run(step, frees)
    made = replace(known.changes, weights=dict(lanes.weights), biases=dict(lanes.biases))
    return made, layers


def recoverable(graph: ModelGraph, step: Step) -> bool:
    """Whether a step is a layer whose first weight's inputs are known: of a recurrent one that is what it reads."""
    if step.layer < 0 or step.node.op_type not in (*CONVOLUTIONS, *LINEAR, *RECURRENT):
        return False
    gemm = graph.layers[step.layer].gemms[0]
    return gemm.has_weight and gemm.right.input_index >= 0 and gemm.left.input_index >= 0


def find_unreached(graph: ModelGraph, program: Program) -> tuple[str, ...]:
    """Return names of layers whose weights no pass reaches, or only in part: inside loops and branches, recurrent, fused."""
    reached = {
        step.layer
        for step in program.steps
        if recoverable(graph, step) and step.node.op_type not in RECURRENT
    }
    return tuple(
        layer.name for i, layer in enumerate(graph.layers) if layer.has_weight and i not in reached
    )


def find_sharers(graph: ModelGraph, schedule: Schedule, schemes: Sequence[int]) -> dict[int, int]:
    """Return layer to the first one that multiplies with the same weight in the same scheme, where several do."""
    first: dict[object, int] = {}
    found: dict[int, int] = {}
    for step in schedule.steps:
        if not recoverable(graph, step):
            continue
        right = graph.layers[step.layer].gemms[0].right
        key = right.value, right.reduction_axis, right.channel_axes, schemes[step.layer]
        found[step.layer] = first.setdefault(key, step.layer)
    count = Counter(found.values())
    return {layer: one for layer, one in found.items() if count[one] > 1}


class _Lanes:
    """Values of all runs, of the fp32 model and of the plan, and what the plan has become."""

    __slots__ = (
        "_feeds",
        "_fp32",
        "_judging",
        "_kept",
        "_others",
        "_plan",
        "_runs",
        "_schedule",
        "_sharers",
        "_store",
        "_task",
        "biases",
        "weights",
    )

    def __init__(self, task: Pass, schedule: Schedule) -> None:
        """Begin with the inputs of all runs."""
        known = task.calibrated
        feeds = [*task.made, *task.judge]
        self._task, self._feeds, self._schedule = task, feeds, schedule
        self._sharers = find_sharers(known.graph, schedule, task.schemes)
        self._others: dict[int, list[tuple[Moments, Moments | None]]] = {}
        self._judging = [False] * len(task.made) + [True] * len(task.judge)
        self._kept = [None if task.mask is None else feed[task.mask].bool() for feed in feeds]
        self._fp32 = [known.program.enter(feed) for feed in feeds]
        self._plan = [known.program.enter(feed) for feed in feeds]
        self.weights: dict[ProductIndex, QuantizedTensor] = dict(known.changes.weights)
        self.biases = dict(known.changes.biases)
        # what is put into these two while it runs is what later steps see
        self._store = known.weights.change(known.program, self.weights)
        schemes = [known.space.schemes[s] for s in task.schemes]
        layers = [step.layer for step in schedule.steps if step.layer >= 0]
        self._runs = [
            SchemeRun(
                known.graph,
                schemes,
                known.base,
                known.ranges,
                self._store,
                layers,
                known.ports,
                self.biases,
            )
            for _ in feeds
        ]

    def run(self, step: Step, frees: Sequence[int]) -> None:
        """Run a step in all runs of both, and let go what nothing reads any more."""
        for fp32, plan, call in zip(self._fp32, self._plan, self._runs, strict=True):
            run_step(step, fp32)
            run_step(step, plan, call=call)
            for slot in frees:
                fp32[slot] = plan[slot] = None

    def recover(self, step: Step) -> Found:
        """Decide on the weight and the bias of a layer that has not run."""
        task, product = self._task, self._product(step)
        bias = product.takes_bias and (task.bias or step.layer in self.biases)
        made, judge = self._moments(step, product, self._plan, self._fp32)
        first = self._sharers.get(step.layer, step.layer)
        if first != step.layer and (first, 0) in self.weights:
            found = self._follow(product, self.weights[first, 0], made, judge, bias=bias)
            return self._keep(step.layer, found)
        whole, judging = made, judge
        for more, others in self._others.pop(step.layer, ()):
            whole = whole + more
            judging = judging + others if judging is not None and others is not None else None
        rounding = None if task.rounding == "obs" and not product.plain.sparsity else task.rounding
        if judging is None:
            found = recover_layer(
                product, whole, Choice(rounding, bias=bias), deadline=task.deadline
            )
        else:
            found = choose_layer(
                product,
                whole,
                judging,
                rounding=rounding,
                bias=bias,
                deadline=task.deadline,
            )
        if found.weight is not None and step.layer in self._sharers:
            found = self._follow(product, found.weight, made, judge, bias=bias)
        return self._keep(step.layer, found)

    def _product(self, step: Step) -> Product:
        task, layer = self._task, self._task.calibrated.graph.layers[step.layer]
        scheme = task.calibrated.space.schemes[task.schemes[step.layer]]
        stacked = layer.op_type == "MatMul" and layer.gemms[0].groups > 1
        return Product(
            self._store.plain(step.layer),
            self._store.quantized(step.layer, scheme),
            layer.gemms[0].right,
            output_channel_axis(layer) is not None and not stacked,
            f"{layer.name}: weight",
        )

    @staticmethod
    def _follow(
        product: Product,
        weight: QuantizedTensor,
        made: Moments,
        judge: Moments | None,
        *,
        bias: bool,
    ) -> Found:
        """A layer whose weight is decided, others' too: what is left is a bias of its own."""
        own = replace(product, plain=weight)
        if judge is None:
            found = recover_layer(own, made, Choice(bias=bias))
        else:
            before = choose_layer(product, made, judge, rounding=None, bias=False).before
            found = replace(choose_layer(own, made, judge, rounding=None, bias=bias), before=before)
        return replace(found, weight=weight)

    def _keep(self, layer: int, found: Found) -> Found:
        if found.weight is not None:
            self.weights[layer, 0] = found.weight
        if found.bias is not None:
            self.biases[layer] = found.bias
        return found

    def meet_sharers(self) -> None:
        """Learn what layers read in fp32 that share the weight of one before them, which decides for all."""
        later = {layer for layer, first in self._sharers.items() if layer != first}
        if not later or self._task.rounding is None:
            return
        known = self._task.calibrated
        values = [known.program.enter(feed) for feed in self._feeds]
        for step, frees in zip(self._schedule.steps, self._schedule.frees, strict=True):
            if step.layer in later:
                found = self._moments(step, self._product(step), values, values)
                self._others.setdefault(self._sharers[step.layer], []).append(found)
            for own in values:
                run_step(step, own)
                for slot in frees:
                    own[slot] = None

    def _moments(
        self, step: Step, product: Product, plans: Sequence[Values], exacts: Sequence[Values]
    ) -> tuple[Moments, Moments | None]:
        """Of the runs that recover, and of those that judge."""
        known = self._task.calibrated
        layer = known.graph.layers[step.layer]
        gemm, scheme = layer.gemms[0], known.space.schemes[self._task.schemes[step.layer]]
        (read,) = (r for r in known.ports[step.layer].reads if r.index == gemm.left.input_index)
        slot = step.inputs[read.index]
        most = (_POSITIONS + _POSITIONS_EACH * gemm.k) // len(plans)
        flat = product.rows(product.weight, 1)[0].float()
        sums: dict[bool, Moments] = {}
        for number, (fp32, plan, kept, judging) in enumerate(
            zip(exacts, plans, self._kept, self._judging, strict=True)
        ):
            planned, exact = plan[slot], fp32[slot]
            assert planned is not None
            assert exact is not None
            planned = quantize_input(planned, scheme.activation, read, known.ranges, layer.name)
            rows = [
                read_rows(step.node, gemm, x, product.weight, kept=kept, most=most, turn=number)
                for x in (planned, exact)
            ]
            found = find_moments(rows[0], rows[1], flat, powers=judging)
            sums[judging] = sums[judging] + found if judging in sums else found
        return sums[False], sums.get(True)
