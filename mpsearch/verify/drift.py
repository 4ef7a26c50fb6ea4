"""New data against a plan: whether they leave its calibrated ranges, what that costs, and whether its loss still holds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.errors import check_argument
from mpsearch.formats import find_format
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.range import Range
from mpsearch.numerics.ranges import RangeObserver
from mpsearch.plan.match import import_planned, plan_assignment, plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.plan.score import simulate_plan
from mpsearch.program.program import Step
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.observation import activation_inputs, observe_model
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Estimate
from mpsearch.verify.gate_loss import largest_loss


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """An activation that a layer reads, on new data.

    Attributes:
        layer: The layer.
        value: The activation.
        scheme: What the layer runs in.
        low: Smallest value on the new data, at most 0.
        high: Largest.
        calibrated_low: Smallest value of the calibration.
        calibrated_high: Largest.
        factor: How many times the calibrated magnitude the new data reach; 1 and less: they stay within.
        clipped: Share of the elements that the plan's scale cuts off.
        beyond: How many times the largest number that the scale can say the new data reach.
        error: Squared error of the layer's output relative to fp32's, of the layer alone on the new data.
        error_added: What of it goes away if the range follows the new data; 0 where nothing is clipped.
    """

    layer: str
    value: str
    scheme: str
    low: float
    high: float
    calibrated_low: float
    calibrated_high: float
    factor: float
    clipped: float
    beyond: float
    error: float
    error_added: float

    @property
    def leaves(self) -> bool:
        """Whether the new data leave the calibrated range."""
        return self.low < self.calibrated_low or self.high > self.calibrated_high


@dataclass(frozen=True, slots=True)
class Drift:
    """What new data do to a plan.

    Attributes:
        model: File name of the model.
        n_samples: Samples of the new data.
        unit: Unit of the loss.
        loss: The plan's loss on them, measured in the simulation.
        promised: What the plan measured; None where it did not, or in another unit.
        bound: What the loss may be, beyond the errors of both; None without a promise.
        layers: One a static range that a layer reads, in schedule order.
        fallback: File name of the safer plan that the plan names; "" if it names none.
    """

    model: str
    n_samples: int
    unit: str
    loss: Estimate
    promised: Estimate | None
    bound: float | None
    layers: tuple[LayerDrift, ...]
    fallback: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the loss is within the bound; None where there is none."""
        return None if self.bound is None else self.loss.mean <= self.bound

    @property
    def leaving(self) -> tuple[LayerDrift, ...]:
        """The ranges that the new data leave, those first that cost most."""
        found = [layer for layer in self.layers if layer.leaves or layer.clipped > 0]
        return tuple(sorted(found, key=lambda d: (-d.error_added, -d.clipped, -d.factor)))

    @property
    def verdict(self) -> str:
        """What the loss says, in one line."""
        loss = f"loss {with_error(self.loss)} {self.unit}"
        if self.promised is None or self.bound is None:
            return f"{loss}; the plan holds no measured loss in this unit to compare with"
        told = f"{loss}, at most {number(self.bound)} (measured {with_error(self.promised)})"
        if self.holds:
            return f"the plan's loss holds: {told}"
        instead = f"; fall back to {self.fallback}" if self.fallback else ""
        return f"the plan's loss does not hold: {told}{instead}"

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        own = asdict(self) | {"loss": self.loss._asdict(), "holds": self.holds}
        own["promised"] = None if self.promised is None else self.promised._asdict()
        own["layers"] = [asdict(d) | {"leaves": d.leaves} for d in self.layers]
        return own


def find_drift(
    plan: Plan, model: str | Path | ModelGraph, batches: Batches, *, loss: str | None = None
) -> Drift:
    """Return what new data do to ``plan``: its ranges, each layer's clipping, its loss.

    Args:
        plan: Made for the model.
        model: The user's ONNX file, or the graph that ``import_torch`` made.
        batches: The new data.
        loss: As :class:`mpsearch.simulate.simulator.Simulator` takes it; the one that the plan was measured by.

    Raises:
        PlanError: The plan is for another model or other weights.
        DataError: The data do not fit the model.
        NumericsError: The model or the plan is not finite on the data; the message names the layer.
    """
    check_argument("plan", plan, Plan, "as read_plan or make_plan returns it")
    check_argument("batches", batches, Batches, "as read_batches returns them")
    graph = import_planned(plan, model)
    simulator = simulate_plan(plan, graph, batches, loss=loss)
    found = simulator.loss(plan_assignment(plan, graph, simulator.space))
    same = not plan.unit or plan.unit == simulator.unit
    bound = largest_loss(plan, found) if same else None
    return Drift(
        graph.name,
        simulator.n_samples,
        simulator.unit,
        found,
        plan.measured.get("loss") if same else None,
        bound,
        _find_layers(plan, graph, simulator),
        plan.fallback,
    )


