"""Optuna's samplers: TPE, NSGA-II or Gaussian processes, in a study that its dashboard can show."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    PartialFixedSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.search.measured.archive import Archive, Exhausted
from mpsearch.search.measured.begin import begin
from mpsearch.search.measured.evolution import renew
from mpsearch.search.measured.predicted_start import predicted_plans
from mpsearch.search.measured.studies import open_study
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Estimate, Floats, Ints

SAMPLERS = ("tpe", "nsgaii", "gp")
_OTHERS = 8  # plans that are drawn in the place of one that another searcher is measuring
_CLAIM = timedelta(
    hours=1
)  # that a trial may take before it is taken for one of a process that died
_EXCESS = "excess"
_STDERR = "loss_stderr"


def search(
    task: Task,
    *,
    seeded: bool = True,
    sampler: Literal["tpe", "nsgaii", "gp"] = "tpe",
    storage: str | None = None,
    study: str = "mpsearch",
    searcher: int = 0,
) -> Front:
    """Return the front of all that an Optuna study (Akiba et al. 2019) evaluated.

    A sampled plan that misses a constraint, or is known, is repaired or changed before it is measured: the sampler works on a study
    of its own in memory, and the study in the storage holds what was measured and nothing else.

    Args:
        task: What to search. 200 evaluations if the budget is None.
        seeded: Begin with a tenth of the budget in plans of the predicted front.
        sampler: ``tpe``, ``nsgaii`` or ``gp``.
        storage: ``sqlite:///study.db``, ``postgresql://…``, or ``$NAME``, the environment variable that holds it; None: memory
            only. A study that is already there goes on, several searchers at once: what any of them measured is kept and
            counts towards the budget.
        study: Its name in the storage.
        searcher: Number of this searcher among those that share the study: each draws other plans.

    Raises:
        ProblemError: No such sampler, the storage does not answer, or the study in it is of another problem.
        InfeasibleError: No assignment meets the constraints.
    """
    seed = task.seed
    if searcher:
        seed = int(np.random.default_rng([task.seed, 6, searcher]).integers(2**31))
    start = begin(replace(task, budget=task.budget or 200, seed=seed), stream=6)
    archive, repairer = start.archive, start.repairer
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # samplers announce that parts are experimental
            count = len(archive.names)
            kept = None if storage is None else open_study(storage, study, count)
            trials = _Trials(archive, _sampling(sampler, count, seed), kept)
            with suppress(Exhausted):
                trials.adopt()
                plans = predicted_plans(archive, max(1, archive.budget // 10) if seeded else 0)
                for row in _turned(repairer.repair(plans, start.rng), searcher):
                    trials.adopt()
                    if not trials.claimed(row):
                        trials.add(row)
                while True:
                    trials.adopt()
                    row = renew(start, repairer.repair(trials.ask()[None], start.rng))[0]
                    for _ in range(_OTHERS):
                        if not trials.claimed(row):
                            break
                        row = renew(start, repairer.draw(1, start.rng))[0]
                    trials.add(row)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return archive.front(method="optuna")


SEARCHER = Searcher(search)


def _turned(rows: Ints, searcher: int) -> Ints:
    """``rows``, begun elsewhere by each searcher, so that several do not measure the same at once."""
    return np.roll(rows, -searcher * max(1, len(rows) // 4), axis=0) if len(rows) else rows


def _sampling(sampler: str, n_objectives: int, seed: int) -> optuna.Study:
    """The study in memory that the sampler works on."""
    makers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(seed=seed, constraints_func=_constraints),
        "nsgaii": lambda: NSGAIISampler(seed=seed, constraints_func=_constraints),
        "gp": lambda: GPSampler(
            seed=seed, constraints_func=_constraints, deterministic_objective=True
        ),
    }
    if sampler not in makers:
        raise ProblemError(f"the sampler must be one of {', '.join(SAMPLERS)}; got {sampler!r}")
    return optuna.create_study(sampler=makers[sampler](), directions=["minimize"] * n_objectives)


def _constraints(trial: FrozenTrial) -> Sequence[float]:
    return (float(trial.user_attrs.get(_EXCESS, 0.0)),)


class _Trials:
    """An Optuna study in terms of assignments of variables."""

    def __init__(self, archive: Archive, sampled: optuna.Study, kept: optuna.Study | None) -> None:
        """Begin.

        Args:
            archive: Evaluates and keeps.
            sampled: In memory: what the sampler learns from.
            kept: In a storage: what was measured, by this searcher and others; None where there is none.
        """
        self._archive, self._sampled, self._kept = archive, sampled, kept
        self._seen: set[int] = set()
        self._claims: set[tuple[int, ...]] = set()
        problem, reduced = archive.problem, archive.reduced
        heads = reduced.contract(np.arange(problem.n_groups)[None])[0]
        self._names = [problem.groups[g] for g in heads]
        self._space: dict[str, BaseDistribution] = {
            name: CategoricalDistribution([problem.schemes[s] for s in np.flatnonzero(row)])
            for name, row in zip(self._names, reduced.allowed, strict=True)
        }

    def ask(self) -> Ints:
        """Return a sampled assignment [V]; its trial is closed, :meth:`add` enters what was measured."""
        trial = self._sampled.ask(dict(self._space))
        row = self._row(trial.params)
        self._sampled.tell(trial, state=TrialState.FAIL)
        return row

    def add(self, row: Ints) -> None:
        """Evaluate ``row`` [V] and enter it, unless it was entered before."""
        if self._archive.known(row[None]).any():
            self._archive.evaluate(row[None])
            return
        if self._archive.left < 1:
            raise Exhausted
        begun = None if self._kept is None else self._begin(self._kept, row)
        try:
            values = self._archive.evaluate(row[None])[0]
        except BaseException:
            if self._kept is not None and begun is not None:
                self._kept.tell(begun, state=TrialState.FAIL)
            raise
        finished = self._trial(row, values)
        self._sampled.add_trial(finished)
        if self._kept is not None and begun is not None:
            for key, value in finished.user_attrs.items():
                begun.set_user_attr(key, value)
            self._kept.tell(begun, values.tolist())
            self._seen.add(begun.number)

    def claimed(self, row: Ints) -> bool:
        """Return whether another searcher is measuring ``row`` [V]."""
        return tuple(row.tolist()) in self._claims

    def _begin(self, kept: optuna.Study, row: Ints) -> Trial:
        """Begin the trial of ``row`` in the storage, where the others see it."""
        schemes = self._archive.problem.schemes
        chosen = {name: schemes[s] for name, s in zip(self._names, row.tolist(), strict=True)}
        kept.sampler = PartialFixedSampler(chosen, RandomSampler())
        return kept.ask(dict(self._space))

    def adopt(self) -> None:
        """Take over what the study in the storage holds and this searcher does not know.

        Raises:
            Exhausted: What is measured and what others are measuring spends the budget.
        """
        if self._kept is None:
            return
        name, now = self._kept.study_name, datetime.now()
        self._claims.clear()
        for trial in self._kept.get_trials(deepcopy=False):
            if trial.number in self._seen:
                continue
            if trial.state == TrialState.RUNNING and set(trial.params) == set(self._names):
                started = trial.datetime_start
                if started is not None and now - started < _CLAIM:
                    self._claims.add(tuple(self._row(trial.params).tolist()))
                continue
            if trial.state != TrialState.COMPLETE:
                continue
            self._seen.add(trial.number)
            if set(trial.params) != set(self._names):
                raise ProblemError(f"study {name!r} is of other groups; name another study")
            row = self._row(trial.params)
            loss = None
            if self._archive.measures:
                mean = trial.user_attrs.get("loss")
                if mean is None:
                    raise ProblemError(
                        f"study {name!r} holds predictions; name another for measurements"
                    )
                loss = Estimate(float(mean), float(trial.user_attrs.get(_STDERR, 0.0)))
            if not self._archive.known(row[None]).any():
                self._archive.adopt(row, loss)
                self._sampled.add_trial(self._trial(row, np.array(trial.values)))
        if self._archive.left <= len(self._claims):
            raise Exhausted

    def _row(self, params: dict[str, object]) -> Ints:
        schemes = self._archive.problem.schemes
        try:
            return np.array([schemes.index(str(params[name])) for name in self._names], np.int64)
        except ValueError:
            raise ProblemError("the study is of other schemes; name another study") from None

    def _trial(self, row: Ints, values: Floats) -> FrozenTrial:
        attributes: dict[str, float] = {
            _EXCESS: min(float(self._archive.excess(row[None])[0]), 1e12)
        }
        if self._archive.measures:
            loss = self._archive.loss(row)
            attributes |= {"loss": loss.mean, _STDERR: loss.stderr}
        return create_trial(
            params={
                name: self._archive.problem.schemes[s]
                for name, s in zip(self._names, row.tolist(), strict=True)
            },
            distributions=self._space,
            values=values.tolist(),
            user_attrs=attributes,
        )
