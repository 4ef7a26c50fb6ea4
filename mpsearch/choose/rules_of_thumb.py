"""What practitioners do by hand: one narrow format everywhere, but for the layers that are said to need more.

A rule is called with a simulator, the narrow scheme's index and what is allowed [G, S], and returns an assignment [G].
Such plans are measured beside the uniform ones: a search that does not beat them has found nothing.
"""

from collections.abc import Sequence

import numpy as np

from mpsearch.problem.front import Point
from mpsearch.problem.problem import Problem
from mpsearch.registry import find
from mpsearch.schemes import Scheme
from mpsearch.search.measured.points import make_points
from mpsearch.sensitivity.sqnr import decibels, measure_noise
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import uniform
from mpsearch.stats.estimates import Bools, Ints

_ENOUGH_DB = 15.0
_PREFIX = "rule "


def rule_label(name: str) -> str:
    """Return what tables call the plan of the rule ``name``."""
    return _PREFIX + name


def is_rule_label(label: str) -> bool:
    """Whether ``label`` is that of a rule's plan."""
    return label.startswith(_PREFIX)


def first_last(simulator: Simulator, narrow: int, allowed: Bools) -> Ints:
    """The first and the last layer with weights stay in the base format, all others are narrow."""
    layers = [i for i, layer in enumerate(simulator.graph.layers) if layer.has_weight]
    return _keep_base(simulator, narrow, allowed, {*layers[:1], *layers[-1:]})


def embeddings_heads(simulator: Simulator, narrow: int, allowed: Bools) -> Ints:
    """Heads, and embeddings that are layers, stay in the base format, all others are narrow."""
    kept = {
        i
        for i, layer in enumerate(simulator.graph.layers)
        if layer.role.startswith(("head", "embedding"))
    }
    return _keep_base(simulator, narrow, allowed, kept)


def snr_15db(simulator: Simulator, narrow: int, allowed: Bools) -> Ints:
    """Layers whose operands keep less than 15 dB over the narrow format's noise take 8 bits, all others are narrow."""
    wide = [s for s, scheme in enumerate(simulator.space.schemes) if _is_eight_bits(scheme)]
    wanted = np.zeros_like(allowed)
    wanted[:, [narrow, *wide]] = allowed[:, [narrow, *wide]]
    found = measure_noise(simulator, wanted)
    noise = found.weight + found.activation
    base = simulator.space.index(simulator.space.base)
    assignment = _keep_base(simulator, narrow, allowed, set())
    for g in np.flatnonzero(decibels(noise[:, narrow]) < _ENOUGH_DB):
        if assignment[g] == narrow:
            choices = [s for s in wide if allowed[g, s]]
            assignment[g] = min(choices, key=lambda s: noise[g, s]) if choices else base
    return assignment


def rule_points(names: Sequence[str], problem: Problem, simulator: Simulator) -> dict[str, Point]:
    """Return label to predicted point of the rules' plans; none where no dense scheme is faster than the base.

    They are narrow in the dense scheme whose uniform plan is the fastest, then the smallest. A rule that gives a uniform plan
    is left out.

    Args:
        names: Rules.
        problem: The tables, whose totals the points predict.
        simulator: Holds space, model and data.

    Raises:
        UnknownNameError: There is no such rule.
    """
    space, allowed = simulator.space, problem.allowed
    dense = [s for s, scheme in enumerate(space.schemes) if scheme.sparsity is None]
    plans = [uniform(space, simulator.graph, space.names[s], allowed) for s in dense]
    totals = problem.evaluate(np.array(plans))
    fastest = dense[int(np.lexsort((totals["weight_bytes"], totals["latency_us"]))[0])]
    if space.names[fastest] == space.base or not names:
        return {}
    found = {name: find("rules", name)(simulator, fastest, allowed) for name in names}
    uniforms = {tuple(plan.tolist()) for plan in plans}
    found = {name: plan for name, plan in found.items() if tuple(plan.tolist()) not in uniforms}
    if not found:
        return {}
    points = make_points(problem, np.array(list(found.values()), np.int64), method="rule")
    return dict(zip(map(rule_label, found), points, strict=True))


def _keep_base(simulator: Simulator, narrow: int, allowed: Bools, kept: set[int]) -> Ints:
    """The narrow scheme where it is allowed, but for the groups of the layers ``kept``."""
    space, graph = simulator.space, simulator.graph
    found = uniform(space, graph, space.names[narrow], allowed)
    touched: Bools = np.array([not kept.isdisjoint(group.layers) for group in graph.groups])
    found[touched] = space.index(space.base)
    return found


def _is_eight_bits(scheme: Scheme) -> bool:
    bits = {scheme.weight.element.bits, scheme.activation.element.bits}
    return bits == {8} and scheme.sparsity is None
