"""A plan's model made ready to be simulated as its file says: its ranges, its schemes, no calibration."""

from dataclasses import replace

import numpy as np

from mpsearch.data.batches import Batches
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.range import Range
from mpsearch.plan.plan import Plan, plan_space
from mpsearch.program.compile import compile_graph
from mpsearch.program.memory_of_machine import default_memory
from mpsearch.schemes import Spec
from mpsearch.simulate.calibrated import Calibrated, calibrate
from mpsearch.simulate.scheme_run import find_ports
from mpsearch.simulate.weight_cache import WeightStore

_WEIGHT_SHARE = 4  # of free memory, its inverse: what simulated weights may take


def restore(plan: Plan, graph: ModelGraph, batches: Batches | None = None) -> Calibrated:
    """Return ``graph`` on the CPU with the plan's schemes and ranges; every group may take each scheme.

    Args:
        plan: Made for the graph.
        graph: The model.
        batches: The calibration data, where a scheme recovers pruned weights; else not needed.

    Raises:
        UnsupportedOperatorError: The graph holds operators that cannot be executed.
    """
    space = plan_space(plan)
    ranges: dict[tuple[str, Spec], Range] = {(r.value, r.spec): r.range for r in plan.ranges}
    if batches is not None:
        return replace(calibrate(graph, space, batches, device="cpu"), ranges=ranges)
    program = compile_graph(graph)
    return Calibrated(
        graph,
        space,
        program,
        None,
        ranges,
        np.ones((len(graph.groups), len(space.schemes)), np.bool_),
        {},
        WeightStore(graph, program, default_memory() // _WEIGHT_SHARE),
        find_ports(graph),
        program.find_layers(),
        None,
    )
