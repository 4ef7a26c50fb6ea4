"""The model under any assignment of schemes: losses per sample, gradients, single layers."""

import os
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import mpsearch
from mpsearch.data import Batches, check_batches
from mpsearch.errors import DataError, NumericsError, SpaceError
from mpsearch.execute.anchors import Anchor, choose_slots, schedule_cost, step_costs
from mpsearch.execute.calibration import (
    activation_inputs,
    calibrate,
    find_overflows,
)
from mpsearch.execute.heads import Head, choose_heads, find_mask, read_heads
from mpsearch.execute.layers import SchemeRun
from mpsearch.execute.losses import (
    Target,
    absolute_losses,
    accuracies,
    loss_unit,
    sample_losses,
)
from mpsearch.execute.mixture import MixtureRun
from mpsearch.execute.program import (
    LayerCall,
    Schedule,
    Step,
    Values,
    compile_graph,
    make_schedule,
    run_schedule,
)
from mpsearch.execute.tensors import to_tensor
from mpsearch.execute.weights import WeightStore
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.ranges import Range, make_range
from mpsearch.schemes import Spec
from mpsearch.space import SearchSpace, allowed, tie_groups
from mpsearch.tables import Bools, Estimate, Floats, Ints

EVALUATION_VERSION = 1
"""Raised whenever the same assignment would get another loss than before."""

_DEFAULT_BYTES = 4 * 2**30
_WEIGHT_SHARE, _ANCHOR_SHARE = 0.25, 0.5
_WORTH_AN_ANCHOR = 0.9  # of a full run: what a schedule that starts from one must stay below


