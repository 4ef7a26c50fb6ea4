"""Why a plan gives a layer its scheme: what the next cheaper one would lose, or why it may not be."""

from collections.abc import Mapping, Sequence

import numpy as np

from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs, Table
from mpsearch.stats.digits import number

_MUCH = 0.01  # of the plan's loss: below it a layer is not called sensitive


def scheme_reasons(
    graph: ModelGraph, table: Table, costs: Costs, assignment: Sequence[int]
) -> list[str]:
    """Return a reason for each group.

    A scheme is cheaper if it takes less time, or as much time and fewer bytes.
    """
    allowed = table.allowed & costs.allowed
    reasons: Mapping[tuple[str, str], str] = {**table.reasons, **costs.reasons}
    chosen = np.asarray(assignment)
    G = len(chosen)
    own = table.values[np.arange(G), chosen]
    total = float(np.maximum(own, 0).sum())
    rank = _costs_by_rank(costs)
    return [
        _reason(graph, table, allowed, reasons, rank, (g, int(chosen[g]), total)) for g in range(G)
    ]


def _reason(
    graph: ModelGraph,
    table: Table,
    allowed: np.ndarray,
    reasons: Mapping[tuple[str, str], str],
    rank: list[list[tuple[float, float]]],
    at: tuple[int, int, float],
) -> str:
    g, s, total = at
    cheaper = [t for t in range(len(table.schemes)) if rank[g][t] < rank[g][s]]
    cheaper.sort(key=lambda t: rank[g][t])
    name = table.groups[g]
    free = [t for t in cheaper if allowed[g, t]]
    if not cheaper:
        return "the cheapest scheme of this layer"
    if not free:
        t = cheaper[0]
        why = reasons.get((name, table.schemes[t]), "")
        k = graph.layers[graph.groups[g].layers[0]].k
        return f"{table.schemes[t]} is not allowed: {why or f'K = {k}'}"
    t = min(free, key=lambda t: float(table.values[g, t]))
    more = float(table.values[g, t] - table.values[g, s])
    share = more / total if total > 0 else float("inf") if more > 0 else 0.0
    if share > _MUCH:
        said = f"{100 * share:.0f} %" if share < 10 else f"{number(share, 2)} times"
        return f"sensitive: {table.schemes[t]} would add {said} of the plan's loss"
    return f"{table.schemes[t]} costs less alone, but not with what lies between layers"


def _costs_by_rank(costs: Costs) -> list[list[tuple[float, float]]]:
    zeros = np.zeros((len(costs.groups), len(costs.schemes)))
    latency = costs.objectives.get("latency_us", zeros).tolist()
    size = costs.objectives.get("weight_bytes", zeros).tolist()
    return [list(zip(us, b, strict=True)) for us, b in zip(latency, size, strict=True)]
