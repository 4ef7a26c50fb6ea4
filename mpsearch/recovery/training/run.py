"""One differentiable run of a model with a plan, its weights rounded anew from what is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mpsearch.numerics.range import Range
from mpsearch.numerics.requantize import simulate_requantized
from mpsearch.numerics.straight_through import LearnedRange
from mpsearch.program.program import Step, Values
from mpsearch.program.schedule import Schedule, run_schedule
from mpsearch.recovery.training.parameters import Master, Parameters
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.changes import add_bias
from mpsearch.simulate.scheme_run import SchemeRun
from mpsearch.simulate.weight_cache import lay_out_weight

Hook = Callable[[int, Tensor], Tensor]
"""Layer and its output to what runs on in its place."""


@dataclass(frozen=True, slots=True, eq=False)
class Trainable:
    """A model with a plan whose tensors are trained.

    Attributes:
        calibrated: The model as the plan changes it.
        schemes: [L] scheme of each layer.
        parameters: What is trained.
        schedule: What is run.
        slots: What the loss reads.
        by_clip: Whether learned steps move by what is cut off alone.
    """

    calibrated: Calibrated
    schemes: Sequence[Scheme]
    parameters: Parameters
    schedule: Schedule
    slots: Sequence[int]
    by_clip: bool

    def run(
        self,
        feed: Mapping[str, Tensor],
        *,
        kept: float = 0.0,
        lowered: int | None = None,
        revives: bool = False,
        hook: Hook | None = None,
        watch: Callable[[Step, Values], None] | None = None,
    ) -> tuple[Tensor, ...]:
        """Return what the loss reads, differentiable in the parameters.

        Args:
            feed: Input name to tensor.
            kept: What pruned weights are multiplied with.
            lowered: How many layers, from the first on, run in their schemes; None: all.
            revives: Whether pruned weights get the whole gradient.
            hook: Makes what runs on from the output of each layer.
            watch: Called after each step.
        """
        program, parameters = self.calibrated.program, self.parameters
        values = program.make_values()
        for name, tensor in feed.items():
            values[program.slots[name]] = tensor
        for name, slot in parameters.constants.items():
            values[slot] = parameters.tensors[f"constant.{name}"]
        weights = _Weights(self, kept, revives)
        biases = {
            int(name.partition(".")[2]): tensor
            for name, tensor in parameters.tensors.items()
            if name.startswith("bias.")
        }
        inside = {step.layer for step in self.schedule.steps if _takes_bias(step)} & biases.keys()
        layers = [layer for step in self.schedule.steps for layer in step.layers()]
        high = set() if lowered is None else set(layers[lowered:])
        known = self.calibrated
        run = SchemeRun(
            known.graph,
            self.schemes,
            known.base,
            self._ranges(),
            weights,
            [layer for layer in layers if layer not in high],
            known.ports,
            {layer: bias for layer, bias in biases.items() if layer not in inside},
        )

        def call(step: Step, inputs: list[Tensor | None]) -> object:
            bias = biases.get(step.layer)
            if bias is not None and step.layer in inside:  # its kernel adds it at no cost
                inputs += [None] * (3 - len(inputs))
                inputs[2], bias = bias if inputs[2] is None else inputs[2] + bias, None
            result = self._run_high(step, inputs, bias) if step.layer in high else run(step, inputs)
            if hook is not None and isinstance(result, Tensor):
                return hook(step.layer, result)
            return result

        run_schedule(self.schedule, values, call=call, watch=watch)
        return tuple(found for slot in self.slots if (found := values[slot]) is not None)

    def _ranges(self) -> dict[tuple[str, Spec], Range | LearnedRange]:
        found: dict[tuple[str, Spec], Range | LearnedRange] = dict(self.calibrated.ranges)
        for key in self.parameters.steps:
            step = self.parameters.step(key, self.calibrated.ranges[key])
            found[key] = LearnedRange(step, self.by_clip)
        return found

    def _run_high(self, step: Step, inputs: list[Tensor | None], bias: Tensor | None) -> object:
        """Run a layer that is not lowered yet: its masters, nothing rounded."""
        for gemm, index in self.calibrated.ports[step.layer].weights:
            master = self.parameters.owners[step.layer, gemm]
            inputs[index] = self.parameters.tensors[f"master.{master.name}"]
        result = step.kernel(*inputs)
        if bias is not None and isinstance(result, Tensor):
            return add_bias(result, bias, self.calibrated.graph.layers[step.layer])
        return result


def _takes_bias(step: Step) -> bool:
    """Whether the operator adds its third input, a bias, to its product as it is."""
    if step.node.op_type == "Gemm":
        return step.layer >= 0 and step.node.attributes.get("beta", 1.0) == 1.0
    return step.layer >= 0 and step.node.op_type in ("Conv", "ConvTranspose")


class _Weights:
    """Rounded weights of one run, each made once."""

    __slots__ = ("_kept", "_made", "_of", "_revives")

    def __init__(self, of: Trainable, kept: float, revives: bool) -> None:
        self._of, self._kept, self._revives = of, kept, revives
        self._made: dict[str, Tensor] = {}

    def simulated(self, layer: int, scheme: Scheme, gemm: int = 0) -> Tensor:
        """Return the rounded weight of a layer's product."""
        del scheme  # a layer has one
        known = self._of.parameters
        master = known.owners[layer, gemm]
        made = self._made.get(master.name)
        if made is None:
            made = self._made[master.name] = self._round(master)
        owner = self._of.calibrated.graph.layers[layer]
        return lay_out_weight(owner, owner.gemms[gemm], made)

    def _round(self, master: Master) -> Tensor:
        known = self._of.parameters
        tensor = known.tensors[f"master.{master.name}"]
        return simulate_requantized(
            tensor, master.like, known.scales(master), self._kept, revives=self._revives
        )
