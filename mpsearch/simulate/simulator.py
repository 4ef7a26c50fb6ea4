"""The model under any assignment of schemes: losses per sample, gradients, single layers."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch._version import __version__
from mpsearch.data.batches import Batches, check_batches
from mpsearch.errors import DataError, NumericsError, SpaceError, check_argument
from mpsearch.graph.model import ModelGraph
from mpsearch.losses.losses import (
    Target,
    absolute_losses,
    accuracies,
    loss_unit,
    sample_losses,
    worst_slice,
)
from mpsearch.losses.outputs import LABELLED, choose_heads, find_mask, parse_loss, read_heads
from mpsearch.losses.references import find_batch_axes, make_targets
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.program.compile import compile_graph
from mpsearch.program.memory_of_machine import describe_device, find_device, keep_freed_blocks
from mpsearch.program.program import Program, Step
from mpsearch.program.schedule import make_schedule
from mpsearch.program.tensors import to_tensor
from mpsearch.recovery.gram import Recovery, refuse_recovery
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.calibration import Calibration, calibrate, find_overflows, make_ranges
from mpsearch.simulate.lost_gradients import find_lost, warn_lost
from mpsearch.simulate.memory_budget import make_budget
from mpsearch.simulate.probe import capture_values, replay_layer
from mpsearch.simulate.runner import Runner
from mpsearch.simulate.scheme_run import Ranges
from mpsearch.simulate.weight_cache import WeightStore
from mpsearch.space.allowed import allowed, tie_groups
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Bools, Estimate, Floats, Ints, estimate_mean

EVALUATION_VERSION = 2
"""Raised whenever the same assignment would get another loss than before."""


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
        loss_kind: ``kl``, ``nll``, ``mse``, ``ctc``, ``ctc_last`` or ``quality``.
        loss_given: The loss as it was asked for, None where it was not.
        unit: Unit of the loss.
        n_samples: Samples of the data.
        n_batches: Batches of the data; the last one may be short.
        program: The compiled fp32 model.
        heads: What of the outputs the loss reads.
        targets: [n_batches] What each batch's heads are compared with.
        seed: What random choices of users of this object start from.
        device: Where it runs.
        max_memory: Bytes of anonymous memory that the process may hold, None where nobody said.
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
        ranges: Ranges | None = None,
        calibrated: "Simulator | None" = None,
    ) -> None:
        """Compile the graph, calibrate it, and find what overflows.

        Args:
            graph: The model.
            space: The schemes that may be chosen.
            batches: Calibration data; with labels the loss is the increase of their negative
                log-likelihood.
            loss: ``kl``, ``nll``, ``mse``, ``ctc`` or ``ctc_last``, with ``:worst_slice`` behind it for the mean of the
                slice that fares worst, ``:OUTPUT,OUTPUT`` to choose outputs; ``quality:accuracy`` or
                ``quality:module:function`` for a measure of the user's own, whose drop is the loss.
                None reads it from graph and data.
            seed: Kept for those who draw random numbers.
            device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``.
            max_memory: Bytes of anonymous memory that the process may hold. Weights stay mapped from the
                file, and are quantised for each use beyond what fits; kept activations share
                what is left. None: a third of what is free, at most 2 GiB, for these.
            ranges: Activation ranges to use instead of those of the data, as a plan holds them.
            calibrated: A simulator of the same graph and space whose ranges, weights and allowed schemes
                are kept: for data that must not calibrate anything (see :meth:`on_data`).

        Raises:
            DataError: The data do not fit the model, or the loss does not fit both.
            NumericsError: The fp32 model is not finite on the data, or the base format overflows.
            UnsupportedOperatorError: The graph holds operators that cannot be executed.
        """
        check_argument("graph", graph, ModelGraph, "as import_onnx returns it")
        check_argument("space", space, SearchSpace, "as read_space returns it")
        check_argument("batches", batches, Batches, "as read_batches returns them")
        batches = check_batches(batches, graph)
        self.graph = graph = tie_groups(graph, space) if space.ties else graph
        self.space, self.batches, self.seed, self.loss_given = space, batches, seed, loss
        self.groups = tuple(group.name for group in graph.groups)
        self.n_samples = len(batches)
        self.device = find_device(device)
        self.max_memory, budget = max_memory, make_budget(max_memory)
        keep_freed_blocks(budget.freed)
        self.program = compile_graph(graph, self.device, max_held=budget.held)
        self._layer_steps = self.program.find_layers()
        heads, self.loss_kind = choose_heads(read_heads(graph), loss, batches, graph)
        choice = parse_loss(loss)
        self._slices = batches.slice if choice.worst_slice else None
        self.unit = loss_unit(choice, self.loss_kind, heads)
        self.n_batches = ceil(self.n_samples / batches.batch_size)
        names = [head.value for head in heads]
        calibration = calibrate(graph, self.program, self._feeds(), names)
        rows = min(batches.batch_size, self.n_samples)
        self.heads = find_batch_axes(graph, heads, calibration.references[0], rows)
        powers = None if calibrated is None else calibrated.targets[0].powers
        self.targets: list[Target] = make_targets(
            graph, batches, calibration.references, self.device, self.heads, choice, powers
        )
        if self.loss_kind in LABELLED:  # labels that do not fit are said here, before anything runs
            self.reference_losses()
        self._slots = [self.program.slots[head.value] for head in self.heads]
        self._to_outputs = make_schedule(
            self.program, [self.program.slots[name] for name in self.program.outputs]
        )
        schedule = make_schedule(self.program, self._slots)
        shares = budget.share(
            graph,
            self.program,
            schedule,
            calibration.slot_bytes,
            batch_size=rows,
            recovers=any(scheme.recovery != "none" for scheme in space.schemes),
        )
        if calibrated is None:
            if ranges is None:
                ranges = make_ranges(graph, calibration, space.schemes)
            self._weights = WeightStore(graph, self.program, shares.weights)
            self._weights.recover = Recovery(
                graph,
                self.program,
                self._feeds,
                limit=shares.grams,
                mask=find_mask(graph, batches),
            )
            self.allowed, self.reasons = self._find_allowed(calibration)
        else:
            ranges, self._weights = calibrated.ranges, calibrated._weights
            self.allowed, self.reasons = calibrated.allowed, calibrated.reasons
        self._runner = Runner(
            graph,
            self.program,
            space.schemes,
            space.index(space.base),
            ranges,
            self._weights,
            self._slots,
            calibration.slot_bytes,
            shares.values / self.n_batches,
        )
        self._losses: dict[tuple[int, ...], dict[int, Floats]] = {}
        self._batches_run = 0
        self.fingerprint: dict[str, str | int] = {
            "mpsearch": __version__,
            "evaluation": EVALUATION_VERSION,
            "torch": str(torch.__version__),
            "device": describe_device(self.device),
            "threads": torch.get_num_threads(),
            "batch_size": batches.batch_size,
        }

    @property
    def ranges(self) -> Ranges:
        """(value name, activation spec) to the calibrated range, for the static specs of the space."""
        return self._runner.ranges

    def on_data(self, batches: Batches) -> "Simulator":
        """Return a simulator on other data that keeps all that this one was calibrated to.

        Raises:
            DataError: The data do not fit the model or the loss.
        """
        return Simulator(
            self.graph,
            self.space,
            batches,
            loss=self.loss_given,
            seed=self.seed,
            device=str(self.device),
            max_memory=self.max_memory,
            calibrated=self,
        )

    @property
    def evaluations(self) -> int:
        """Whole-plan evaluations so far; evaluations of some batches count as their share."""
        return ceil(self._batches_run / self.n_batches)

    @property
    def executed_flops(self) -> float:
        """Operations that layers have run so far: kept values save theirs."""
        return self._runner.flops

    def layers_without_gradient(self) -> tuple[int, ...]:
        """Return the layers whose gradient a node that torch does not compute cuts off, at least in part."""
        return find_lost(self.program, self._slots)[0]

    def warn_lost_gradients(self) -> None:
        """Warn with the names of the layers whose gradient is lost, if there are any."""
        warn_lost(self.graph, self.program, self._slots)

    # ---- whole assignments -------------------------------------------------------------------

    def run(
        self, inputs: Mapping[str, NDArray[np.generic] | Tensor], assignment: Ints | None = None
    ) -> dict[str, Tensor]:
        """Return the model's outputs on ``inputs`` (any batch size); None is the fp32 program.

        Raises:
            DataError: An input is missing or unknown.
            NumericsError: An output is not finite; the message names the first layer that is not.
        """
        wanted = [self.program.slots[name] for name in self.program.outputs]
        schemes = None if assignment is None else self._layer_schemes(assignment)
        with torch.inference_mode():
            values = self._runner.run(
                self._tensors(inputs), schemes, schedule=self._to_outputs, check=wanted
            )
        outputs = {}
        for name, slot in zip(self.program.outputs, wanted, strict=True):
            tensor = values[slot]
            if tensor is not None:
                outputs[name] = tensor
        return outputs

    def losses(self, assignment: Ints, batches: Sequence[int] | None = None) -> Floats:
        """Return the [n] losses of the samples under ``assignment`` [G], in the order of the data.

        Args:
            assignment: Scheme index of each group.
            batches: Numbers of the batches to run; None runs all.

        Raises:
            SpaceError: The assignment has another length, or takes what is not allowed.
            NumericsError: An output is not finite; the message names the first layer that is not.
        """
        schemes = self._layer_schemes(assignment)
        chosen = range(self.n_batches) if batches is None else batches
        return np.concatenate([self._batch_losses(schemes, b) for b in chosen])

    def loss(self, assignment: Ints) -> Estimate:
        """Return the mean loss of ``assignment`` [G] with its standard error."""
        return self.estimate(self.losses(assignment))

    def estimate(self, losses: Floats, batches: Sequence[int] | None = None) -> Estimate:
        """Return the mean of losses of some batches (None: the first samples), or their worst slice's."""
        if self._slices is None:
            return estimate_mean(losses)
        rows = np.arange(self.n_samples) // self.batches.batch_size
        slices = self._slices if batches is None else self._slices[np.isin(rows, batches)]
        return worst_slice(losses, slices[: len(losses)])[0]

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Return the mean loss of each of ``assignments`` [P, G].

        ``fraction`` of the batches are used, spread evenly and always the same ones.
        """
        if not 0 < fraction <= 1:
            raise SpaceError(f"`0 < fraction <= 1` must hold, got {fraction}")
        count = max(1, ceil(fraction * self.n_batches - 1e-9))
        chosen = np.unique(np.linspace(0, self.n_batches - 1, count).round().astype(int))
        batches = chosen.tolist()
        return [
            self.estimate(self.losses(assignment, batches), batches)
            for assignment in np.atleast_2d(np.asarray(assignments))
        ]

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        """Return the mean loss of the mixture, and its gradient with respect to ``probabilities`` [G, S].

        Each group's weights and activations are mixed over the schemes that it may take; roundings
        pass gradients straight through. What is not allowed takes no part: its gradient is 0.
        """
        if self.loss_kind == "quality":
            raise DataError("a quality has no gradient; take a loss such as kl for this")
        self.warn_lost_gradients()
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
        total = list[Floats]()
        for b, target in enumerate(self.targets):
            heads = self._runner.heads(self._runner.run_mixture(self.feed(b), mixture))
            losses = sample_losses(self.loss_kind, self.heads, heads, target)
            if not bool(torch.isfinite(losses).all()):
                raise NumericsError("the mixture's loss must be finite, but it is not")
            if losses.requires_grad:
                (losses.sum() / self.n_samples).backward()
            total.append(losses.detach().cpu().numpy())
            self._batches_run += 1
        gradient = np.zeros_like(given) if p.grad is None else p.grad.cpu().numpy()
        return self.estimate(np.concatenate(total)), gradient

    def reference_losses(self) -> Floats:
        """Return the [n] losses of the fp32 model against the labels: nats, or relative squared error.

        Raises:
            DataError: The data hold no labels.
        """
        parts = [absolute_losses(self.heads, t.reference, t) for t in self.targets]
        return torch.cat(parts).cpu().numpy()

    def scores(self, assignment: Ints | None) -> dict[str, Floats]:
        """Return ``nll`` [n] and, for classes, ``accuracy`` [n] against the labels; None is fp32.

        Raises:
            DataError: The data hold no labels.
        """
        schemes = None if assignment is None else self._layer_schemes(assignment)
        nll, right = [], []
        for b, target in enumerate(self.targets):
            values = target.reference
            if schemes is not None:
                with torch.inference_mode():
                    values = self._runner.heads(self._runner.run(self.feed(b), schemes))
            nll.append(absolute_losses(self.heads, values, target))
            if not self.heads[0].is_number:
                right.append(accuracies(self.heads, values, target))
        found = {"nll": torch.cat(nll).cpu().numpy()}
        if right:
            found["accuracy"] = torch.cat(right).cpu().numpy()
        return found

    # ---- single layers -----------------------------------------------------------------------

    def weight(self, layer_index: int, scheme_index: int, gemm_index: int = 0) -> Tensor:
        """Return the simulated weight of a layer in a scheme, shaped as the node reads it."""
        return self._weights.simulated(layer_index, self.space.schemes[scheme_index], gemm_index)

    def quantized_weight(
        self, layer_index: int, scheme_index: int, gemm_index: int = 0
    ) -> QuantizedTensor:
        """Return the weight that a layer multiplies with in a scheme, as the scheme stores it."""
        return self._weights.quantized(layer_index, self.space.schemes[scheme_index], gemm_index)

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
        start = None
        if assignment is not None:
            schemes = self._layer_schemes(assignment)
            start = partial(self._runner.scheme_run, schemes)
        feed = self._tensors(batch)
        return capture_values(self.graph, self.program, layer_indices, feed, start)

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
        program, step = self.layer_step(layer_index)
        run = None
        if scheme_index is not None:
            run = self._runner.scheme_run([scheme_index] * len(self.graph.layers), [step])
        return replay_layer(self.graph, program, step, inputs, run)

    def feed(self, b: int) -> dict[str, Tensor]:
        """Return input name to tensor of batch ``b`` of the data."""
        size = self.batches.batch_size
        arrays = self.batches.feed(b * size, size)
        return {name: to_tensor(array, self.device) for name, array in arrays.items()}

    def layer_step(self, layer_index: int) -> tuple[Program, Step]:
        """Return the step that a layer is, and the program (or subgraph's program) that it stands in."""
        return self._layer_steps[layer_index]

    # ---- inside ------------------------------------------------------------------------------

    def _layer_schemes(self, assignment: Ints) -> tuple[int, ...]:
        """Return the scheme index of each layer, once the assignment is checked."""
        return layer_schemes(self.graph, self.space, self.allowed, self.reasons, assignment)

    def _batch_losses(self, schemes: tuple[int, ...], b: int) -> Floats:
        """Losses of batch ``b``, computed once."""
        known = self._losses.setdefault(schemes, {})
        if b not in known:
            with torch.inference_mode():
                values, runs = self._runner.run_batch(self.feed(b), schemes, b)
                heads, target = self._runner.heads(values), self.targets[b]
                losses = sample_losses(self.loss_kind, self.heads, heads, target)
            known[b] = losses.cpu().numpy()
            self._batches_run += runs
        return known[b]

    def _find_allowed(self, calibration: Calibration) -> tuple[Bools, dict[tuple[str, str], str]]:
        """What the space allows, less what overflows and what cannot be recovered."""
        mask, reasons = allowed(self.space, self.graph)
        schemes = self.space.schemes
        refused = find_overflows(
            self.graph, calibration, self._weights.amax(), schemes, self.space.base
        )
        refused |= refuse_recovery(self.graph, schemes)
        for (group, scheme), reason in refused.items():
            mask[self.groups.index(group), self.space.index(scheme)] = False
            reasons.setdefault((group, scheme), reason)
        return mask, reasons

    def _feeds(self) -> Iterator[dict[str, Tensor]]:
        return (self.feed(b) for b in range(self.n_batches))

    def _tensors(self, inputs: Mapping[str, NDArray[np.generic] | Tensor]) -> dict[str, Tensor]:
        known = [value.name for value in self.graph.inputs]
        if sorted(inputs) != sorted(known):
            raise DataError(f"inputs must be {', '.join(known)}; got {', '.join(inputs)}")
        return {
            name: x.to(self.device) if isinstance(x, Tensor) else to_tensor(x, self.device)
            for name, x in inputs.items()
        }
