"""A plan recovered on one part of the data and judged on the other: what does not help there is not done."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mpsearch.deadline import Deadline, has_passed
from mpsearch.recovery.folds import find_folds
from mpsearch.recovery.lockstep import find_unreached
from mpsearch.recovery.moments import LINEAR
from mpsearch.recovery.task import Recovered, RecoveryTask, Told, find_methods
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Estimate, Ints

_JUDGE_SHARE = 1 / 4
AUTO = ("gptq", "bias")
"""What ``auto`` tries first, beside nothing; where it does not lower the loss, biases alone."""

SMOOTH = ("smooth",)
"""Tried before where most layers are linear ones that read rounded activations which can be smoothed; if it lowers the loss, what is
tried first is tried on it too."""


class FewSamplesWarning(UserWarning):
    """The data are too few to recover a plan on a part and to judge it on the other."""


@dataclass(frozen=True, slots=True, eq=False)
class RecoveryResult:
    """What recovery gives.

    Attributes:
        recovered: All that the plan then changes.
        methods: Names of what was applied.
        before: Loss of the plan on the part of the data that judges; None without one.
        after: The same of what was chosen.
        tried: Names of methods to the loss of what they give, on the same part.
        judged_on: Samples of that part.
        left: Names of layers whose weights are rounded plainly, all or some: inside loops and branches, recurrent, fused.
    """

    recovered: Recovered
    methods: tuple[str, ...]
    before: Estimate | None
    after: Estimate | None
    tried: dict[tuple[str, ...], Estimate]
    judged_on: int = 0
    left: tuple[str, ...] = ()


def recover(
    simulator: Simulator,
    assignment: Ints,
    methods: tuple[str, ...] | None = None,
    *,
    seed: int = 0,
    progress: Told | None = None,
    deadline: Deadline | None = None,
) -> RecoveryResult:
    """Return what recovers ``assignment`` [G] on the simulator's data.

    A quarter of the samples judges: layers change only where their output's error falls there, and of all that was tried
    that of the least loss there is taken, nothing at all included.

    Args:
        simulator: The model (changed or not) and its data.
        assignment: The plan.
        methods: Names of methods to apply, in order; None tries :data:`AUTO` and what it names.
        seed: Seed of the split and of what methods draw.
        progress: Told how many steps are done.
        deadline: From then on nothing more is begun.

    Raises:
        DataError: The data do not fit the model.
        NumericsError: An output is not finite; the message names the first layer that is not.
    """
    own = Recovered(simulator.calibrated.changes)
    parts = split(len(simulator.batches), seed)
    if parts is None or simulator.batches.run_rows > 1:
        warnings.warn(
            f"recovery needs at least 2 samples that run apart, to judge on some what it made on others, got "
            f"{len(simulator.batches)}: the plan stays as it is",
            FewSamplesWarning,
            stacklevel=2,
        )
        return RecoveryResult(own, (), None, None, {})
    made, judge = (simulator.on_data(simulator.batches.pick(part)) for part in parts)
    task = RecoveryTask(made, judge, assignment, False, seed, progress, deadline)
    before = judge.loss(assignment)
    trials = _Trials(task, before, RecoveryResult(own, (), before, before, {}))
    if methods is None:
        _try_all(trials, smooths=_smooths(simulator, assignment))
    else:
        trials.attempt(methods)
    best, tried = trials.best, trials.tried
    if methods and methods in tried and tried[methods].mean > before.mean:
        warnings.warn(
            f"{', '.join(methods)} must lower the loss on samples that did not take part, but it went from "
            f"{before.mean:.4g} to {tried[methods].mean:.4g}: the plan stays as it is; give more data",
            FewSamplesWarning,
            stacklevel=2,
        )
    left = find_unreached(simulator.graph, simulator.program)
    return replace(best, tried=tried, judged_on=judge.n_samples, left=left)


@dataclass(slots=True, eq=False)
class _Trials:
    """What was tried so far, each on the data that judge.

    Attributes:
        task: The plan and the data.
        before: Loss of the plan.
        best: What loses least.
        tried: Names of methods to the loss of what they give.
        parts: Into how many parts the progress is cut.
    """

    task: RecoveryTask
    before: Estimate
    best: RecoveryResult
    tried: dict[tuple[str, ...], Estimate] = field(default_factory=dict)
    parts: int = 1

    def attempt(self, names: tuple[str, ...], start: Recovered | None = None) -> Recovered | None:
        """Return what methods make, of ``start`` where the first ones made that already; None where no time is left."""
        task = self.task
        if has_passed(task.deadline) or task.judge is None:
            return None
        told = _within(task.progress, min(len(self.tried), self.parts - 1), self.parts)
        left = names
        if start is not None:
            left = names[1:]
            changes = start.changes
            task = replace(task, made=task.made.change(changes), judge=task.judge.change(changes))
        found = apply_methods(replace(task, progress=told), left)
        assert self.task.judge is not None
        self.tried[names] = loss = self.task.judge.change(found.changes).loss(task.assignment)
        if self.best.after is None or loss.mean < self.best.after.mean:
            self.best = RecoveryResult(found, names, self.before, loss, {})
        return found


def _try_all(trials: _Trials, *, smooths: bool) -> None:
    """Try what ``auto`` stands for."""
    trials.parts = 3 if smooths else 1
    smoothed = trials.attempt(SMOOTH) if smooths else None
    trials.attempt(AUTO)
    if smoothed is not None and trials.tried[SMOOTH].mean < trials.before.mean:
        trials.attempt((*SMOOTH, *AUTO), smoothed)
    if not trials.best.methods:
        trials.attempt(("bias",))


def _smooths(simulator: Simulator, assignment: Ints) -> bool:
    """Whether most layers are linear ones that read rounded activations which can be smoothed."""
    calibrated = simulator.calibrated
    layers, chosen = calibrated.graph.layers, layer_schemes(calibrated, assignment)
    read = {layer for fold in find_folds(calibrated.graph) for layer, _ in fold.readers}
    smoothed = [
        layer
        for layer in read
        if layers[layer].op_type in LINEAR
        and not calibrated.space.schemes[chosen[layer]].activation.is_cast
    ]
    return 2 * len(smoothed) > sum(layer.has_weight for layer in layers)


def apply_methods(task: RecoveryTask, names: tuple[str, ...]) -> Recovered:
    """Return what methods, one after another, make of the task's plan."""
    found = find_methods(names)
    bias = any(method.kind == "bias" for method in found.values())
    if bias and any(method.takes_bias for method in found.values()):
        found = {name: method for name, method in found.items() if method.kind != "bias"}
    result = Recovered(task.made.calibrated.changes)
    for number, method in enumerate(found.values()):
        made, judge = task.made, task.judge
        if number:
            made = made.change(result.changes)
            judge = None if judge is None else judge.change(result.changes)
        told = _within(task.progress, number, len(found))
        step = replace(task, made=made, judge=judge, bias=bias, progress=told)
        result = _join(result, method.recover(step))
    return result


def _join(before: Recovered, found: Recovered) -> Recovered:
    """``found`` with the errors that layers had at first."""
    first = {layer: error for layer, (error, _) in before.errors.items()}
    errors = {layer: (first.get(layer, own), after) for layer, (own, after) in found.errors.items()}
    return Recovered(found.changes, {**before.errors, **errors})


def split(n: int, seed: int) -> tuple[Sequence[int], Sequence[int]] | None:
    """Return the samples that recover and those that judge; None where there are fewer than two."""
    if n < 2:
        return None
    order = np.random.default_rng([seed, n]).permutation(n)
    count = max(1, round(n * _JUDGE_SHARE))
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())


def _within(progress: Told | None, number: int, count: int) -> Told | None:
    """Progress of one of ``count`` equal parts."""
    if progress is None:
        return None

    def told(done: int, total: int, said: str) -> None:
        progress(number * total + done, count * total, said)

    return told
