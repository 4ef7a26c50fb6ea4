"""Costs from measured kernels: the sum over what a runtime executes, not over what a plan asks for.

Latency = what a model takes in fp32, measured, plus for each layer what its executed kernel takes more or less, plus
roundings, ways back and changes of layout where integer and fp32 kernels meet. The table for the search is the
expansion of that sum to single groups and pairs of neighbours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.executed.kernel_shapes import KernelShape, find_kernel_shapes
from mpsearch.cost.executed.onnxruntime import (
    Executed,
    GraphView,
    executed_layers,
    is_static_int8,
    view_graph,
)
from mpsearch.cost.executed.table import MeasuredKernel, MeasuredModel, MeasuredTable
from mpsearch.cost.kernels import group_of_layers, group_weights, mask_schemes, sum_pairs
from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.schemes import Scheme
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
    stored, parameters = group_weights(graph, space.schemes, mask)
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


@dataclass(frozen=True, slots=True)
class Network:
    """A model on a measured device.

    Attributes:
        view: The model.
        table: What was measured.
        model: Of the model in fp32.
        shapes: [L] kernels.
        floats: [L] each layer's kernel in fp32; None where it has none of its own.
        integers: [L] the same on int8 operands.
        boundaries: Shape to (rounding, way back) in microseconds.
    """

    view: GraphView
    table: MeasuredTable
    model: MeasuredModel
    shapes: tuple[KernelShape | None, ...]
    floats: tuple[MeasuredKernel | None, ...]
    integers: tuple[MeasuredKernel | None, ...]
    boundaries: Mapping[str, tuple[float, float]]

    @property
    def rest_us(self) -> float:
        """What the model takes beside its layers."""
        return self.model.float_us - sum(kernel.us for kernel in self.floats if kernel)

    @property
    def relative_error(self) -> float:
        """Relative standard error of a sum of kernels: that of the median kernel."""
        shares = [k.stderr_us / k.us for k in self.table.kernels if k.us > 0]
        return float(np.median(shares)) if shares else 0.0


def read_network(graph: ModelGraph, device: Device) -> Network:
    """Return ``graph`` as ``device`` measured it.

    Raises:
        DeviceError: The device, the model or a kernel was not measured.
    """
    table = device.measured
    if table is None:
        raise DeviceError(f"{device.name}: model measured needs a [measured] table")
    whole = {model.structure_digest: model for model in table.models}.get(graph.structure_digest)
    if whole is None or whole.batch != graph.batch:
        raise DeviceError(
            f"{device.name} must have measured {graph.name} at batch {graph.batch}, but holds "
            f"{', '.join(f'{m.model} at batch {m.batch}' for m in table.models) or 'no model'}; "
            "make a device file with: mpsearch profile MODEL"
        )
    shapes = find_kernel_shapes(graph)
    rows = {(kernel.kernel, kernel.form): kernel for kernel in table.kernels}
    floats = tuple(rows.get((s.key, "float")) if s else None for s in shapes)
    missing = [s.key for s, kernel in zip(shapes, floats, strict=True) if s and kernel is None]
    if missing:
        raise DeviceError(
            f"{device.name} must have measured every kernel of {graph.name}, but lacks {missing[0]!r}; "
            "profile the model at the sizes that are priced (--shape)"
        )
    return Network(
        view_graph(graph),
        table,
        whole,
        shapes,
        floats,
        tuple(rows.get((s.key, "integer")) if s else None for s in shapes),
        {b.shape: (b.quantize_us, b.dequantize_us) for b in table.boundaries},
    )


def network_us(network: Network, schemes: Sequence[Scheme]) -> float:
    """Return the latency of the model with ``schemes`` [L], in microseconds."""
    executed = _executed(network, schemes)
    total = network.model.float_us
    for how, kernel, integer in zip(executed, network.floats, network.integers, strict=True):
        if how.is_integer and kernel is not None and integer is not None:
            total += integer.us - kernel.us
    if network.table.runtime != "onnxruntime":
        return total
    plain = set(network.model.plain)
    return total + sum(_boundaries(network, schemes, executed, plain))


def _executed(network: Network, schemes: Sequence[Scheme]) -> Sequence[Executed]:
    if network.table.runtime == "onnxruntime":
        return executed_layers(network.view, schemes)
    return [
        Executed(is_static_int8(scheme) and integer is not None)
        for scheme, integer in zip(schemes, network.integers, strict=True)
    ]


def _boundaries(
    network: Network, schemes: Sequence[Scheme], executed: Sequence[Executed], plain: set[str]
) -> Iterator[float]:
    """Yield what roundings, ways back and changes of layout add to the model in fp32."""
    graph = network.view.graph
    coded = {how.rounded: i for i, how in enumerate(executed) if how.rounded}
    readers: dict[str, list[int]] = {}
    for i, (layer, scheme) in enumerate(zip(graph.layers, schemes, strict=True)):
        if not is_static_int8(scheme) or network.shapes[i] is None:
            continue
        gemm = layer.gemms[0]
        for operand in (gemm.left,) if gemm.has_weight else (gemm.left, gemm.right):
            readers.setdefault(operand.value, []).append(i)
    for value, reading in readers.items():
        rounding, back = network.boundaries.get(_sizes(network, value), (0.0, 0.0))
        convs = [i for i in reading if graph.layers[i].op_type == "Conv"]
        integer = [i for i in convs if executed[i].is_integer]
        emulated = [i for i in reading if not executed[i].is_integer]
        into = max((_enter(network.floats[i]) for i in convs), default=0.0)
        if value in coded:
            yield _leave(network.integers[coded[value]]) if emulated else 0.0
        else:
            yield rounding
            if integer:
                yield max(_enter(network.integers[i]) for i in integer)
            if into and value not in plain:
                yield into  # back from blocks: about what going there takes
        if emulated:
            yield back + into
        if integer and not emulated and value in plain and len(convs) == _all_convs(network, value):
            yield -into
    for i, how in enumerate(executed):
        if how.is_integer and graph.layers[i].output in plain:
            yield -_leave(network.floats[i])


def _all_convs(network: Network, value: str) -> int:
    return sum(node.op_type == "Conv" for node in network.view.readers.get(value, ()))


def _enter(kernel: MeasuredKernel | None) -> float:
    return kernel.enter_us if kernel is not None else 0.0


def _leave(kernel: MeasuredKernel | None) -> float:
    return kernel.leave_us if kernel is not None else 0.0


def _sizes(network: Network, value: str) -> str:
    known = network.view.graph.values.get(value)
    return "" if known is None or known.shape is None else "x".join(map(str, known.shape))


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
