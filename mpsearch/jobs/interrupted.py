"""What is left when a run is stopped: a front from whatever was measured until then."""

from contextlib import suppress
from dataclasses import replace

import numpy as np

from mpsearch.choose.feasibility import constraints
from mpsearch.choose.measured import with_measured
from mpsearch.errors import MpsearchError
from mpsearch.jobs.price import cost_limits
from mpsearch.jobs.stage_inputs import Bench
from mpsearch.jobs.stages import sensitivity_stage
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import write_front
from mpsearch.problem.tables import Table
from mpsearch.search.find_front import find_front


def salvage(bench: Bench) -> str:
    """Write the front of what was measured so far, and return what was kept, in one line.

    With the whole table it is the predicted front; with part of it the front over the pairs of group
    and scheme that were measured, all others in the base format. Losses that were measured stand on it.
    """
    job, kept = bench.prepared.job, bench.store.count(bench.context)
    bench.folder.update(evaluations=kept)
    said = f"interrupted: {kept} evaluations are kept in {bench.folder.path.name}"
    if not kept:
        return said + "; run the same command again to start over"
    again = "run the same command again to go on"
    with suppress(MpsearchError):
        table, complete = _table(bench)
        problem = build_problem(
            table,
            bench.costs,
            constraints=constraints(cost_limits(bench.prepared, bench.costs)),
            confidence=job.confidence or None,
        )
        losses = {
            key: bench.simulator.estimate(values)
            for key, values in bench.store.items(bench.context)
        }
        front = with_measured(find_front(problem, method="exact"), losses)
        measured = int(table.allowed.sum()) - len(table.groups)
        scope = (
            "" if complete else f", over the {measured} pairs of group and scheme measured so far"
        )
        front = replace(front, certificate=f"interrupted{scope}; {front.certificate}")
        inputs = {"context": bench.context, "interrupted": str(kept)}
        write_front(front, bench.folder.file("front.json"), inputs)
        return f"{said}, with a predicted front of {len(front.points)} points{scope}; {again}"
    return f"{said}; {again}"


def _table(bench: Bench) -> tuple[Table, bool]:
    """The table if it was finished, else the part of it that is in the store."""
    whole = bench.folder.known(sensitivity_stage(bench))
    if whole is not None:
        return whole, True
    simulator = bench.simulator
    base = simulator.space.index(simulator.space.base)
    allowed = np.zeros_like(simulator.allowed)
    allowed[:, base] = True
    values, stderr = np.zeros(allowed.shape), np.zeros(allowed.shape)
    known = dict(bench.store.items(bench.context))
    reference = known.get((base,) * len(simulator.groups))
    for assignment, losses in known.items():
        changed = [g for g, s in enumerate(assignment) if s != base]
        if len(changed) == 1:
            g, s = changed[0], assignment[changed[0]]
            value = simulator.estimate(losses if reference is None else losses - reference)
            allowed[g, s], values[g, s], stderr[g, s] = True, value.mean, value.stderr
    table = Table(
        metric=bench.prepared.job.metric,
        unit=simulator.unit,
        groups=tuple(simulator.groups),
        schemes=simulator.space.names,
        values=values,
        stderr=stderr,
        allowed=allowed & simulator.allowed,
        reasons=simulator.reasons,
        cost_plans=float(len(known)),
    )
    return table, False
