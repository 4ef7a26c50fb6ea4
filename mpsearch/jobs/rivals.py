"""What a search must beat: uniform plans and rules of thumb, measured."""

import numpy as np

from mpsearch.choose.measured import measure_point
from mpsearch.choose.rules import Uniforms
from mpsearch.choose.rules_of_thumb import rule_points
from mpsearch.figures.plan_row import uniform_points
from mpsearch.jobs.stage_inputs import Bench
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import Table
from mpsearch.search.measured.measure import announce


def measure_uniforms(bench: Bench, table: Table, problem: Problem) -> Uniforms:
    """Measure the uniform plans and those of the rules of thumb."""
    prepared, told = bench.prepared, bench.watch("uniform")
    uniforms = uniform_points(
        problem, prepared.space, prepared.graph, table.allowed & bench.costs.allowed
    )
    rules = rule_points(prepared.job.rule_names, problem, bench.simulator)
    total = len(uniforms) + len(rules)
    everything = [point.assignment for point in (*uniforms.values(), *rules.values())]
    announce(bench.simulator, np.array(everything, np.int64))
    for done, (label, point) in enumerate({**uniforms, **rules}.items()):
        told(done, total, label)
        own = uniforms if label in uniforms else rules
        own[label] = measure_point(point, bench.simulator)
    told(total, total, "")
    return Uniforms(uniforms, f"uniform {prepared.space.base}", rules)
