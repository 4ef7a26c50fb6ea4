"""Costs from measured kernels: the sum over what a runtime executes, not over what a plan asks for.

Latency = what a model takes in fp32, measured, plus for each layer what its executed kernel takes more or less, plus
roundings, ways back and changes of layout where integer and fp32 kernels meet. The table for the search is the
expansion of that sum to single groups and pairs of neighbours.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.executed.network import Network, read_network
from mpsearch.cost.executed.onnxruntime import is_static_int8
from mpsearch.cost.executed.steps import network_us
from mpsearch.cost.kernels import group_of_layers, group_weights, mask_schemes, sum_pairs
from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Floats


def estimate(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device,
    *,
    batch: int = 1,
    tokens: int | None = None,
    context: int | None = None,
) -> Costs:
    """Price every group at every scheme by the device's measured kernels.

    Only fp32 and static int8 are offered: what the runtime emulates is no faster.

    Raises:
        DeviceError: The model or one of its kernels was not measured, or at another batch.
    """
    network = read_network(graph, device)
    if batch != graph.batch or tokens is not None or context is not None:
        raise DeviceError(
            f"{device.name} was measured at batch {graph.batch}, got batch {batch}"
            + ("" if tokens is None else f" and tokens {tokens}")
            + "; profile the model at the sizes that are priced (--shape)"
        )
    mask, reasons = mask_schemes(graph, space, device)
    for s, scheme in enumerate(space.schemes):
        reason = network.table.emulated.get(scheme.name, "")
        if not reason and scheme.name != "fp32" and not is_static_int8(scheme):
            reason = f"{network.table.runtime} has no kernel for {scheme.name}"
        if reason:
            for g in np.flatnonzero(mask[:, s]):
                reasons[graph.groups[g].name, scheme.name] = reason
            mask[:, s] = False
    singles, pairs = _expand(network, space)
    latency = np.where(mask, singles, 0.0)
    stored, parameters = group_weights(graph, space, mask)
    edges, terms = sum_pairs(pairs, len(space.schemes))
    error = network.relative_error
    return Costs(
        device=device.name,
        groups=tuple(group.name for group in graph.groups),
        schemes=space.names,
        objectives={"latency_us": latency, "weight_bytes": stored},
        stderr={"latency_us": np.abs(latency) * error, "weight_bytes": np.zeros_like(stored)},
        allowed=mask,
        edges=edges,
        pair_terms={"latency_us": terms},
        parameters=parameters,
        constants={"latency_us": network.rest_us},
        reasons=reasons,
        batch=batch,
    )


def _expand(network: Network, space: SearchSpace) -> tuple[Floats, list[tuple[int, int, Floats]]]:
    """[G, S] microseconds of each group, what the model takes beside all groups left out, and pair terms.

    Every way in which two neighbours differ from the sum of their own effects is a pair term. What three or more
    decide together (a convolution that several layers read) is shared out among the pairs that it is read through.
    """
    graph = network.view.graph
    G, S = len(graph.groups), len(space.schemes)
    base = space.index("fp32") if "fp32" in space.names else space.index(space.base)
    narrow = [s for s in range(S) if is_static_int8(space.schemes[s])]
    own = np.zeros(G)
    for g, group in enumerate(graph.groups):
        own[g] = sum(k.us for i in group.layers if (k := network.floats[i]) is not None)
    singles = np.repeat(own[:, None], S, axis=1)
    if not narrow:
        return singles, []
    first = narrow[0]
    at_rest = network.model.float_us

    def change(groups: Sequence[int]) -> float:
        schemes = [space.schemes[base]] * len(graph.layers)
        for g in groups:
            for i in graph.groups[g].layers:
                schemes[i] = space.schemes[first]
        return network_us(network, schemes) - at_rest

    alone = np.array([change([g]) for g in range(G)])
    for s in narrow:
        singles[:, s] += alone
    pairs: dict[tuple[int, int], float] = {}
    stars = _neighbours(network)
    for a, b in sorted({tuple(sorted((c, r))) for c, around in stars for r in around}):
        pairs[a, b] = change([a, b]) - alone[a] - alone[b]
    for centre, around in stars:
        if len(around) < 2:
            continue
        every = [centre, *around]
        seen = sum(alone[g] for g in every)
        seen += sum(pairs.get((min(p), max(p)), 0.0) for p in combinations(every, 2))
        left = (change(every) - seen) / len(around)
        for r in around:
            pairs[min(centre, r), max(centre, r)] += left
    terms = []
    for (a, b), value in pairs.items():
        if abs(value) > 1e-9:
            term = np.zeros((S, S))
            term[np.ix_(narrow, narrow)] = value
            terms.append((a, b, term))
    return singles, terms


def _neighbours(network: Network) -> list[tuple[int, list[int]]]:
    """(group, groups that read what it gives) of all groups, and (first, others) of those that read one tensor."""
    graph = network.view.graph
    group_of = group_of_layers(graph)
    stars: dict[int, set[int]] = {}
    for i, layer in enumerate(graph.layers):
        for r in _reading_layers(network, layer.output):
            if group_of[r] != group_of[i]:
                stars.setdefault(group_of[i], set()).add(group_of[r])
    shared: dict[str, list[int]] = {}
    for i, layer in enumerate(graph.layers):
        gemm = layer.gemms[0]
        for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
            shared.setdefault(operand.value, []).append(group_of[i])
    found = [(g, sorted(around)) for g, around in sorted(stars.items())]
    for groups in shared.values():
        distinct = list(dict.fromkeys(groups))
        found += [(a, [b]) for a, b in pairwise(distinct)]
    return found


def _reading_layers(network: Network, value: str) -> list[int]:
    """Layers that read ``value`` through operators that an integer kernel's rounding may cross."""
    return [network.view.own[name] for name in network.view.reached(value)]
