"""What is trained of a plan: masters of weights, their scales, biases, norms' constants, steps of activations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import torch
from torch import Tensor

from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.numerics.requantize import requantize, snap_scales
from mpsearch.numerics.sparsity import choose_mask
from mpsearch.program.program import Program
from mpsearch.recovery.training.recipe import Recipe
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.changes import Changes, Product, output_channels

_NORMS = (
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Add",
    "Mul",
)
"""Operators whose constants along channels are trained: gains and shifts, whole or written out."""

State = dict[str, Tensor]
"""Names to tensors: all that a training changes."""


@dataclass(slots=True, eq=False)
class Master:
    """A weight that is trained, for all products that share it.

    Attributes:
        products: (layer, product) that multiply with it.
        like: How it is stored; its mask may be selected anew.
        learns_scales: Whether its scales are learned.
    """

    products: tuple[Product, ...]
    like: QuantizedTensor
    learns_scales: bool

    @property
    def name(self) -> str:
        """What its tensors are called."""
        return f"{self.products[0][0]}.{self.products[0][1]}"


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """The trained tensors of a model with a plan, by name.

    Attributes:
        masters: The weights.
        owners: (layer, product) to its master.
        tensors: ``master.`` fp32 weights, ``scale.`` logarithms of what scales are multiplied with, ``bias.`` of layers,
            ``constant.`` of the graph, ``step.`` logarithms of what steps are multiplied with.
        constants: Value name to slot of the constants.
        steps: Names of learned steps, by value and spec.
        recovered: Whether weights were changed before.
    """

    masters: tuple[Master, ...]
    owners: Mapping[Product, Master]
    tensors: State
    constants: Mapping[str, int]
    steps: Mapping[tuple[str, Spec], str]
    recovered: bool

    def scales(self, master: Master) -> Tensor | None:
        """Return the learned scales of a weight, in their format; None where they are not learned."""
        if not master.learns_scales:
            return None
        assert master.like.scales is not None
        return snap_scales(
            master.like.scales * self.tensors[f"scale.{master.name}"].exp(), master.like
        )

    def groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the optimizer's groups: each tensor's rate follows its own size, to half a power of two."""
        found: dict[tuple[float, float], list[Tensor]] = {}
        full = recipe.full_rate(recovered=self.recovered)
        pruned = {master.name for master in self.masters if master.like.sparsity is not None}
        for name, tensor in self.tensors.items():
            kind, _, of = name.partition(".")
            if not tensor.requires_grad:
                continue
            size = float(tensor.detach().square().mean().sqrt())
            rate = full * max(size, 1e-6)
            if kind in ("scale", "step"):
                rate = recipe.scale_rate
            elif kind == "bias":
                rate = full * self.bias_size(int(of))
            elif kind == "master" and of in pruned:
                rate = recipe.full_rate(recovered=self.recovered, sparse=True) * max(size, 1e-6)
            rounded = 2.0 ** (round(2 * log2(max(rate, 1e-12))) / 2)
            decay = recipe.decay if kind == "master" else 0.0
            found.setdefault((rounded, decay), []).append(tensor)
        return [
            {"params": tensors, "lr": rate, "full": rate, "weight_decay": decay}
            for (rate, decay), tensors in found.items()
        ]

    def bias_size(self, layer: int) -> float:
        """Return what a bias of a layer is measured by: the weight's root mean square times that of its fan-in."""
        master = self.owners.get((layer, 0))
        if master is None:
            return 1.0
        weight = self.tensors[f"master.{master.name}"].detach()
        fan_in = master.like.layout.positions * master.like.layout.channels
        return float(weight.square().mean().sqrt()) * fan_in**0.5

    def select_masks(self) -> None:
        """Choose the pruned elements of every sparse weight anew, by magnitude."""
        for master in self.masters:
            like = master.like
            if like.sparsity is None:
                continue
            rows = like.layout.to_rows(self.tensors[f"master.{master.name}"].detach())
            flat = rows.reshape(-1, like.layout.channels)
            mask = choose_mask(flat, like.sparsity, axis=1).reshape(rows.shape)
            master.like = replace(like, mask=mask)

    def snapshot(self) -> State:
        """Return copies of all tensors, masks of sparse weights with them."""
        copied = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        masks = {
            f"mask.{master.name}": master.like.mask.clone()
            for master in self.masters
            if master.like.mask is not None
        }
        return copied | masks

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Set all tensors to those of a :meth:`snapshot`."""
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])
        for master in self.masters:
            if master.like.mask is not None:
                master.like = replace(master.like, mask=state[f"mask.{master.name}"].clone())

    @torch.no_grad()
    def changes(self, calibrated: Calibrated) -> "Outcome":
        """Return what the tensors make of the model: all that is then changed, and ranges with learned steps."""
        before, ranges = calibrated.changes, calibrated.ranges
        weights = dict(before.weights)
        for master in self.masters:
            scales = self.scales(master)
            like = master.like if scales is None else replace(master.like, scales=scales)
            stored = requantize(self.tensors[f"master.{master.name}"], like)
            weights.update(dict.fromkeys(master.products, stored))
        biases = {i: b for i, b in before.biases.items() if f"bias.{i}" not in self.tensors}
        for name, tensor in self.tensors.items():
            if name.startswith("bias.") and bool(tensor.any()):
                biases[int(name.partition(".")[2])] = tensor.detach().clone()
        constants = dict(before.constants)
        for name, slot in self.constants.items():
            tensor = self.tensors[f"constant.{name}"].detach()
            if not torch.equal(tensor, calibrated.program.constants[slot]):
                constants[name] = tensor.cpu().numpy().copy()
        steps = {key: float(self.step(key, ranges[key]).detach()) for key in self.steps}
        learned = {key: replace(ranges[key], scale=scale) for key, scale in steps.items()}
        return Outcome(Changes(weights, biases, constants), {**ranges, **learned})

    def step(self, key: tuple[str, Spec], range: Range) -> Tensor:
        """Return the learned step in the place of that of ``range``, 0-d fp32."""
        return range.scale * self.tensors[self.steps[key]].exp()


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a training makes of a plan."""

    changes: Changes
    ranges: Mapping[tuple[str, Spec], Range]


