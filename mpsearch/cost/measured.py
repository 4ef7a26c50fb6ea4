<<<<<<< HEAD
"""Latencies by fitted kernels: the curve, what it left at measured kernels nearby, and an error for each."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mpsearch.cost.curve import PARAMETERS, Machine, Shapes, curve_us, encode
from mpsearch.cost.device import Device, operand_format
from mpsearch.cost.fitted import FittedKernels, residual_points
from mpsearch.cost.products import Products, element_bytes, padded_reduction, right_bytes
from mpsearch.schemes import Scheme, Spec, parse_sparsity
from mpsearch.stats.estimates import Bools, Floats

LENGTH = 2.0
"""Octaves of M, N or K over which what the curve leaves stays alike; chosen on A100 and RTX 4090."""
VARIANCE = 0.01
"""Of ln latency about a curve; chosen on A100 and RTX 4090, as the next."""
NOISE = 0.002
BOUND = 0.7
"""Largest |ln| that a residual changes a latency by."""
_PER_OCTAVE = 0.05  # relative error that an octave outside the fitted sizes adds
_UNLIKE = 0.25  # relative error of a kernel that was not measured itself, by those of a like format
_LIKE = {"bf16": "fp16", "fp16": "bf16", "mxfp8": "fp8", "fp8": "mxfp8"}
_LIKE |= {"mxfp4": "nvfp4", "nvfp4": "mxfp4", "fp4": "nvfp4"}


@dataclass(frozen=True, slots=True)
class Latencies:
    """N latencies in microseconds.

    Attributes:
        mean: Predicted, [N].
        stderr: Standard error of the prediction, [N].
        extrapolated: Where a size lies outside those that were measured, [N]; all where none was.
    """

    mean: Floats
    stderr: Floats
    extrapolated: Bools


def find_fitted(device: Device, scheme: Scheme) -> tuple[FittedKernels, float] | None:
    """Return the kernels that ``scheme`` runs on, and the relative error of taking these for those.

    Weight-only schemes run as their activations' kernels with fewer bytes. None: nothing was fitted.
    """
    kind = operand_format(scheme.activation)
    exact = {(k.format, k.sparsity): k for k in device.kernels}
    sparsity = scheme.sparsity or "dense"
    unlike = 0.0 if operand_format(scheme.weight) == kind else _UNLIKE
    if (kind, sparsity) in exact:
        return exact[kind, sparsity], unlike
    alike = exact.get((_LIKE.get(kind, ""), sparsity))
    return (alike, max(unlike, _UNLIKE / 2)) if alike is not None else None


def measured_latencies(
    device: Device, scheme: Scheme, products: Products, *, out: Spec
) -> Latencies | None:
    """Return what ``products`` take by the device's fitted kernels; None where it has none for ``scheme``.

    Depthwise layers run on vector units, bound by their bytes. Activations are not quantised here.
    """
    found = find_fitted(device, scheme)
    if found is None:
        return None
    fitted, unlike = found
    shapes = kernel_shapes(scheme, products, out=out)
    machine = machine_of(device, scheme.rate, scheme.sparsity)
    mean = curve_us(theta_of(fitted), machine, shapes)
    table = _table(fitted)
    position = np.log2(np.stack([shapes.m * shapes.copies, shapes.n, shapes.k]))
    left, spread, beyond = table.at(position)
    mean *= np.exp(left)
    error = np.sqrt(spread**2 + unlike**2 + (_PER_OCTAVE * beyond) ** 2)
    outside = (beyond > 0) | (fitted.points == 0)
    depthwise = (products.channels == 1) & (products.groups > 1)
    if depthwise.any():
        vector = _vector_us(device, fitted, products, shapes)
        mean = np.where(depthwise, vector, mean)
        error = np.where(depthwise, np.maximum(error, 2 * _UNLIKE), error)
        outside |= depthwise
    return Latencies(mean, mean * error, outside)


def kernel_shapes(scheme: Scheme, products: Products, *, out: Spec) -> Shapes:
    """Return sizes and bytes of ``products`` in ``scheme``."""
    left = element_bytes(scheme.activation)
    right = right_bytes(scheme, products)
    moved = products.input_elements * left + right + products.output_elements * element_bytes(out)
    n = products.n / products.groups
    return Shapes(
        m=products.m.astype(np.float64),
        n=n,
        k=padded_reduction(scheme, products).astype(np.float64),
        copies=(products.calls * products.groups).astype(np.float64),
        left_bytes=np.full(len(n), left),
        right_bytes=right
        / (products.n * products.k * np.where(products.has_weight, 1, products.calls)),
        moved=moved,
    )


def machine_of(device: Device, rate: str, sparsity: str | None) -> Machine:
    """Return what curves need to know of ``device``; a device whose multiprocessors nobody states has 100."""
    peak = device.peak_tflops[rate] * 1e6
    if sparsity not in (None, "dense"):
        pattern = parse_sparsity(sparsity)
        peak *= pattern.group / pattern.kept
    return Machine(
        flops_per_us=peak,
        bytes_per_us=device.bandwidth_gb_s * 1e3,
        multiprocessors=device.multiprocessors or 100,
        cache_bytes=(device.l2_mb or 0.0) * 1e6,
    )


def theta_of(fitted: FittedKernels) -> Floats:
    """Return the curve's parameters as the vector that :func:`curve_us` takes."""
    return encode(**{name: getattr(fitted, name) for name in PARAMETERS})


