"""Plans of a run that are recovered: on one part of the data, measured on the other, kept from run to run."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpsearch.artifacts import digest_json
from mpsearch.choose.feasibility import constraints
from mpsearch.choose.measured import plan_file
from mpsearch.choose.recovered import Wanted, recover_finalists
from mpsearch.choose.rules import Choice, Uniforms, choose_plans
from mpsearch.deadline import Deadline, deadline_in
from mpsearch.errors import InfeasibleError, JobError, MpsearchError
from mpsearch.jobs.calibrate import note_calibration
from mpsearch.jobs.price import cost_limits
from mpsearch.jobs.shared_calibration import keep_plan, take_plan
from mpsearch.jobs.stage_inputs import Bench
from mpsearch.jobs.stages import PLAIN_FRONT, job_rules
from mpsearch.plan.changes import changes_of
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.make import decide_plan
from mpsearch.plan.plan import Plan
from mpsearch.plan.recover import measure_recovery
from mpsearch.problem.front import RECOVERED, Front, Point, read_front, write_front
from mpsearch.problem.tables import Costs, Table
from mpsearch.runs.run_folder import Stage, parameters
from mpsearch.simulate.changes import Changes
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Estimate, Floats, Ints

_SCORED = 3
"""One sample in so many scores, the others recover."""

Assignment = tuple[int, ...]


class RecoveredPlans:
    """Measures plans of a run on the samples that recover none; those that were recovered with their own weights.

    What is recovered is written as a plan at once, and read from there by a run that goes on.
    """

    __slots__ = ("_bench", "_deadline", "_methods", "_recovering", "_rows", "_scoring", "plans")

    def __init__(self, bench: Bench, methods: str, deadline: Deadline | None = None) -> None:
        """Begin with no plan recovered.

        Args:
            bench: The run.
            methods: As :func:`mpsearch.plan.recover.recover_plan` takes them.
            deadline: From then on recoveries end with what they have.

        Raises:
            JobError: The data are too few.
        """
        batches = bench.simulator.batches
        if len(batches) < 2 * _SCORED:
            raise JobError(
                f"recovery needs at least {2 * _SCORED} samples, of which one in {_SCORED} scores, got {len(batches)}"
            )
        self._bench, self._methods, self._deadline = bench, methods, deadline
        numbers = np.arange(len(batches))
        self._rows = numbers[numbers % _SCORED == _SCORED - 1]
        others = numbers[numbers % _SCORED != _SCORED - 1]
        self._recovering = bench.simulator.on_data(batches.pick(others.tolist()))
        self._scoring = bench.simulator.on_data(batches.pick(self._rows.tolist()))
        self.plans: dict[Assignment, Plan] = {}

    def recover(self, assignment: Sequence[int]) -> None:
        """Recover the plan of ``assignment`` [G]; a second call does nothing."""
        key = tuple(int(s) for s in assignment)
        if key in self.plans:
            return
        path, store = self._path(key), self._bench.store
        known = self._read(path, key)
        shared = digest_json(["recovered", self._bench.context, key, self._methods, self._seed])
        if known is None and self._deadline is None and take_plan(store, shared, path):
            known = self._read(path, key)
        if known is None:
            known = self._make(key)
            write_plan(known, path)
            if self._deadline is None:  # which a plan may have been cut short by
                keep_plan(store, shared, path)
        self.plans[key] = known

    def plan(self, assignment: Sequence[int]) -> Plan | None:
        """Return the recovered plan of ``assignment``, None where it was not recovered."""
        return self.plans.get(tuple(int(s) for s in assignment))

    def changed(self, assignment: Sequence[int], simulator: Simulator) -> Simulator:
        """Return ``simulator`` as the recovered plan of ``assignment`` changes it, itself where there is none."""
        plan = self.plan(assignment)
        changes = Changes() if plan is None else changes_of(plan, self._bench.prepared.graph)
        return simulator.change(changes) if changes else simulator

    def point(self, point: Point) -> Point:
        """Return ``point`` as measured on the samples that score, recovered where it was."""
        (loss,) = self.evaluate(np.array([point.assignment], np.int64))
        method = point.method if self.plan(point.assignment) is None else RECOVERED
        return replace(point, measured={**point.measured, "loss": loss}, method=method)

    def measured(self, uniforms: Uniforms) -> Uniforms:
        """Return ``uniforms`` as measured on the samples that score, recovered where they were."""
        return replace(
            uniforms,
            points={label: self.point(point) for label, point in uniforms.points.items()},
            rules={label: self.point(point) for label, point in uniforms.rules.items()},
        )

    def losses(self, assignment: Sequence[int]) -> Floats:
        """Return the losses of ``assignment`` [G] on the samples that score."""
        plan, key = self.plan(assignment), tuple(int(s) for s in assignment)
        if plan is None or plan.weights is None:
            return self._bench.simulator.losses(np.array(key, np.int64))[self._rows]
        store = self._bench.store
        context = digest_json([self._bench.context, "recovered", plan.weights.digest])
        known = store.get(context, key)
        if known is None:
            found = self.changed(key, self._scoring).losses(np.array(key, np.int64))
            known = store.put(context, key, found)
        return known

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Return the mean loss of each of ``assignments`` [P, G] on the samples that score; all of them, always."""
        del fraction
        return [self._scoring.estimate(self.losses(row)) for row in np.atleast_2d(assignments)]

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        """Return what the simulator does, without recovery."""
        return self._scoring.loss_and_gradient(probabilities)

    def difference(self, first: Sequence[int], second: Sequence[int]) -> Estimate:
        """Return the loss of one assignment [G] minus the other's, with the error of the paired samples."""
        one, other = self.losses(first), self.losses(second)
        if self._scoring.reference.slices is None:
            return self._scoring.estimate(one - other)
        a, b = self._scoring.estimate(one), self._scoring.estimate(other)
        return Estimate(a.mean - b.mean, (a.stderr**2 + b.stderr**2) ** 0.5)

    @property
    def _seed(self) -> int:
        return self._bench.prepared.job.seed

    def _make(self, key: Assignment) -> Plan:
        return measure_recovery(
            self._bare(key),
            self._recovering,
            methods=self._methods,
            seed=self._seed,
            deadline=self._deadline,
        ).plan

    def _bare(self, key: Assignment) -> Plan:
        """The plan of an assignment before it is recovered."""
        bare = decide_plan(Point(key, {}), self._bench.simulator, costs=self._bench.costs)
        noted = note_calibration(bare, self._bench.calibration)
        return replace(noted, extensions={**noted.extensions, "recovery": {"asked": self._methods}})

    def _path(self, key: Assignment) -> Path:
        return self._bench.folder.file("plans") / plan_file(Point(key, {}))

    def _read(self, path: Path, key: Assignment) -> Plan | None:
        """The plan that an earlier run recovered in the same way, None where there is none."""
        bare = self._bare(key)
        try:
            found = read_plan(path)
            same = (found.extensions, found.fingerprint, found.decisions, found.schemes) == (
                bare.extensions,
                bare.fingerprint,
                bare.decisions,
                bare.schemes,
            )
            if not same or found.weights_digest != bare.weights_digest:
                return None
            changes_of(found, self._bench.prepared.graph)  # its tensors are whole
        except MpsearchError:
            return None
        return found