class Simulator:
    """Runs a model with every layer in a scheme of its own, and says what that costs in accuracy.

    The fp32 program runs once over the data: its outputs are what losses are compared with, and its
    activations give the static ranges. Losses are kept per sample; an assignment is evaluated once.

    Attributes:
        graph: The model, its groups tied as the space says.
        space: The schemes that may be chosen.
        batches: The data.
        groups: [G] names of the decision variables.
        allowed: [G, S]; False: the space forbids it, or it overflows on the data.
        reasons: (group, scheme) names to why it is not allowed.
        ranges: (value name, activation spec) to the calibrated range, for static specs.
        loss_kind: ``kl``, ``nll`` or ``mse``.
        unit: Unit of the loss.
        n_samples: Samples of the data.
        seed: What random choices of users of this object start from.
        device: Where it runs.
        fingerprint: What computed the losses; those of different ones are not mixed.
    """

    def __init__(
        self,
        graph: ModelGraph,
        space: SearchSpace,
        batches: Batches,
        *,
        loss: str | None = None,
        seed: int = 0,
        device: str = "auto",
        max_memory: int | None = None,
    ) -> None:
        """Compile the graph, calibrate it, and find what overflows.

        Args:
            graph: The model.
            space: The schemes that may be chosen.
            batches: Calibration data; with labels the loss is the increase of their negative
                log-likelihood.
            loss: ``kl``, ``nll`` or ``mse``, with ``:OUTPUT,OUTPUT`` behind it to choose outputs; None reads
                it from graph and data.
            seed: Kept for those who draw random numbers.
            device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``.
            max_memory: Bytes for simulated weights and kept activations; None: a third of what is free.

        Raises:
            DataError: The data do not fit the model, or the loss does not fit both.
            NumericsError: The fp32 model is not finite on the data, or the base format overflows.
            UnsupportedOperatorError: The graph holds operators that cannot be executed.
        """
        check_batches(batches, graph)
        self.graph = tie_groups(graph, space) if space.ties else graph
        self.space, self.batches, self.seed = space, batches, seed
        self.groups = tuple(group.name for group in self.graph.groups)
        self.n_samples = len(batches)
        self.device = _find_device(device)
        self._program = compile_graph(self.graph, self.device)
        self._layer_steps = self._program.find_layers()
        self._max_memory = max_memory if max_memory is not None else _default_memory()
        heads = read_heads(self.graph)
        self._heads, self.loss_kind = choose_heads(heads, loss, batches, graph)
        self.unit = loss_unit(self.loss_kind, self._heads)
        self._slots = [self._program.slots[head.value] for head in self._heads]
        self._full = make_schedule(self._program, self._slots)
        self._starts = list(range(0, self.n_samples, batches.batch_size))
        self._calibration = calibrate(
            self.graph,
            self._program,
            (self._feed(b) for b in range(len(self._starts))),
            [head.value for head in self._heads],
        )
        self._heads = tuple(map(self._with_batch_axis, self._heads, range(len(self._heads))))
        self._targets = self._make_targets()
        self.ranges = self._make_ranges()
        limit = int(self._max_memory * _WEIGHT_SHARE)
        self._weights = WeightStore(self.graph, self._program, limit)
        self._base = space.schemes[space.index(space.base)]
        self.allowed, self.reasons = self._find_allowed()
        self._base_schemes = (space.index(space.base),) * len(self.graph.layers)
        self._costs = step_costs(self._program, self.graph, self._calibration.slot_bytes)
        budget = self._max_memory * _ANCHOR_SHARE / len(self._starts)
        sizes = self._calibration.slot_bytes
        kept = choose_slots(self._program, self._full, sizes, self._costs, budget)
        self._anchor = Anchor(self._base_schemes, kept)
        self._losses: dict[tuple[int, ...], dict[int, Floats]] = {}
        self._schedules: dict[tuple[int, ...], Schedule] = {}
        self._batches_run = 0
        self.fingerprint: dict[str, str | int] = {
            "mpsearch": mpsearch.__version__,
            "evaluation": EVALUATION_VERSION,
            "torch": str(torch.__version__),
            "device": _describe(self.device),
            "threads": torch.get_num_threads(),
            "batch_size": batches.batch_size,
        }

    @property
    def evaluations(self) -> int:
        """Whole-plan evaluations so far; evaluations of some batches count as their share."""
        return ceil(self._batches_run / len(self._starts))

    @property
    def n_outputs_without_gradient(self) -> int:
        """Nodes that onnxruntime computes: no gradient passes them."""
        return len(self._program.fallbacks())

    # ---- whole assignments -------------------------------------------------------------------

    def run(
        self, inputs: Mapping[str, NDArray[np.generic] | Tensor], assignment: Ints | None = None
    ) -> dict[str, Tensor]:
        """Return the model's outputs on ``inputs`` (any batch size); None is the fp32 program.

        Raises:
            DataError: An input is missing or unknown.
            NumericsError: An output is not finite; the message names the first layer that is not.
        """
        wanted = [self._program.slots[name] for name in self._program.outputs]
        schedule = make_schedule(self._program, wanted)
        schemes = None if assignment is None else self._layer_schemes(assignment)
        with torch.inference_mode():
            values = self._execute(schedule, self._tensors(inputs), schemes)
        outputs = {}
        for name, slot in zip(self._program.outputs, wanted, strict=True):
            tensor = values[slot]
            if tensor is not None:
                outputs[name] = tensor
        return outputs

    def losses(self, assignment: Ints) -> Floats:
        """Return the [n] losses of the samples under ``assignment`` [G], in the order of the data.

        Raises:
            SpaceError: The assignment has another length, or takes what is not allowed.
            NumericsError: An output is not finite; the message names the first layer that is not.
        """
        schemes = self._layer_schemes(assignment)
        return np.concatenate([self._batch_losses(schemes, b) for b in range(len(self._starts))])

    def loss(self, assignment: Ints) -> Estimate:
        """Return the mean loss of ``assignment`` [G] with its standard error."""
        return _estimate(self.losses(assignment))

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Return the mean loss of each of ``assignments`` [P, G].

        ``fraction`` of the batches are used, spread evenly and always the same ones.
        """
        if not 0 < fraction <= 1:
            raise SpaceError(f"`0 < fraction <= 1` must hold, got {fraction}")
        count = max(1, ceil(fraction * len(self._starts) - 1e-9))
        chosen = np.unique(np.linspace(0, len(self._starts) - 1, count).round().astype(int))
        results = []
        for assignment in np.atleast_2d(np.asarray(assignments)):
            schemes = self._layer_schemes(assignment)
            parts = [self._batch_losses(schemes, int(b)) for b in chosen]
            results.append(_estimate(np.concatenate(parts)))
        return results

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        """Return the mean loss of the mixture, and its gradient with respect to ``probabilities`` [G, S].

        Each group's weights and activations are mixed over the schemes that it may take; roundings
        pass gradients straight through. What is not allowed takes no part: its gradient is 0.
        """
        given = np.asarray(probabilities, np.float64)
        if given.shape != self.allowed.shape:
            raise SpaceError(
                f"probabilities must have shape {self.allowed.shape}, got {given.shape}"
            )
        p = torch.tensor(given, device=self.device, requires_grad=True)
        mixture = [
            [(int(s), p[g, s]) for s in np.flatnonzero(self.allowed[g])]
            for g in range(len(self.groups))
        ]
        total: list[Floats] = []
        for b, target in enumerate(self._targets):
            run = MixtureRun(
                self.graph, self.space.schemes, self._base, self.ranges, self._weights, mixture
            )
            values = self._program.make_values()
            for name, tensor in self._feed(b).items():
                values[self._program.slots[name]] = tensor
            run_schedule(self._full, values, call=run)
            heads = self._head_values(values)
            losses = sample_losses(self.loss_kind, self._heads, heads, target)
            if not bool(torch.isfinite(losses).all()):
                raise NumericsError("the mixture's loss must be finite, but it is not")
            if losses.requires_grad:
                (losses.sum() / self.n_samples).backward()
            total.append(losses.detach().cpu().numpy())
            self._batches_run += 1
        gradient = np.zeros_like(given) if p.grad is None else p.grad.cpu().numpy()
        return _estimate(np.concatenate(total)), gradient

    def reference_losses(self) -> Floats:
        """Return the [n] losses of the fp32 model against the labels: nats, or relative squared error.

        Raises:
            DataError: The data hold no labels.
        """
        parts = [absolute_losses(self._heads, t.reference, t) for t in self._targets]
        return torch.cat(parts).cpu().numpy()

    def scores(self, assignment: Ints | None) -> dict[str, Floats]:
        """Return ``nll`` [n] and, for classes, ``accuracy`` [n] against the labels; None is fp32.

        Raises:
            DataError: The data hold no labels.
        """
        schemes = None if assignment is None else self._layer_schemes(assignment)
        nll, right = [], []
        for b, target in enumerate(self._targets):
            values = target.reference
            if schemes is not None:
                with torch.inference_mode():
                    values = self._head_values(self._execute(self._full, self._feed(b), schemes))
            nll.append(absolute_losses(self._heads, values, target))
            if not self._heads[0].is_number:
                right.append(accuracies(self._heads, values, target))
        found = {"nll": torch.cat(nll).cpu().numpy()}
        if right:
            found["accuracy"] = torch.cat(right).cpu().numpy()
        return found

    # ---- single layers -----------------------------------------------------------------------

    def weight(self, layer_index: int, scheme_index: int, gemm_index: int = 0) -> Tensor:
        """Return the simulated weight of a layer in a scheme, shaped as the node reads it."""
        return self._weights.simulated(layer_index, self.space.schemes[scheme_index], gemm_index)

    def operand_weight(self, layer_index: int, gemm_index: int = 0) -> Tensor:
        """Return the fp32 weight of a layer, shaped as the node reads it."""
        return self._weights.plain(layer_index, gemm_index)

    def capture(
        self,
        layer_indices: Sequence[int],
        batch: Mapping[str, NDArray[np.generic]],
        assignment: Ints | None = None,
    ) -> dict[str, Tensor]:
        """Return value name to tensor of what some layers read and produce, in one run on ``batch``.

        A layer inside a loop gives its last run. None is the fp32 program.
        """
        wanted, found = set(layer_indices), dict[str, Tensor]()
        schemes = None if assignment is None else self._layer_schemes(assignment)
        run = None if schemes is None else self._scheme_run(schemes, self._program.steps)

        def call(step: Step, inputs: list[Tensor | None]) -> object:
            layer = self.graph.layers[step.layer]
            before = list(inputs)
            result = step.kernel(*inputs) if run is None else run(step, inputs)
            if step.layer in wanted:
                for index, (value, _, _) in activation_inputs(layer).items():
                    tensor = before[index]
                    if tensor is not None:
                        found[value] = tensor
                first = result[0] if isinstance(result, tuple) else result
                if isinstance(first, Tensor):
                    found[layer.output] = first
            return result

        outer = [step for step in self._program.steps if not wanted.isdisjoint(step.layers())]
        slots = [slot for step in outer for slot in step.outputs if slot >= 0]
        schedule = make_schedule(self._program, slots)
        values = self._program.make_values()
        for name, tensor in self._tensors(batch).items():
            values[self._program.slots[name]] = tensor
        with torch.no_grad():
            run_schedule(schedule, values, call=call)
        return found

    def replay(
        self, layer_index: int, scheme_index: int | None, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the output of one layer alone, in a scheme (None: fp32), on given tensors.

        Args:
            layer_index: The layer.
            scheme_index: The scheme that it runs in.
            inputs: Value name to tensor of all that its node reads; constants may be left out.

        Raises:
            DataError: An input is missing.
        """
        program, step = self._layer_steps[layer_index]
        names = {slot: name for name, slot in program.slots.items()}
        tensors: list[Tensor | None] = []
        for slot in step.inputs:
            if slot < 0:
                tensors.append(None)
            elif names[slot] in inputs:
                tensors.append(inputs[names[slot]])
            elif slot in program.constants:
                tensors.append(program.constants[slot])
            else:
                raise DataError(
                    f"layer {self.graph.layers[layer_index].name!r} reads {names[slot]!r}, which must be "
                    f"among the inputs; got {', '.join(inputs)}"
                )
        with torch.no_grad():
            if scheme_index is None:
                result = step.kernel(*tensors)
            else:
                schemes = [scheme_index] * len(self.graph.layers)
                result = self._scheme_run(schemes, [step])(step, tensors)
        first = result[0] if isinstance(result, tuple) else result
        if not isinstance(first, Tensor):
            raise DataError(f"layer {self.graph.layers[layer_index].name!r} gives no tensor")
        return first

    # ---- inside ------------------------------------------------------------------------------

    def _layer_schemes(self, assignment: Ints) -> tuple[int, ...]:
        """Return the scheme index of each layer.

        Raises:
            SpaceError: The assignment has another length, or takes what is not allowed.
        """
        chosen = np.asarray(assignment)
        if chosen.shape != (len(self.groups),) or chosen.dtype.kind not in "iu":
            raise SpaceError(
                f"an assignment must hold one scheme index for each of {len(self.groups)} groups, "
                f"got {chosen.dtype} of shape {chosen.shape}"
            )
        if chosen.min(initial=0) < 0 or chosen.max(initial=0) >= len(self.space.schemes):
            raise SpaceError(
                f"scheme indices must be within [0, {len(self.space.schemes)}), got {chosen.tolist()}"
            )
        bad = np.flatnonzero(~self.allowed[np.arange(len(chosen)), chosen])
        if len(bad):
            group, scheme = self.groups[bad[0]], self.space.names[chosen[bad[0]]]
            why = self.reasons.get((group, scheme), "the space forbids it")
            raise SpaceError(f"group {group!r} may not take {scheme}: {why}")
        schemes = [0] * len(self.graph.layers)
        for g, group_value in enumerate(self.graph.groups):
            for layer in group_value.layers:
                schemes[layer] = int(chosen[g])
        return tuple(schemes)

    def _batch_losses(self, schemes: tuple[int, ...], b: int) -> Floats:
        """Losses of batch ``b``, computed once."""
        known = self._losses.setdefault(schemes, {})
        if b not in known:
            with torch.inference_mode():
                values = self._head_values(self._execute_from_anchor(schemes, b))
                target = self._targets[b]
                losses = sample_losses(self.loss_kind, self._heads, values, target)
            known[b] = losses.cpu().numpy()
            self._batches_run += 1
        return known[b]

    def _execute_from_anchor(self, schemes: tuple[int, ...], b: int) -> Values:
        if schemes == self._anchor.schemes:
            return self._fill_anchor(b)
        if schemes not in self._schedules:
            self._schedules = {schemes: self._plan(schemes)}
        schedule = self._schedules[schemes]
        values = self._program.make_values()
        if schedule is not self._full:
            if b not in self._anchor.values:
                self._batch_losses(self._anchor.schemes, b)
                self._fill_anchor(b)
            for slot in schedule.loads:
                values[slot] = self._anchor.values[b].get(slot)
        return self._execute(schedule, self._feed(b), schemes, values)

    def _plan(self, schemes: tuple[int, ...]) -> Schedule:
        """What must run when ``schemes`` replace the anchor's, if that is worth it."""
        partial = make_schedule(
            self._program,
            self._slots,
            changed=self._anchor.changed(self._program, schemes),
            stored=self._anchor.slots,
        )
        whole = schedule_cost(self._full, self._costs)
        worth = schedule_cost(partial, self._costs) <= _WORTH_AN_ANCHOR * whole
        return partial if worth else self._full

    def _fill_anchor(self, b: int) -> Values:
        """Run the anchor's assignment on batch ``b`` and keep its values."""
        kept = self._anchor.slots
        schedule = make_schedule(self._program, [*self._slots, *kept])
        values = self._execute(schedule, self._feed(b), self._anchor.schemes)
        self._anchor.values[b] = {
            slot: tensor for slot in kept if (tensor := values[slot]) is not None
        }
        return values

    def _scheme_run(self, schemes: Sequence[int], steps: Sequence[Step]) -> SchemeRun:
        return SchemeRun(
            self.graph,
            [self.space.schemes[s] for s in schemes],
            self._base,
            self.ranges,
            self._weights,
            [step.layer for step in steps if step.layer >= 0],
        )

    def _execute(
        self,
        schedule: Schedule,
        feed: Mapping[str, Tensor],
        schemes: Sequence[int] | None,
        values: Values | None = None,
    ) -> Values:
        values = self._program.make_values() if values is None else values
        for name, tensor in feed.items():
            values[self._program.slots[name]] = tensor
        call: LayerCall | None = None
        if schemes is not None:
            call = self._scheme_run(schemes, schedule.steps)
        run_schedule(schedule, values, call=call)
        for slot in schedule.wanted & set(self._slots):
            found = values[slot]
            if found is not None and not bool(torch.isfinite(found).all()):
                raise self._locate(feed, schemes)
        return values

    def _locate(self, feed: Mapping[str, Tensor], schemes: Sequence[int] | None) -> NumericsError:
        """Run again to find the first node whose output is not finite."""
        first: list[str] = []

        def watch(step: Step, values: Values) -> None:
            for slot in step.outputs:
                x = values[slot] if slot >= 0 else None
                if first or x is None or not x.is_floating_point():
                    continue
                if not bool(torch.isfinite(x).all()):
                    kind = "layer" if step.layers() else "node"
                    first.append(f"{kind} {step.node.name!r} ({step.node.op_type})")

        values = self._program.make_values()
        for name, tensor in feed.items():
            values[self._program.slots[name]] = tensor
        call = None if schemes is None else self._scheme_run(schemes, self._full.steps)
        run_schedule(self._full, values, call=call, watch=watch)
        where = first[0] if first else "the outputs"
        return NumericsError(f"outputs must be finite, but {where} is the first to hold NaN or Inf")

    def _head_values(self, values: Values) -> tuple[Tensor, ...]:
        found = tuple(values[slot] for slot in self._slots)
        return tuple(tensor for tensor in found if tensor is not None)

    def _feed(self, b: int) -> dict[str, Tensor]:
        rows = slice(self._starts[b], self._starts[b] + self.batches.batch_size)
        return {
            name: to_tensor(array[rows], self.device) for name, array in self.batches.arrays.items()
        }

    def _tensors(self, inputs: Mapping[str, NDArray[np.generic] | Tensor]) -> dict[str, Tensor]:
        known = [value.name for value in self.graph.inputs]
        if sorted(inputs) != sorted(known):
            raise DataError(f"inputs must be {', '.join(known)}; got {', '.join(inputs)}")
        return {
            name: x.to(self.device) if isinstance(x, Tensor) else to_tensor(x, self.device)
            for name, x in inputs.items()
        }

    def _with_batch_axis(self, head: Head, index: int) -> Head:
        """Find the axis of the samples: the first of their number, a free one if two have it."""
        rows = min(self.batches.batch_size, self.n_samples)
        shape = self._calibration.references[0][index].shape
        axes = [axis for axis, size in enumerate(shape) if size == rows]
        value = self.graph.values.get(head.value)
        if len(axes) > 1 and value is not None and value.shape is not None:
            axes = [a for a in axes if value.shape[a] is None] or axes
        if not axes:
            raise DataError(
                f"an axis of output {head.output!r} must run over the {rows} samples of a batch, "
                f"but its shape is {list(shape)}"
            )
        return Head(head.output, head.value, head.meaning, head.axis, axes[0])

    def _make_targets(self) -> list[Target]:
        references = self._calibration.references
        powers = []
        for h in range(len(self._heads)):
            squares = sum(float(r[h].double().square().sum()) for r in references)
            powers.append(squares / max(sum(r[h].numel() for r in references), 1))
        mask_name = find_mask(self.graph, self.batches)
        targets = []
        for start, reference in zip(self._starts, references, strict=True):
            rows = slice(start, start + self.batches.batch_size)
            labels = self.batches.labels
            mask = None if mask_name is None else self.batches.arrays[mask_name][rows]
            targets.append(
                Target(
                    reference,
                    None if labels is None else to_tensor(labels[rows], self.device),
                    None if mask is None else to_tensor(mask.astype(bool), self.device),
                    tuple(powers),
                )
            )
        if self.loss_kind == "nll":
            absolute_losses(self._heads, targets[0].reference, targets[0])  # labels that do not fit
        return targets

    def _make_ranges(self) -> dict[tuple[str, Spec], Range]:
        """Ranges of all activations for all static specs of the space.

        Operands inside an operator (name "") are hidden states and attention's probabilities, which
        never leave [-1, 1].
        """
        specs = {s.activation for s in self.space.schemes}
        specs = {s for s in specs if not s.is_cast and s.range == "static"}
        ranges = {("", spec): make_range(-1.0, 1.0, spec) for spec in specs}
        for layer in self.graph.layers:
            for value, _, _ in activation_inputs(layer).values():
                for spec in specs:
                    if (value, spec) not in ranges:
                        ranges[value, spec] = self._calibration.observers[value].finish(spec)
        return ranges

    def _find_allowed(self) -> tuple[Bools, dict[tuple[str, str], str]]:
        mask, reasons = allowed(self.space, self.graph)
        amax = []
        for index, layer in enumerate(self.graph.layers):
            gemms = [i for i, gemm in enumerate(layer.gemms) if gemm.has_weight]
            peaks = [float(self._weights.plain(index, i).abs().amax()) for i in gemms]
            amax.append(max(peaks, default=0.0))
        overflows = find_overflows(
            self.graph, self._calibration, amax, self.space.schemes, self.space.base
        )
        for (group, scheme), reason in overflows.items():
            mask[self.groups.index(group), self.space.index(scheme)] = False
            reasons.setdefault((group, scheme), reason)
        return mask, reasons


def _estimate(losses: Floats) -> Estimate:
    """Mean and its standard error; of one sample the error is the mean itself."""
    n = len(losses)
    mean = float(losses.mean())
    return Estimate(mean, float(losses.std(ddof=1) / n**0.5) if n > 1 else abs(mean))


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DataError(f"device must be auto, cpu or cuda; got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"device {name!r} must exist, but torch finds no CUDA here; use cpu")
    return device


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _default_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 3
    except (ValueError, OSError):
        return _DEFAULT_BYTES