def _find_layers(plan: Plan, graph: ModelGraph, simulator: Simulator) -> tuple[LayerDrift, ...]:
    calibrated, schemes = simulator.calibrated, plan_schemes(plan, graph)
    feeds = [simulator.feed_run(run) for run in range(simulator.n_runs)]
    program = calibrated.program
    seen = observe_model(calibrated.graph, program, feeds, program.outputs).observers
    fresh = {key: seen[key[0]].finish(key[1]) for key in calibrated.ranges if key[0] in seen}
    clipping = {
        i
        for i, scheme in enumerate(schemes)
        for value, _ in _static_inputs(calibrated.graph, i, scheme)
        if _beyond(seen[value], calibrated.ranges[value, scheme.activation], scheme.activation) > 1
    }
    counts, errors = _run_clipping(simulator, schemes, fresh, clipping, feeds)
    layers = []
    for i, scheme in enumerate(schemes):
        spec = scheme.activation
        for value, _ in _static_inputs(calibrated.graph, i, scheme):
            known, shown = calibrated.ranges[value, spec], seen[value]
            amax = max(-shown.low, shown.high)
            clipped, total = counts.get((i, value), (0, 1))
            planned, followed = errors.get(i, (0.0, 0.0))
            layers.append(
                LayerDrift(
                    graph.layers[i].name,
                    value,
                    scheme.name,
                    shown.low,
                    shown.high,
                    known.low,
                    known.high,
                    amax / known.amax if known.amax > 0 else float(amax > 0) * np.inf,
                    clipped / max(total, 1),
                    _beyond(shown, known, spec),
                    planned,
                    max(planned - followed, 0.0) if clipped else 0.0,
                )
            )
    return tuple(layers)


def _static_inputs(graph: ModelGraph, layer: int, scheme: Scheme) -> list[tuple[str, int]]:
    """(value, input) of what a layer reads by a range of the whole tensor that was calibrated."""
    if not scheme.activation.is_calibrated:
        return []
    found = activation_inputs(graph.layers[layer])
    return [(value, index) for index, (value, _, _) in found.items()]


def _limits(known: Range, spec: Spec) -> tuple[float, float]:
    """Smallest and largest number that a calibrated scale can say."""
    top = spec.element.max_value
    if not spec.symmetric:
        low, high = -(top + 1) - known.zero_point, top - known.zero_point
        return known.scale * low, known.scale * high
    if spec.tensor_scale:
        top *= find_format(str(spec.scale_format)).max_value
    return -known.scale * top, known.scale * top


def _beyond(seen: RangeObserver, known: Range, spec: Spec) -> float:
    """How many times the largest number that the scale can say was seen."""
    low, high = _limits(known, spec)
    ratios = [
        value / limit if limit else float(abs(value) > 0) * np.inf
        for value, limit in ((seen.low, low), (seen.high, high))
    ]
    return float(max(ratios)) / (
        1 + 1e-6
    )  # the limit is the largest value, but for the scale's own rounding


def _run_clipping(
    simulator: Simulator,
    schemes: Sequence[Scheme],
    fresh: Mapping[tuple[str, Spec], Range],
    clipping: set[int],
    feeds: Sequence[Mapping[str, Tensor]],
) -> tuple[dict[tuple[int, str], tuple[int, int]], dict[int, tuple[float, float]]]:
    """What is clipped, and what it does to the layers that clip, each alone on fp32's inputs.

    Returns:
        (layer, value) to elements that are clipped and all; layer to its squared error relative to fp32's with the
        plan's ranges and with those of the new data.
    """
    if not clipping:
        return {}, {}
    calibrated, program = simulator.calibrated, simulator.calibrated.program
    followed = replace(calibrated, ranges={**calibrated.ranges, **fresh})
    counts: dict[tuple[int, str], tuple[int, int]] = {}
    squares = {layer: np.zeros(3) for layer in clipping}
    indices = layer_schemes(calibrated, _assignment(simulator, schemes))
    slots = [program.slots[name] for name in program.outputs]
    schedule = make_schedule(program, slots)
    steps = [s for _, s in calibrated.layer_steps.values() if s.layer in clipping]
    for feed in feeds:
        planned, following = (known.start(indices, steps) for known in (calibrated, followed))

        def call(
            step: Step,
            inputs: list[Tensor | None],
            runs: tuple[Any, Any] = (planned, following),
        ) -> object:
            given = list(inputs)
            result = step.kernel(*inputs)
            layer = step.layer
            if layer in clipping:
                spec = schemes[layer].activation
                for value, index in _static_inputs(calibrated.graph, layer, schemes[layer]):
                    x = given[index]
                    low, high = _limits(calibrated.ranges[value, spec], spec)
                    if x is not None:
                        out = int(((x < low * (1 + 1e-6)) | (x > high * (1 + 1e-6))).sum())
                        before = counts.get((layer, value), (0, 0))
                        counts[layer, value] = before[0] + out, before[1] + x.numel()
                want = _first(result)
                errors = [_square(_first(run(step, list(given))) - want) for run in runs]
                squares[layer] += (*errors, _square(want))
            return result

        values = program.make_values()
        for name, tensor in feed.items():
            values[program.slots[name]] = tensor
        with torch.inference_mode():
            run_schedule(schedule, values, call=call)
    relative = {
        layer: (float(a / power), float(b / power)) if power > 0 else (float(a > 0), float(b > 0))
        for layer, (a, b, power) in squares.items()
    }
    return counts, relative


def _assignment(simulator: Simulator, schemes: Sequence[Scheme]) -> Any:
    return np.array(
        [simulator.space.index(schemes[g.layers[0]].name) for g in simulator.graph.groups]
    )


def _first(result: object) -> Tensor:
    first = result[0] if isinstance(result, tuple) else result
    assert isinstance(first, Tensor)
    return first


def _square(x: Tensor) -> float:
    return float(x.double().square().sum())