def make_parameters(
    calibrated: Calibrated, schemes: Sequence[Scheme], recipe: Recipe
) -> Parameters:
    """Return the tensors to train, which make of the model what it is already.

    Args:
        calibrated: The model as the plan changes it.
        schemes: [L] scheme of each layer.
        recipe: Says what is learned.
    """
    graph, program, store = calibrated.graph, calibrated.program, calibrated.weights
    masters: dict[object, Master] = {}
    tensors: State = {}
    for layer, owner in enumerate(graph.layers):
        for gemm, product in enumerate(owner.gemms):
            if not product.has_weight or product.right.input_index < 0:
                continue
            right, scheme, changed = product.right, schemes[layer], store.changed(layer, gemm)
            own = layer if scheme.recovery != "none" else -1
            key: object = id(changed) if changed is not None else (
                right.value, right.reduction_axis, right.channel_axes, right.groups,
                scheme.weight, scheme.sparsity, own,
            )  # fmt: skip
            if key in masters:
                masters[key].products += ((layer, gemm),)
                continue
            like = store.quantized(layer, scheme, gemm)
            learns = (
                recipe.scales and like.scales is not None and scheme.weight.scale_format != "e8m0"
            )
            masters[key] = made = Master(((layer, gemm),), like, learns)
            start = store.source(layer, scheme, gemm) if changed is None else changed.dequantize()
            tensors[f"master.{made.name}"] = start.detach().float().clone()
            if learns:
                assert like.scales is not None
                tensors[f"scale.{made.name}"] = torch.zeros_like(like.scales)
        channels = output_channels(graph, layer)
        if channels is not None:
            bias = calibrated.changes.biases.get(layer)
            made_bias = torch.zeros(channels) if bias is None else bias.detach().float().clone()
            tensors[f"bias.{layer}"] = made_bias.to(program.device)
    constants = find_constants(program)
    for name, slot in constants.items():
        tensors[f"constant.{name}"] = program.constants[slot].detach().clone()
    steps: dict[tuple[str, Spec], str] = {}
    for (value, spec), range in calibrated.ranges.items():
        is_whole = spec.granularity == "tensor" and spec.symmetric and not spec.is_cast
        if recipe.ranges != "fixed" and is_whole and range.scale > 0 and value in program.slots:
            steps[value, spec] = name = f"step.{len(steps)}"
            tensors[name] = torch.zeros((), device=program.device)
    estimated = _estimated(program)
    for name, tensor in tensors.items():
        tensor.requires_grad_(name.removeprefix("constant.") not in estimated)
    owners = {at: master for master in masters.values() for at in master.products}
    recovered = bool(calibrated.changes.weights)
    return Parameters(tuple(masters.values()), owners, tensors, constants, steps, recovered)


def find_constants(program: Program) -> dict[str, int]:
    """Return value name to slot of the gains and shifts along channels that nodes outside the layers read."""
    names = {slot: name for name, slot in program.slots.items()}
    by_layers = {slot for step in program.steps if step.layers() for slot in step.inputs}
    found = {}
    for step in program.steps:
        if step.layer >= 0 or step.bodies or step.node.op_type not in _NORMS or not step.native:
            continue
        inputs = step.inputs if step.node.op_type == "BatchNormalization" else step.inputs[:3]
        for slot in inputs:
            if slot < 0 or slot not in program.constants or slot in by_layers:
                continue
            tensor = program.constants[slot]
            if tensor.dtype == torch.float32 and 1 < tensor.numel() == max(tensor.shape):
                found[names[slot]] = slot
    return found


def _estimated(program: Program) -> set[str]:
    """Names of means and variances, which are estimated, not trained."""
    names = {slot: name for name, slot in program.slots.items()}
    norms = (step for step in program.steps if step.node.op_type == "BatchNormalization")
    return {names[slot] for step in norms for slot in step.inputs[3:5]}