def _vector_us(device: Device, fitted: FittedKernels, products: Products, shapes: Shapes) -> Floats:
    rate = device.peak_tflops.get("fp32", min(device.peak_tflops.values())) * 1e6
    compute = 2 * products.macs / (0.5 * rate)
    moved = shapes.moved / (device.bandwidth_gb_s * 1e3 * min(fitted.memory_efficiency, 0.8))
    result: Floats = fitted.launch_us + np.maximum(compute, moved)
    return result


@dataclass(frozen=True, slots=True)
class ResidualTable:
    """What a curve leaves on a grid of log2 sizes, interpolated between them.

    Attributes:
        axes: Nodes of log2 M, N and K, each ascending.
        left: ln of measured over curve, [M, N, K] nodes.
        spread: Its standard error.
        far: Standard error where nothing was measured.
    """

    axes: tuple[Floats, Floats, Floats]
    left: Floats
    spread: Floats
    far: float

    def at(self, position: Floats) -> tuple[Floats, Floats, Floats]:
        """Return residual (0 outside the grid), standard error and octaves outside, [N] each.

        Args:
            position: log2 of M, N and K, [3, N].
        """
        count = position.shape[1]
        if not self.left.size:
            return np.zeros(count), np.full(count, self.far), np.zeros(count)
        beyond = np.zeros(count)
        index, share = [], []
        for nodes, values in zip(self.axes, position, strict=True):
            low, high = nodes[0], nodes[-1]
            beyond = np.maximum(beyond, np.maximum(low - values, values - high))
            if len(nodes) == 1:
                index.append(np.zeros(count, np.int64))
                share.append(np.zeros(count))
                continue
            i = np.clip(np.searchsorted(nodes, values, side="right") - 1, 0, len(nodes) - 2)
            index.append(i)
            share.append(np.clip((values - nodes[i]) / (nodes[i + 1] - nodes[i]), 0.0, 1.0))
        left, spread = np.zeros(count), np.zeros(count)
        steps = [0 if len(nodes) == 1 else 1 for nodes in self.axes]
        shape = self.left.shape
        for a in range(steps[0] + 1):
            for b in range(steps[1] + 1):
                for c in range(steps[2] + 1):
                    weight = share[0] if a else 1 - share[0]
                    weight = weight * (share[1] if b else 1 - share[1])
                    weight *= share[2] if c else 1 - share[2]
                    flat = ((index[0] + a) * shape[1] + index[1] + b) * shape[2] + index[2] + c
                    left += weight * self.left.ravel()[flat]
                    spread += weight * self.spread.ravel()[flat]
        outside = beyond > 1e-9
        return (
            np.where(outside, 0.0, left),
            np.where(outside, self.far, spread),
            np.where(outside, beyond, 0.0),
        )