def recovered_plans(bench: Bench) -> RecoveredPlans | None:
    """Return what recovers plans of the run; None where its job asks for none.

    Raises:
        JobError: The data are too few.
    """
    job = bench.prepared.job
    if not job.recovers:
        return None
    return RecoveredPlans(bench, job.recovery, deadline_in(job.time_budget_s or None))


def recovered_stage(
    bench: Bench,
    tables: tuple[Table, Costs],
    plain: Front,
    uniforms: Uniforms,
    recovered: RecoveredPlans,
) -> Stage[Front]:
    """Return the stage that recovers finalists and gives ``front.json``, once there is a front without recovery.

    Args:
        bench: The run.
        tables: Sensitivities and costs.
        plain: The front without recovery.
        uniforms: The uniform plans and those of rules, measured.
        recovered: Recovers plans, and measures them.
    """
    job = bench.prepared.job
    rules = job_rules(job)
    wanted = Wanted(
        job.limits.given(),
        constraints(cost_limits(bench.prepared, bench.costs)),
        rules,
        frozenset(s.name for s in bench.prepared.space.schemes if s.sparsity is not None),
        job.finalists,
        deadline_in(job.time_budget_s or None),
    )

    def compute() -> Front:
        first: tuple[Choice, ...] = ()
        with suppress(InfeasibleError):  # without recovery none keeps the limit on the loss
            first, _ = choose_plans(
                plain, bench.simulator, limits=wanted.limits, uniforms=uniforms, rules=rules
            )
        points = [choice.point for choice in first]
        told = bench.watch("recover")
        front = recover_finalists(plain, tables, uniforms, points, recovered, wanted, told)
        with suppress(InfeasibleError):
            chosen, _ = choose_plans(
                front,
                recovered,
                limits=wanted.limits,
                uniforms=recovered.measured(uniforms),
                rules=rules,
            )
            left = [c.point for c in chosen if recovered.plan(c.point.assignment) is None]
            if left:  # what is chosen without recovery is not left without
                more = replace(wanted, count=len(recovered.plans) + len(left))
                known = [Point(key, {}) for key in recovered.plans]
                front = recover_finalists(
                    plain, tables, uniforms, [*known, *left], recovered, more, told
                )
        return front

    return Stage(
        "front",
        {
            "context": bench.context,
            "plain": bench.folder.digest(PLAIN_FRONT),
            **parameters(job, "recovery", "finalists", "seed", "limits", "confidence"),
            **parameters(job, "faster", "smaller", "rules", "time_budget_s"),
        },
        compute=compute,
        write=write_front,
        read=read_front,
    )
