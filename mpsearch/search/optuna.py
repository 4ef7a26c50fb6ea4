"""Optuna's samplers: TPE, NSGA-II or Gaussian processes, in a study that its dashboard can show."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from mpsearch.errors import ProblemError
from mpsearch.problem.front import Front
from mpsearch.search.measured.archive import Archive, Exhausted
from mpsearch.search.measured.begin import begin
from mpsearch.search.measured.evolution import renew
from mpsearch.search.measured.predicted_start import predicted_plans
from mpsearch.search.task import Searcher, Task
from mpsearch.stats.estimates import Estimate, Floats, Ints

SAMPLERS = ("tpe", "nsgaii", "gp")
_EXCESS = "excess"
_STDERR = "loss_stderr"


def search(
    task: Task,
    *,
    seeded: bool = True,
    sampler: Literal["tpe", "nsgaii", "gp"] = "tpe",
    storage: str | None = None,
    study: str = "mpsearch",
) -> Front:
    """Return the front of all that an Optuna study (Akiba et al. 2019) evaluated.

    A sampled plan that misses a constraint, or is known, is dropped from the study; its repaired or
    changed form enters instead, so that the sampler learns from feasible plans only.

    Args:
        task: What to search. 200 evaluations if the budget is None.
        seeded: Begin with a tenth of the budget in plans of the predicted front.
        sampler: ``tpe``, ``nsgaii`` or ``gp``.
        storage: ``sqlite:///study.db`` or ``postgresql://...``; None: memory only. A study that is
            already there goes on: what it measured is kept and counts towards the budget.
        study: Its name in the storage.

    Raises:
        ProblemError: No such sampler, or the study in the storage is of another problem.
        InfeasibleError: No assignment meets the constraints.
    """
    start = begin(replace(task, budget=task.budget or 200), stream=6)
    archive, repairer = start.archive, start.repairer
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # samplers announce that parts are experimental
            trials = _Trials(archive, _open(sampler, storage, study, len(archive.names), task.seed))
            with suppress(Exhausted):
                trials.adopt()
                plans = predicted_plans(archive, max(1, archive.budget // 10) if seeded else 0)
                for row in repairer.repair(plans, start.rng):
                    trials.add(row)
                while True:
                    row = repairer.repair(trials.ask()[None], start.rng)
                    trials.add(renew(start, row)[0])
    finally:
        optuna.logging.set_verbosity(verbosity)
    return archive.front(method="optuna")


SEARCHER = Searcher(search)


def _open(
    sampler: str, storage: str | None, name: str, n_objectives: int, seed: int
) -> optuna.Study:
    makers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(seed=seed, constraints_func=_constraints),
        "nsgaii": lambda: NSGAIISampler(seed=seed, constraints_func=_constraints),
        "gp": lambda: GPSampler(
            seed=seed, constraints_func=_constraints, deterministic_objective=True
        ),
    }
    if sampler not in makers:
        raise ProblemError(f"the sampler must be one of {', '.join(SAMPLERS)}; got {sampler!r}")
    opened = optuna.create_study(
        storage=storage,
        sampler=makers[sampler](),
        study_name=name,
        directions=["minimize"] * n_objectives,
        load_if_exists=True,
    )
    if len(opened.directions) != n_objectives:
        raise ProblemError(
            f"study {name!r} has {len(opened.directions)} objectives, this search {n_objectives}; "
            "name another study"
        )
    return opened


def _constraints(trial: FrozenTrial) -> Sequence[float]:
    return (float(trial.user_attrs.get(_EXCESS, 0.0)),)


class _Trials:
    """An Optuna study in terms of assignments of variables."""

    def __init__(self, archive: Archive, study: optuna.Study) -> None:
        self._archive = archive
        self._study = study
        problem, reduced = archive.problem, archive.reduced
        heads = reduced.contract(np.arange(problem.n_groups)[None])[0]
        self._names = [problem.groups[g] for g in heads]
        self._space: dict[str, BaseDistribution] = {
            name: CategoricalDistribution([problem.schemes[s] for s in np.flatnonzero(row)])
            for name, row in zip(self._names, reduced.allowed, strict=True)
        }

    def ask(self) -> Ints:
        """Return a sampled assignment [V]; its trial is closed, :meth:`add` enters what was measured."""
        trial = self._study.ask(dict(self._space))
        row = self._row(trial.params)
        self._study.tell(trial, state=TrialState.FAIL)
        return row

    def add(self, row: Ints) -> None:
        """Evaluate ``row`` [V] and enter it, unless it was entered before."""
        fresh = not self._archive.known(row[None]).any()
        values = self._archive.evaluate(row[None])[0]
        if fresh:
            self._study.add_trial(self._trial(row, values))

    def adopt(self) -> None:
        """Take over what the study measured before."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if set(trial.params) != set(self._names):
                raise ProblemError(
                    f"study {self._study.study_name!r} is of other groups; name another study"
                )
            row = self._row(trial.params)
            loss = None
            if self._archive.measures:
                mean = trial.user_attrs.get("loss")
                if mean is None:
                    raise ProblemError(
                        f"study {self._study.study_name!r} holds predictions; name another for measurements"
                    )
                loss = Estimate(float(mean), float(trial.user_attrs.get(_STDERR, 0.0)))
            self._archive.adopt(row, loss)

    def _row(self, params: dict[str, object]) -> Ints:
        schemes = self._archive.problem.schemes
        try:
            return np.array([schemes.index(str(params[name])) for name in self._names], np.int64)
        except ValueError:
            raise ProblemError(
                f"study {self._study.study_name!r} is of other schemes; name another study"
            ) from None

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