def residual_table(points: Floats, left: Floats, *, far: float, scale: float) -> ResidualTable:
    """Return the Gaussian process of ``left`` on the grid of the points' own sizes.

    Its covariance falls as exp(-d / 2 octaves) in each size: between neighbouring nodes its mean is close to
    linear, so that a grid loses nothing of note.

    Args:
        points: log2 of M, N, K of measured kernels, [P, 3].
        left: ln of measured over curve, [P].
        far: Standard error of the curve alone.
        scale: Factor on the process's own standard errors.
    """
    axes = tuple(_nodes(points[:, i]) for i in range(3)) if len(points) else (np.zeros(0),) * 3
    if not len(points):
        return ResidualTable(axes, np.zeros((0, 0, 0)), np.zeros((0, 0, 0)), far)  # type: ignore[arg-type]  # three
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    covariance = _covariance(points, points) + NOISE * np.eye(len(points))
    across = _covariance(points, grid)
    solved = np.linalg.solve(covariance, across)
    mean = np.clip(left @ solved, -BOUND, BOUND)
    variance = np.maximum(VARIANCE + NOISE - (solved * across).sum(axis=0), NOISE)
    shape = tuple(len(axis) for axis in axes)
    return ResidualTable(
        axes,  # type: ignore[arg-type]  # three
        mean.reshape(shape),
        (scale * np.sqrt(variance)).reshape(shape),
        far,
    )


def _covariance(a: Floats, b: Floats) -> Floats:
    distance = np.abs(a[:, None, :] - b[None, :, :]).sum(axis=-1)
    result: Floats = VARIANCE * np.exp(-distance / LENGTH)
    return result


def _nodes(values: Floats) -> Floats:
    """Distinct values, those nearer than a fifth of an octave merged; ends are kept."""
    distinct = np.unique(values)
    kept = [distinct[0]]
    for value in distinct[1:]:
        if value - kept[-1] > 0.2:
            kept.append(value)
    if kept[-1] != distinct[-1]:
        kept[-1] = distinct[-1]
    return np.array(kept)


@lru_cache(maxsize=256)
def _cached(lines: tuple[tuple[str, str], ...], far: float, scale: float) -> ResidualTable:
    found = np.array(residual_points(dict(lines)), np.float64).reshape(-1, 4)
    return residual_table(np.log2(found[:, :3]), found[:, 3] / 1000, far=far, scale=scale)


def _table(fitted: FittedKernels) -> ResidualTable:
    lines = tuple(fitted.residual.items())
    return _cached(lines, fitted.relative_error, fitted.error_scale)
=======
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
from mpsearch.cost.kernel_shapes import KernelShape, find_kernel_shapes
from mpsearch.cost.kernels import group_of_layers, group_weights, mask_schemes, sum_pairs
from mpsearch.cost.measured_kernels import MeasuredKernel, MeasuredModel, MeasuredTable
from mpsearch.cost.onnxruntime_kernels import (
    Executed,
    GraphView,
    executed_layers,
    is_static_int8,
    view_graph,
)
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
) -> Costs:
    """Price every group at every scheme by the device's measured kernels.

    Only fp32 and static int8 are offered: what the runtime emulates is no faster.

    Raises:
        DeviceError: The model or one of its kernels was not measured, or at another batch.
    """
    network = read_network(graph, device)
    if batch != graph.batch or tokens is not None:
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
>>>>>>> 8b7dc0b (A machine's own kernels as a device file: measured against a reference, priced as they are executed, and exports measured end to end)
