"""Weights of a plan's layers as functions of a module's parameters, so that gradients reach these.

A call hands over the weight that it multiplies with. How the graph's own weight follows from it (turned, scaled by a
normalisation that the layer includes, stacked by gates) is found in one run of the module, by comparing the two; what a plan
changes besides is a fixed difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import torch
from torch import Tensor

from mpsearch.errors import PlanError
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.requantize import requantize, simulate_requantized
from mpsearch.program.program import Program
from mpsearch.schemes import Scheme
from mpsearch.simulate.changes import Product
from mpsearch.simulate.layer_weight import quantize_layer_weight
from mpsearch.simulate.weight_cache import WeightStore, lay_out_weight, round_weight

_SAME = 1e-4
"""Relative difference of a weight and the graph's that rounding explains."""

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Where torch keeps ONNX's gates: i o f c of its i f g o; z r h of its r z n."""


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A batch normalisation by fixed statistics that a layer includes: its own tensors, [N] each."""

    mean: Tensor
    variance: Tensor
    gain: Tensor | None
    shift: Tensor | None
    epsilon: float

    def factor(self) -> Tensor:
        """Return what it multiplies each channel with."""
        factor = (self.variance + self.epsilon).rsqrt()
        return factor if self.gain is None else factor * self.gain

    def move(self, bias: Tensor | None) -> Tensor:
        """Return the bias of the layer that includes it, from the one before."""
        moved = -self.mean if bias is None else bias - self.mean
        moved = moved * self.factor()
        return moved if self.shift is None else moved + self.shift


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How the graph's tensor follows from what a call hands over.

    Attributes:
        order: Its axes in the graph's order.
        shape: Its shape in the graph.
        norm: The normalisation that the layer includes.
        axis: Axis of the output channels, where there is one.
        groups: Convolution groups that the channels run over outside that axis.
        start: What it was in the beginning.
        offset: What the plan's own value is beyond that; None: nothing.
    """

    order: tuple[int, ...]
    shape: tuple[int, ...]
    norm: Norm | None
    axis: int
    groups: int
    start: Tensor
    offset: Tensor | None = None

    def make(self, given: Tensor) -> Tensor:
        """Return the graph's tensor without what the plan changes."""
        turned = given.permute(self.order).reshape(self.shape)
        return turned if self.norm is None else _scale(turned, self.norm.factor(), self)


@dataclass(slots=True)
class LiveWeights:
    """Gives a run the weights that calls hand over, rounded as the plan says.

    Attributes:
        store: The plan's own weights.
        forms: (layer, product) to how its weight is made.
        norms: Layer to the normalisation that it includes.
        given: (layer, product) to what the last call handed over.
        handed_biases: Layer to the bias that the last call handed over.
        bias_starts: Layer to what its graph's bias was in the beginning.
    """

    graph: ModelGraph
    store: WeightStore
    forms: dict[Product, Form] = field(default_factory=dict)
    norms: dict[int, Norm] = field(default_factory=dict)
    given: dict[Product, Tensor] = field(default_factory=dict)
    handed_biases: dict[int, Tensor | None] = field(default_factory=dict)
    bias_starts: dict[int, Tensor] = field(default_factory=dict)

    def simulated(self, layer: int, scheme: Scheme, gemm: int = 0) -> Tensor:
        """Return the rounded weight of a layer's product, from what the call handed over."""
        known = self.forms.get((layer, gemm))
        if known is None:  # the run that finds the forms
            return self.store.simulated(layer, scheme, gemm)
        owner, master = self.graph.layers[layer], self._master(layer, gemm, known)
        like = self.store.changed(layer, gemm)
        if like is None:
            made = round_weight(owner, gemm, scheme, master)
        else:
            made = simulate_requantized(master, like)
        return lay_out_weight(owner, owner.gemms[gemm], made.to(master.dtype))

    def bias(self, layer: int, given: Tensor | None, constant: Tensor) -> Tensor:
        """Return the bias of a layer, for what a call hands over, whose graph has ``constant`` in its place."""
        self.handed_biases[layer] = given
        moved = self.bias_now(layer)
        if moved is None or layer not in self.bias_starts:
            return constant
        return moved.reshape(constant.shape) + (
            constant - self.bias_starts[layer].reshape(constant.shape)
        )

    def bias_now(self, layer: int) -> Tensor | None:
        """Return the bias of a layer, with what its normalisation makes of it; None where it has none."""
        norm, given = self.norms.get(layer), self.handed_biases[layer]
        return given if norm is None else norm.move(given)

    def moved_biases(self) -> Iterator[tuple[int, Tensor]]:
        """Yield how far each layer's bias is from what it was in the beginning, where it is not the same."""
        for layer, start in self.bias_starts.items():
            now = self.bias_now(layer)
            if now is not None and not torch.equal(now, start):
                yield layer, (now - start).detach()

    def stored(self, schemes: Sequence[Scheme]) -> Iterator[tuple[Product, QuantizedTensor]]:
        """Yield what is stored of each weight that is not what it was in the beginning, or that recovery changed."""
        for (layer, gemm), form in self.forms.items():
            owner, like = self.graph.layers[layer], self.store.changed(layer, gemm)
            is_recovered = like is None and schemes[layer].recovery != "none"
            same = torch.equal(form.make(self.given[layer, gemm]), form.start)
            if same and not is_recovered:
                continue
            master = self._master(layer, gemm, form)
            if like is not None:
                yield (layer, gemm), requantize(master, like)
            else:
                yield (layer, gemm), quantize_layer_weight(owner, gemm, schemes[layer], master)

    def begin(self, schemes: Sequence[Scheme], norms: Mapping[int, Norm]) -> None:
        """Find how weights and biases follow from what the first run has handed over.

        Raises:
            PlanError: One does not; the message names its layer.
        """
        self.norms |= norms
        self.forms = _find_forms(self, schemes)
        for layer in self.handed_biases:
            start = self.bias_now(layer)
            if start is not None:
                self.bias_starts[layer] = start.detach().clone()

    def handed(self) -> Iterator[Tensor]:
        """Yield all that calls have handed over, normalisations' tensors with them."""
        yield from self.given.values()
        for norm in self.norms.values():
            found = (norm.mean, norm.variance, norm.gain, norm.shift)
            yield from (tensor for tensor in found if tensor is not None)
        yield from (bias for bias in self.handed_biases.values() if bias is not None)

    def bias_constant(self, program: Program, layer: int) -> tuple[str, Tensor]:
        """Return name and value of the bias of a recurrent layer in the graph."""
        names = {slot: name for name, slot in program.slots.items()}
        slot = program.find_layers()[layer][1].inputs[3]
        return names[slot], program.constants[slot]

    def _master(self, layer: int, gemm: int, form: Form) -> Tensor:
        made = form.make(self.given[layer, gemm])
        return made if form.offset is None else made + form.offset


