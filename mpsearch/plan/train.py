"""A plan's weights trained: from a plan to one that loses less on data that did not train it, or to itself."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from mpsearch.artifacts import digest_json
from mpsearch.errors import PlanError, check_argument
from mpsearch.numerics.range import Range
from mpsearch.plan.changes import bring_changes, changes_of
from mpsearch.plan.layer_errors import describe_changes
from mpsearch.plan.match import check_weights, plan_assignment, plan_schemes
from mpsearch.plan.plan import Plan, plan_space
from mpsearch.recovery.training.checkpoint import Checkpoint
from mpsearch.recovery.training.loop import Effort, train
from mpsearch.recovery.training.parameters import Outcome
from mpsearch.recovery.training.recipe import Recipe
from mpsearch.recovery.training.samples import split_samples
from mpsearch.schemes import Spec
from mpsearch.simulate.calibrated import Calibrated, apply_changes
from mpsearch.simulate.reference import Reference
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Estimate

Tell = Callable[[int, int, str], None]
_DESCRIBED = 8
"""Batches that did not train on which layers' errors are measured."""


@dataclass(frozen=True, slots=True)
class PlanTraining:
    """A trained plan, and what the training was.

    Attributes:
        plan: The trained plan; the given one where nothing was better.
        before: Loss of the given plan on the part of the data that did not train.
        after: That of the trained one.
        unit: Unit of both.
        steps: Steps that were made.
        seconds: What they took.
        notes: What went wrong or was left out, in words.
        interrupted: Whether Ctrl-C ended it.
    """

    plan: Plan
    before: Estimate
    after: Estimate
    unit: str
    steps: int
    seconds: float
    notes: tuple[str, ...]
    interrupted: bool


def train_plan(
    plan: Plan,
    simulator: Simulator,
    *,
    minutes: float = 2.0,
    steps: int | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> Plan:
    """Return ``plan`` with its weights trained, straight through the rounding, for the data of ``simulator``.

    The loss is the divergence from the fp32 model, and that against labels where the data hold them. A part of the data is
    held back: the state that loses least on it is kept, and the plan stays as it is where none loses less than it does.

    Args:
        plan: Made for the simulator's model.
        simulator: Holds the model and the data; its own space and calibration play no part.
        minutes: Time that the training may take.
        steps: Its steps; None: as many as the time allows. With steps the result does not depend on the machine's speed.
        seed: Of the order of the samples.
        recipe: How it is trained; None: the defaults of :class:`mpsearch.recovery.training.recipe.Recipe`.

    Raises:
        PlanError: The plan is for another model, or there is no time.
        DataError: There are too few samples to hold some back.
    """
    effort = Effort(60 * minutes, steps)
    return run_training(plan, simulator, effort, seed=seed, recipe=recipe).plan


def run_training(
    plan: Plan,
    simulator: Simulator,
    effort: Effort,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    kept: Path | None = None,
    tell: Tell = lambda *_: None,
) -> PlanTraining:
    """Return what :func:`train_plan` does, and what the training was.

    Ctrl-C ends it: the best so far is returned.

    Args:
        plan: Made for the simulator's model.
        simulator: Holds the model and the data.
        effort: How long.
        seed: Of the order of the samples.
        recipe: How it is trained.
        kept: File that the training is kept in meanwhile, removed at its end; one of the same training goes on.
        tell: Told of steps (or seconds), how many there will be, and losses.
    """
    check_argument("plan", plan, Plan, "as read_plan or make_plan returns it")
    check_argument("simulator", simulator, Simulator, "as mp.Simulator makes it")
    if not effort.seconds > 0 or (effort.steps is not None and effort.steps < 1):
        raise PlanError(
            "training must have some time and at least one step, got "
            f"{effort.seconds / 60:g} minutes and {effort.steps} steps"
        )
    recipe = Recipe() if recipe is None else recipe
    calibrated = _as_planned(plan, simulator.calibrated.unchanged)
    graph = calibrated.unchanged.graph
    identity = digest_json(
        [
            repr([getattr(plan, f.name) for f in fields(plan)]),
            simulator.batches.digest,
            repr(recipe),
            str(seed),
            str(effort.steps),
        ]
    )
    done = train(
        calibrated,
        plan_schemes(plan, graph),
        simulator.reference,
        recipe,
        effort,
        seed=seed,
        checkpoint=None if kept is None else Checkpoint(kept, identity),
        tell=tell,
    )
    unit = simulator.unit if simulator.loss_kind != "quality" else "nats"
    made = plan
    if done.outcome is not None:
        made = _bring(plan, calibrated, done.outcome, simulator.reference, recipe)
        figures = {"loss": done.after} if simulator.loss_kind != "quality" else {}
        predicted = {name: value for name, value in plan.predicted.items() if name != "loss"}
        made = replace(
            made,
            unit=unit,
            predicted={name: made.predicted[name] for name in predicted},
            measured={name: v for name, v in plan.measured.items() if name != "loss"} | figures,
        )
    return PlanTraining(
        made,
        done.before,
        done.after,
        unit,
        done.steps,
        done.seconds,
        done.notes,
        done.interrupted,
    )


def _as_planned(plan: Plan, calibrated: Calibrated) -> Calibrated:
    """The model with the plan's schemes, ranges and tensors, where it is compiled already."""
    graph, space = calibrated.graph, plan_space(plan)
    changes = changes_of(plan, graph)
    check_weights(plan, graph)
    ranges: dict[tuple[str, Spec], Range] = {(r.value, r.spec): r.range for r in plan.ranges}
    plain = replace(
        calibrated,
        space=space,
        ranges=ranges,
        allowed=np.ones((len(graph.groups), len(space.schemes)), np.bool_),
        reasons={},
    )
    return apply_changes(plain, changes)


def _bring(
    plan: Plan, calibrated: Calibrated, outcome: Outcome, reference: Reference, recipe: Recipe
) -> Plan:
    graph = calibrated.unchanged.graph
    trained = apply_changes(calibrated, outcome.changes)
    trained = replace(trained, ranges={**trained.ranges, **outcome.ranges})
    samples = split_samples(
        calibrated.program, reference, batch=recipe.batch, held_out=recipe.held_out
    )
    feeds = [samples.take(units)[0] for units in samples.held_out_batches()[:_DESCRIBED]]
    assignment = plan_assignment(plan, graph, calibrated.space)
    made = bring_changes(
        plan,
        graph,
        outcome.changes,
        recovery=("train",),
        done=describe_changes(
            trained,
            assignment,
            feeds,
            recovery=tuple(dict.fromkeys((*plan.recovery, "train"))),
            transforms=plan.transforms,
        ),
    )
    ranges = tuple(
        replace(known, range=outcome.ranges[known.value, known.spec]) for known in plan.ranges
    )
    return replace(made, ranges=ranges)
