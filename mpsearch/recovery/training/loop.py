"""The training itself: steps, held-out losses, what is kept of them, and an end that never loses what there was."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.losses.losses import sample_losses
from mpsearch.losses.outputs import LABELLED
from mpsearch.program.program import Program, Step
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.recovery.training.checkpoint import Checkpoint
from mpsearch.recovery.training.parameters import Outcome, Parameters, State, make_parameters
from mpsearch.recovery.training.recipe import Recipe
from mpsearch.recovery.training.reestimate import correct_biases, reestimate_norms
from mpsearch.recovery.training.run import Trainable
from mpsearch.recovery.training.samples import Batch, Samples, split_samples
from mpsearch.schemes import Scheme
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.reference import Reference, head_slots
from mpsearch.stats.estimates import Estimate, estimate_mean

Tell = Callable[[int, int, str], None]
_FEATURES = 4
"""Layers whose outputs are compared where features count: evenly spread."""
_EVALUATION_SHARE = 0.15
"""Of the time, what held-out losses take."""
_SAVE_SECONDS = 30.0
_MOST_FAILURES = 3
_UNKNOWN = Estimate(float("inf"), 0.0)
_WHOLE = 4
"""Batches that means are estimated on at the end."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a training may take.

    Attributes:
        seconds: Its time.
        steps: Its steps, if they are fewer; None: as many as the time allows.
    """

    seconds: float
    steps: int | None = None

    def share(self, step: int, elapsed: float) -> float:
        """Return the share of it that is over, by steps alone where there are any: so it can be repeated."""
        if self.steps is not None:
            return 1.0 if elapsed >= self.seconds else step / max(self.steps, 1)
        return elapsed / self.seconds if self.seconds > 0 else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a training gave.

    Attributes:
        outcome: The best state's changes and ranges; None where nothing was better than the beginning.
        before: Held-out loss in the beginning.
        after: That of the best state.
        steps: Steps that were made.
        seconds: What they took.
        notes: What went wrong or was left out, in words.
        interrupted: Whether Ctrl-C ended it.
    """

    outcome: Outcome | None
    before: Estimate
    after: Estimate
    steps: int
    seconds: float
    notes: tuple[str, ...]
    interrupted: bool


def train(
    calibrated: Calibrated,
    schemes: Sequence[Scheme],
    reference: Reference,
    recipe: Recipe,
    effort: Effort,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    tell: Tell = lambda *_: None,
) -> Trained:
    """Train a model as its plan runs it, against the fp32 model and the labels of the data.

    Args:
        calibrated: The model as the plan changes it, with the plan's ranges.
        schemes: [L] scheme of each layer.
        reference: The data, and what the fp32 model makes of them.
        recipe: How.
        effort: How long.
        seed: Of the order of the samples.
        checkpoint: Where the training is kept meanwhile; one of the same training that is there goes on.
        tell: Told of steps (or seconds), how many there will be, and losses.

    Raises:
        DataError: There are too few samples to hold some back.
    """
    samples = split_samples(
        calibrated.program, reference, batch=recipe.batch, held_out=recipe.held_out
    )
    parameters = make_parameters(calibrated, schemes, recipe)
    slots = head_slots(calibrated.program, reference.heads)
    schedule = make_schedule(calibrated.program, slots)
    by_clip = recipe.ranges == "pact"
    model = Trainable(calibrated, schemes, parameters, schedule, slots, by_clip)
    own = _Training(model, samples, reference, recipe, effort, np.random.default_rng([seed, 11]))
    own.begin(checkpoint)
    interrupted = False
    try:
        own.go(checkpoint, tell)
        own.finish()
    except KeyboardInterrupt:
        interrupted = True
        if checkpoint is not None:
            own.save(checkpoint)
    if checkpoint is not None and not interrupted:
        checkpoint.remove()
    parameters.restore(own.best)
    better = own.best_loss.mean < own.first_loss.mean
    outcome = parameters.changes(calibrated) if better else None
    return Trained(
        outcome,
        own.first_loss,
        own.best_loss,
        own.step,
        own.elapsed,
        tuple(own.notes),
        interrupted,
    )


