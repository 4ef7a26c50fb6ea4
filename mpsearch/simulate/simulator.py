"""The model under any assignment of schemes: losses per sample, and their gradient."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch._version import __version__
from mpsearch.artifacts import digest_json
from mpsearch.data.batches import Batches
from mpsearch.data.fit import check_batches
from mpsearch.errors import DataError, SpaceError, check_argument
from mpsearch.graph.model import ModelGraph
from mpsearch.losses.losses import absolute_losses, accuracies, sample_losses, worst_slice
from mpsearch.losses.scales import Scale
from mpsearch.program.memory_of_machine import describe_device
from mpsearch.simulate.assignments import layer_schemes, spread_batches
from mpsearch.simulate.batch_form import cut_feed, join_outputs
from mpsearch.simulate.calibrated import Calibrated, apply_changes, calibrate_and_refer
from mpsearch.simulate.changes import Changes, digest_changes
from mpsearch.simulate.gradients.lost import find_lost, warn_lost
from mpsearch.simulate.gradients.relaxed_loss import differentiate
from mpsearch.simulate.loss_store import Assignment, LossStore, MemoryLosses
from mpsearch.simulate.memory_budget import make_budget
from mpsearch.simulate.probe import run_outputs
from mpsearch.simulate.reference import Reference, head_slots, measure_reference, to_tensors
from mpsearch.simulate.runner import Runner
from mpsearch.simulate.scheme_run import Ranges
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Estimate, Floats, Ints, estimate_mean

EVALUATION_VERSION = 3
"""Raised whenever the same assignment would get another loss than before."""


class Simulator:
    """A calibrated model on some data: every layer in a scheme of its own, and what that costs in accuracy.

    Losses are kept per sample; an assignment is evaluated once.

    Attributes:
        calibrated: The model, and what it was calibrated to.
        reference: The data, the loss, and what losses are compared with.
        graph: The model, its groups tied as the space says.
        space: The schemes that may be chosen.
        batches: The data.
        groups: [G] names of the decision variables.
        allowed: [G, S]; False: the space forbids it, or it overflows on the calibration data.
        reasons: (group, scheme) names to why it is not allowed.
        ranges: (value name, activation spec) to the calibrated range, for the static specs of the space.
        loss_kind: ``kl``, ``nll``, ``mse``, ``ctc``, ``ctc_last`` or ``quality``.
        loss_given: The loss as it was asked for, None where it was not.
        unit: Unit of the loss.
        n_samples: Samples of the data.
        n_batches: Batches of the data; the last one may be short.
        n_runs: Runs of the model that take all samples: as many as batches, unless the model must be
            run on fewer samples at a time.
        program: The compiled fp32 model.
        heads: What of the outputs the loss reads.
        targets: [n_runs] What the heads of each run are compared with.
        seed: What random choices of users of this object start from.
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
        """Compile the graph, calibrate it to the data, and find what overflows there.

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

        Raises:
            DataError: The data do not fit the model, or the loss does not fit both.
            NumericsError: The fp32 model is not finite on the data, or the base format overflows.
            UnsupportedOperatorError: The graph holds operators that cannot be executed.
        """
        check_argument("graph", graph, ModelGraph, "as import_onnx returns it")
        check_argument("space", space, SearchSpace, "as read_space returns it")
        check_argument("batches", batches, Batches, "as read_batches returns them")
        calibrated, reference = calibrate_and_refer(
            graph, space, batches, loss=loss, device=device, max_memory=max_memory
        )
        self._begin(calibrated, reference, seed, MemoryLosses())

    def _begin(
        self, calibrated: Calibrated, reference: Reference, seed: int, store: LossStore
    ) -> None:
        """Set all attributes; the calibration may be that of other data."""
        self.calibrated, self.reference, self.seed = calibrated, reference, seed
        self.graph, self.space = calibrated.graph, calibrated.space
        self.program = calibrated.program
        self.allowed, self.reasons = calibrated.allowed, calibrated.reasons
        self.ranges: Ranges = calibrated.ranges
        self.groups = tuple(group.name for group in calibrated.graph.groups)
        self.batches, self.n_samples = reference.batches, len(reference.batches)
        self.n_batches = ceil(self.n_samples / self.batches.batch_size)
        self.n_runs = self.batches.n_runs
        self.loss_given, self.loss_kind, self.unit = reference.loss, reference.kind, reference.unit
        self.heads, self.targets = reference.heads, reference.targets
        self._slots = head_slots(calibrated.program, reference.heads)
        budget = reference.shares.values / self.n_runs
        self._runner = Runner(calibrated, self._slots, reference.slot_bytes, budget)
        self._store = store
        self.fingerprint: dict[str, str | int] = {
            "mpsearch": __version__,
            "evaluation": EVALUATION_VERSION,
            "torch": str(torch.__version__),
            "device": describe_device(calibrated.program.device),
            "threads": torch.get_num_threads(),
            "batch_size": self.batches.run_size,
        }
        if calibrated.changes:
            self.fingerprint["changes"] = digest_changes(calibrated.changes)

    @classmethod
    def of(
        cls, calibrated: Calibrated, reference: Reference, seed: int, store: LossStore
    ) -> "Simulator":
        """Return the simulator of ``calibrated`` on the data of ``reference``, its losses kept in ``store``."""
        made = cls.__new__(cls)
        made._begin(calibrated, reference, seed, store)
        return made

    def on_data(self, batches: Batches, *, loss: str | None = None) -> "Simulator":
        """Return a simulator on other data that keeps all that this one was calibrated to.

        Args:
            batches: The data.
            loss: Its loss, as the constructor takes it; None takes the one that was asked for.

        Raises:
            DataError: The data do not fit the model or the loss.
        """
        batches = check_batches(batches, self.graph)
        reference = self._refer(self.calibrated, batches, loss, scales=self.reference.scales)
        return Simulator.of(self.calibrated, reference, self.seed, MemoryLosses())

    def keep_losses(self, store: LossStore) -> "Simulator":
        """Return this simulator with its losses kept in ``store``, and read from there."""
        kept = copy.copy(self)
        kept._store = store
        return kept

    def change(self, changes: Changes) -> "Simulator":
        """Return a simulator of the model as a plan changes it, by the same data and loss.

        It may run the assignment that ``changes`` are for, and no other. Losses compare with the unchanged model.
        """
        made = apply_changes(self.calibrated, changes)
        return Simulator.of(made, self.reference, self.seed, MemoryLosses())

    def by_loss(self, loss: str) -> "Simulator":
        """Return a simulator of the same model, calibration and data by another loss."""
        first = self.calibrated.batches
        reference = self._refer(self.calibrated, self.batches if first is None else first, loss)
        return self._vary(self.calibrated, reference)

    def in_space(self, space: SearchSpace) -> "Simulator":
        """Return a simulator of the same model and data in another space, calibrated to the same samples."""
        first = self.calibrated.batches
        calibrated, reference = calibrate_and_refer(
            self.graph,
            replace(space, ties=(), untie=()),  # the graph's groups are tied already
            self.batches if first is None else first,
            loss=self.loss_given,
            max_memory=self.calibrated.max_memory,
            program=self.program,
        )
        return self._vary(calibrated, reference)

    def _vary(self, calibrated: Calibrated, reference: Reference) -> "Simulator":
        """A simulator whose losses are kept where this one's are; ``reference`` is of the calibration data."""
        if self.calibrated.batches is not self.batches:
            reference = self._refer(
                calibrated, self.batches, reference.loss, scales=reference.scales
            )
        schemes = [repr(scheme) for scheme in calibrated.space.schemes]
        name = digest_json([schemes, reference.kind, reference.loss])
        return Simulator.of(calibrated, reference, self.seed, self._store.branch(name))

    def _refer(
        self,
        calibrated: Calibrated,
        batches: Batches,
        loss: str | None,
        *,
        scales: tuple[Scale, ...] | None = None,
    ) -> Reference:
        plain = calibrated.unchanged
        return measure_reference(
            plain.graph,
            plain.program,
            batches,
            loss or self.loss_given,
            make_budget(calibrated.max_memory),
            recovers=any(scheme.recovery != "none" for scheme in calibrated.space.schemes),
            scales=scales,
        )[0]

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

    def run(
        self, inputs: Mapping[str, NDArray[np.generic] | Tensor], assignment: Ints | None = None
    ) -> dict[str, Tensor]:
        """Return the model's outputs on ``inputs`` (any batch size); None is the fp32 program.

        Where the model must be run on fewer samples at a time, they are cut and put together again.

        Raises:
            DataError: An input is missing or unknown.
            NumericsError: An output is not finite; the message names the first layer that is not.
        """
        parts = cut_feed(self.batches, inputs)
        known = self.calibrated if assignment is not None else self.calibrated.unchanged
        found = [run_outputs(known, part, assignment) for part in parts]
        if len(found) == 1 and parts[0] is inputs:
            return found[0]
        return join_outputs(self.graph, self.batches, inputs, found)

    def losses(self, assignment: Ints, batches: Sequence[int] | None = None) -> Floats:
        """Return the [n] losses of the samples under ``assignment`` [G], in the order of the data.

        Args:
            assignment: Scheme index of each group.
            batches: Numbers of the batches to run; None runs all.

        Raises:
            SpaceError: The assignment has another length, or takes what is not allowed.
            NumericsError: An output is not finite; the message names the first layer that is not.
        """
        schemes = layer_schemes(self.calibrated, assignment)
        key = tuple(np.asarray(assignment).tolist())
        if batches is not None:
            return np.concatenate([self._batch_losses(key, schemes, b) for b in batches])
        known = self._store.get(key, None)
        if known is None:
            parts = [self._batch_losses(key, schemes, b) for b in range(self.n_batches)]
            known = self._store.put(key, None, np.concatenate(parts))
        return known

    def announce(self, assignments: Ints, batches: Sequence[int] | None = None) -> None:
        """Say which losses are asked for next, of [P, G] on some batches: workers, if any, measure them."""
        chosen = range(self.n_batches) if batches is None else batches
        self._store.announce([tuple(row) for row in np.asarray(assignments).tolist()], chosen)

    def loss(self, assignment: Ints) -> Estimate:
        """Return the mean loss of ``assignment`` [G] with its standard error."""
        return self.estimate(self.losses(assignment))

    def estimate(self, losses: Floats, batches: Sequence[int] | None = None) -> Estimate:
        """Return the mean of losses of some batches (None: the first samples), or their worst slice's."""
        slices = self.reference.slices
        if slices is None:
            return estimate_mean(losses)
        if batches is not None:
            rows = np.arange(self.n_samples) // self.batches.batch_size
            slices = slices[np.isin(rows, batches)]
        return worst_slice(losses, slices[: len(losses)])[0]

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        """Return the loss of one assignment [G] minus the other's, with the error of the paired samples.

        Of worst slices, which may be two, it is the difference of two estimates.
        """
        one, other = (self.losses(np.asarray(assignment)) for assignment in (first, second))
        if self.reference.slices is None:
            return estimate_mean(one - other)
        a, b = self.estimate(one), self.estimate(other)
        return Estimate(a.mean - b.mean, (a.stderr**2 + b.stderr**2) ** 0.5)

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Return the mean loss of each of ``assignments`` [P, G].

        ``fraction`` of the batches are used, spread evenly and always the same ones.
        """
        batches = spread_batches(self.n_batches, fraction)
        rows = np.atleast_2d(np.asarray(assignments))
        if len(rows) > 1:
            self.announce(rows, batches)
        return [self.estimate(self.losses(row, batches), batches) for row in rows]

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
        p = torch.tensor(given, device=self.program.device, requires_grad=True)
        feeds = map(self.feed_run, range(self.n_runs))
        losses = differentiate(self.reference, self._runner, p, self.allowed, feeds)
        gradient = np.zeros_like(given) if p.grad is None else p.grad.cpu().numpy()
        return self.estimate(losses), gradient

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
        nll, right = [], []
        for run, target in enumerate(self.targets):
            values = self.head_values(assignment, run)
            nll.append(absolute_losses(self.heads, values, target))
            if not self.heads[0].is_number:
                right.append(accuracies(self.heads, values, target))
        found = {"nll": torch.cat(nll).cpu().numpy()}
        if right:
            found["accuracy"] = torch.cat(right).cpu().numpy()
        return found

    def head_values(self, assignment: Ints | None, run: int) -> tuple[Tensor, ...]:
        """Return what the loss reads of one run of the model; None is the fp32 model's."""
        if assignment is None:
            return self.targets[run].reference
        schemes = layer_schemes(self.calibrated, assignment)
        with torch.inference_mode():
            return self._runner.heads(self._runner.run(self.feed_run(run), schemes))

    def feed(self, b: int) -> dict[str, Tensor]:
        """Return input name to tensor of batch ``b`` of the data."""
        size = self.batches.batch_size
        return to_tensors(self.program, self.batches.feed(b * size, size))

    def feed_run(self, run: int) -> dict[str, Tensor]:
        """Return input name to tensor of a run of the model."""
        return to_tensors(self.program, self.batches.feed_run(run))

    def _batch_losses(self, key: Assignment, schemes: tuple[int, ...], b: int) -> Floats:
        """Losses of batch ``b``, computed once."""
        known = self._store.get(key, b)
        if known is None:
            count = self.batches.batch_size // self.batches.run_size
            runs = range(b * count, min((b + 1) * count, self.n_runs))
            known = np.concatenate([self._run_losses(schemes, run) for run in runs])
            known = self._store.put(key, b, known)
        return known

    def _run_losses(self, schemes: tuple[int, ...], run: int) -> Floats:
        with torch.inference_mode():
            values = self._runner.run_batch(self.feed_run(run), schemes, run)
            heads, target = self._runner.heads(values), self.targets[run]
            losses = sample_losses(self.loss_kind, self.heads, heads, target)
        return losses.cpu().numpy()