def _find_forms(live: LiveWeights, schemes: Sequence[Scheme]) -> dict[Product, Form]:
    """Return how each weight follows from what a run has handed over.

    Raises:
        PlanError: One does not; the message names its layer.
    """
    forms = {}
    for (layer, gemm), given in live.given.items():
        owner = live.graph.layers[layer]
        plain = live.store.plain(layer, gemm)
        form = _find_form(given.detach(), plain, live.norms.get(layer), owner, gemm)
        if form is None:
            name = owner.gemms[gemm].right.source
            raise PlanError(
                f"the weight of {owner.fqn or owner.name!r} must follow from {name!r} by turning its axes or by a "
                "normalisation behind it for a trainable module, but it does not; take trainable=False"
            )
        like = live.store.changed(layer, gemm)
        own = live.store.source(layer, schemes[layer], gemm) if like is None else like.dequantize()
        offset = own.to(form.start) - form.start
        forms[layer, gemm] = replace(form, offset=offset if bool(offset.any()) else None)
    return forms


def stack_gates(
    op_type: str, weights: Sequence[Tensor], directions: int, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return W, R and B of an ONNX recurrence from torch's tensors of one of its layers."""
    each = 4 if has_bias else 2
    own = [weights[d * each : (d + 1) * each] for d in range(directions)]

    def gates(x: Tensor) -> Tensor:
        parts = x.chunk(len(_GATES[op_type]))
        return torch.cat([parts[gate] for gate in _GATES[op_type]])

    w, r = (torch.stack([gates(part[i]) for part in own]) for i in range(2))
    if not has_bias:
        return w, r, None
    return w, r, torch.stack([torch.cat([gates(part[2]), gates(part[3])]) for part in own])


def _find_form(
    given: Tensor, plain: Tensor, norm: Norm | None, layer: Layer, gemm: int
) -> Form | None:
    right, groups = layer.gemms[gemm].right, layer.gemms[gemm].groups
    axis = right.channel_axes[-1] if layer.op_type != "ConvTranspose" else 1
    shape = tuple(plain.shape)
    for order in permutations(range(given.ndim)):
        turned = given.permute(order)
        if turned.numel() != plain.numel() or not _agrees(tuple(turned.shape), shape):
            continue
        outer = groups if layer.op_type == "ConvTranspose" else 1
        form = Form(order, shape, norm, axis, outer, plain)
        made = form.make(given)
        if bool(((made - plain).abs() <= _SAME * plain.abs().max()).all()):
            return replace(form, start=made.detach().clone())
    return None


def _agrees(turned: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether two shapes are the same but for axes of one element."""
    return [size for size in turned if size != 1] == [size for size in shape if size != 1]


def _scale(weight: Tensor, factor: Tensor, form: Form) -> Tensor:
    if form.groups > 1:  # channels of ConvTranspose: (group, axis 1); axis 0 is (group, inputs)
        split = weight.reshape(form.groups, -1, *form.shape[1:])
        tail = (1,) * (weight.ndim - 2)
        return (split * factor.reshape(form.groups, 1, -1, *tail)).reshape(form.shape)
    shape = [1] * weight.ndim
    shape[form.axis] = -1
    return weight * factor.reshape(shape)