@dataclass(slots=True, eq=False)
class _Training:
    """A training under way."""

    model: Trainable
    samples: Samples
    reference: Reference
    recipe: Recipe
    effort: Effort
    rng: np.random.Generator
    step: int = 0
    elapsed: float = 0.0
    slower: float = 1.0
    failures: int = 0
    first_loss: Estimate = _UNKNOWN
    best_loss: Estimate = _UNKNOWN
    last_loss: float = 0.0
    best: State = field(default_factory=dict)
    queue: list[list[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    optimizer: Any = None
    scaler: Any = None

    @property
    def parameters(self) -> Parameters:
        return self.model.parameters

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Make the optimizer, measure the beginning, and go back to a checkpoint if there is one."""
        groups = self.parameters.groups(self.recipe)
        device = self.model.calibrated.program.device.type
        if self.recipe.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(groups, fused=True)
        else:
            self.optimizer = torch.optim.SGD(groups, momentum=0.9)
        self.scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
        self.best = self.parameters.snapshot()
        known = None
        if checkpoint is not None:
            known = checkpoint.read({name: tuple(t.shape) for name, t in self.best.items()})
        if known is None:
            self.first_loss = self.best_loss = self.measure()
            self.last_loss = self.first_loss.mean
        else:
            self._load(*known)

    def go(self, checkpoint: Checkpoint | None, tell: Tell) -> None:
        """Make steps until time or steps are up."""
        began, saved = time.monotonic() - self.elapsed, time.monotonic()
        watching = 0.0
        while (done := self.effort.share(self.step, self.elapsed)) < 1:
            if self.failures > _MOST_FAILURES:
                self.notes.append("stopped: it did not stay finite at any rate")
                break
            self._step(done)
            now = time.monotonic()
            if watching <= _EVALUATION_SHARE * (now - began):
                self.keep_better()
                watching += time.monotonic() - now
            self.elapsed = time.monotonic() - began
            said = f"loss {self.last_loss:.4f}, held out {self.best_loss.mean:.4f}"
            if self.effort.steps is None:
                tell(
                    min(int(self.elapsed), int(self.effort.seconds)), int(self.effort.seconds), said
                )
            else:
                tell(self.step, self.effort.steps, said)
            if checkpoint is not None and time.monotonic() - saved > _SAVE_SECONDS:
                self.save(checkpoint)
                saved = time.monotonic()
        self.keep_better()
        self.elapsed = time.monotonic() - began

    def finish(self) -> None:
        """Estimate means anew, and keep what makes the held-out loss less."""
        units = list(self.samples.train[: self.samples.size * _WHOLE])
        feed, _ = self.samples.take(units)
        for change in (reestimate_norms, correct_biases):
            self.parameters.restore(self.best)
            change(self.model, feed)
            self.keep_better()

    def keep_better(self) -> None:
        """Keep the state if it loses less on what does not train than any before."""
        loss = self.measure()
        if loss.mean < self.best_loss.mean:
            self.best, self.best_loss = self.parameters.snapshot(), loss

    @torch.no_grad()
    def measure(self) -> Estimate:
        """Return the held-out loss as the plan runs; infinite where it is not finite."""
        parts = []
        kind = "kl" if self.reference.kind == "quality" else self.reference.kind
        for units in self.samples.held_out_batches():
            feed, target = self.samples.take(units)
            try:
                heads = self.model.run(feed)
            except NumericsError:
                return _UNKNOWN
            parts.append(sample_losses(kind, self.reference.heads, heads, target))
        losses = torch.cat(parts).cpu().numpy()
        return estimate_mean(losses) if np.isfinite(losses).all() else _UNKNOWN

    def _step(self, done: float) -> None:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = group["full"] * recipe.rate_at(done) * self.slower
        if recipe.masks == "reselected" and done < 0.75 and self.step % recipe.reselect == 0:
            self.parameters.select_masks()
        if not self.queue:
            self.queue = self.samples.draw(self.rng)
        batch = self.samples.take(self.queue.pop())
        self.step += 1
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self._loss(batch, done)
        except NumericsError:
            loss = torch.tensor(float("nan"))
        if bool(torch.isfinite(loss.detach())):
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(
                self.parameters.tensors.values(), recipe.clip or float("inf"), foreach=True
            )
            # a gradient too large for fp16 is the loss scaling's to skip
            if self.scaler.is_enabled() or bool(torch.isfinite(norm)):
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.last_loss = float(loss.detach())
                return
        self._go_back()

    def _go_back(self) -> None:
        """Take the best state again, and learn more slowly."""
        self.failures += 1
        self.slower /= 2
        self.notes.append(
            f"step {self.step} was not finite: the best state so far was taken again, at half the rate"
        )
        self.parameters.restore(self.best)
        self.optimizer.state.clear()

    def _loss(self, batch: Batch, done: float) -> Tensor:
        recipe, (feed, target) = self.recipe, batch
        program = self.model.calibrated.program
        outputs: dict[int, Tensor] = {}

        def record(layer: int, output: Tensor) -> Tensor:
            outputs[layer] = output
            return output

        layers = len(self.model.calibrated.graph.layers)
        with torch.autocast(program.device.type, torch.float16, enabled=self.scaler.is_enabled()):
            heads = self.model.run(
                feed,
                kept=recipe.kept_at(done),
                lowered=recipe.lowered_at(done, layers) if recipe.lowering else None,
                revives=recipe.masks == "reselected" and done < 0.75,
                hook=record if recipe.features else None,
            )
        heads = tuple(head.float() for head in heads)
        kind = self.reference.kind if self.reference.kind in LABELLED else "kl"
        loss = sample_losses("kl", self.reference.heads, heads, target).mean()
        if kind != "kl" and recipe.labels:
            labelled = sample_losses(kind, self.reference.heads, heads, target).mean()
            loss = (1 - recipe.labels) * loss + recipe.labels * labelled
        if recipe.features:
            loss = loss + recipe.features * _feature_loss(program, self.model, feed, outputs)
        return loss

    def save(self, checkpoint: Checkpoint) -> None:
        """Write all that the training needs to go on."""
        tensors = dict(self.parameters.snapshot())
        tensors |= {f"best:{name}": tensor for name, tensor in self.best.items()}
        for index, parameter in enumerate(self._trained()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer:{index}:{key}"] = value
        names = (
            "step",
            "elapsed",
            "slower",
            "failures",
            "first_loss",
            "best_loss",
            "queue",
            "notes",
        )
        numbers = {name: getattr(self, name) for name in names}
        checkpoint.write(tensors, numbers | {"rng": self.rng.bit_generator.state})

    def _load(self, tensors: State, numbers: dict[str, Any]) -> None:
        device = self.model.calibrated.program.device
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.parameters.restore(tensors)
        self.best = {name: tensors[f"best:{name}"] for name in self.best}
        for index, parameter in enumerate(self._trained()):
            prefix = f"optimizer:{index}:"
            found = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            if found:
                self.optimizer.state[parameter] = found
        self.rng.bit_generator.state = numbers.pop("rng")
        for name, value in numbers.items():
            setattr(self, name, Estimate(*value) if name.endswith("_loss") else value)
        self.last_loss = self.best_loss.mean

    def _trained(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _feature_loss(
    program: Program, model: Trainable, feed: dict[str, Tensor], outputs: dict[int, Tensor]
) -> Tensor:
    """Mean over some layers of the squared error of their outputs relative to the fp32 model's."""
    layers = sorted(outputs)
    chosen = {layers[i] for i in np.linspace(0, len(layers) - 1, _FEATURES).round().astype(int)}
    wanted: dict[int, Tensor] = {}

    def record(step: Step, inputs: list[Tensor | None]) -> object:
        result = step.kernel(*inputs)
        if step.layer in chosen and isinstance(result, Tensor):
            wanted[step.layer] = result
        return result

    with torch.no_grad():
        values = program.make_values()
        for name, tensor in feed.items():
            values[program.slots[name]] = tensor
        run_schedule(model.schedule, values, call=record)
    errors = [
        (outputs[layer].float() - known).square().mean() / known.square().mean().clamp_min(1e-12)
        for layer, known in wanted.items()
    ]
    return torch.stack(errors).mean()
