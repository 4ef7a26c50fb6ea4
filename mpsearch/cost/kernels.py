"""From a graph to the kernels that run: sizes at the priced batch, layer by layer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpsearch.cost.device import Device, refusal
from mpsearch.cost.gemm import latencies
from mpsearch.cost.products import Products, collect, element_bytes
from mpsearch.errors import DeviceError
from mpsearch.graph.model import Gemm, Group, Layer, ModelGraph
from mpsearch.schemes import Scheme, Spec
from mpsearch.space.allowed import allowed
from mpsearch.space.space import SearchSpace
from mpsearch.space.storage import Storage, stored_weight_bits
from mpsearch.space.stored import Kept, count_parameters, find_kept, total_weight_bytes
from mpsearch.stats.estimates import Bools, Floats, Ints


@dataclass(frozen=True, slots=True)
class Kernel:
    """One matrix product of a layer at the priced batch.

    Attributes:
        gemm: Its sizes.
        input_elements: Elements of the activation tensor that it reads.
        output_elements: Elements of the tensor that it writes.
    """

    gemm: Gemm
    input_elements: int
    output_elements: int


def lower(
    graph: ModelGraph, *, batch: int = 1, tokens: int | None = None, context: int | None = None
) -> tuple[tuple[Kernel, ...], ...]:
    """Return the kernels of each layer at ``batch`` samples of ``tokens`` tokens.

    Args:
        graph: The model, its sizes at the graph's own batch.
        batch: Samples that run together.
        tokens: Rows a sample of the layers that work token by token, in place of what the graph was
            imported at: 1 prices a decoding step. Convolutions keep their sizes.
        context: Tokens whose keys and values self-attention reads; None: as many as in the graph.

    Raises:
        DeviceError: A number is not positive, a layer's size is not known, or the graph has no
            layers that work on tokens.
    """
    if batch < 1 or (tokens is not None and tokens < 1):
        raise DeviceError(f"`batch >= 1` and `tokens >= 1` must hold, got {batch=}, {tokens=}")
    unknown = [x.name for x in graph.layers if any(g.m < 1 or g.calls < 1 for g in x.gemms)]
    if unknown:
        raise DeviceError(
            f"sizes of every layer must be known, but {len(unknown)} of {graph.name} depend on a "
            f"dynamic axis, the first is {unknown[0]!r}; give the shapes of the inputs"
        )
    own = tokens_of(graph) if tokens is not None else 1
    sizes = _Sizes(graph.batch, batch, own, tokens or own, context)
    return tuple(tuple(_kernels(layer, sizes)) for layer in graph.layers)


def context_axis(layer: Layer, index: int) -> str:
    """Return the size of product ``index`` that is the context which self-attention reads: ``n``, ``k`` or ""."""
    by_role = {"attention.scores": "n", "attention.values": "k", "attention.core": "nk"[index % 2]}
    return "" if layer.gemms[index].has_weight else by_role.get(layer.role, "")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Batch and tokens of the graph and of what is priced."""

    own_batch: int
    batch: int
    own_tokens: int
    tokens: int
    context: int | None


def collect_kernels(layers: Sequence[Sequence[Kernel]]) -> tuple[Products, Ints]:
    """Return the N kernels of all layers as arrays, and the layer [N] that each belongs to."""
    flat = [kernel for kernels in layers for kernel in kernels]
    products = collect(
        [kernel.gemm for kernel in flat],
        [kernel.input_elements for kernel in flat],
        [kernel.output_elements for kernel in flat],
    )
    sizes = [len(kernels) for kernels in layers]
    return products, np.repeat(np.arange(len(layers)), sizes)


def layer_latencies(
    device: Device, space: SearchSpace, layers: Sequence[Sequence[Kernel]], mask: Bools
) -> tuple[Floats, Floats]:
    """Return [L, S] microseconds of each layer at each scheme that ``mask`` [G, S] allows somewhere.

    With them their standard errors: a layer's kernels share a curve, so that their errors add up.
    """
    out = space.schemes[space.index(space.base)].activation
    products, layer_of = collect_kernels(layers)
    result = np.zeros((2, len(layers), len(space.schemes)))
    for s, scheme in enumerate(space.schemes):
        if mask[:, s].any():
            runs = computed_in(space, device, scheme) or scheme
            found = latencies(device, runs, products, out=out)
            casts = _casts_us(device, scheme, runs, products, out)
            result[0, :, s] = np.bincount(layer_of, found.mean + casts, len(layers))
            stderr = found.stderr + casts * device.relative_error
            result[1, :, s] = np.bincount(layer_of, stderr, len(layers))
    return result[0], result[1]


def computed_in(space: SearchSpace, device: Device, scheme: Scheme) -> Scheme | None:
    """Return the scheme itself where the device runs it, else what the runtime computes it in; None: nothing runs."""
    if not refusal(device, scheme):
        return scheme
    fallback = space.fusing.fallback(scheme)
    return fallback if fallback is not None and not refusal(device, fallback) else None


def _casts_us(
    device: Device, scheme: Scheme, runs: Scheme, products: Products, out: Spec
) -> Floats:
    """Microseconds [N] of the casts around kernels that compute in another scheme: a pass each.

    What is read comes in the scheme's own format; what is written goes out in the base format.
    """
    result = np.zeros(len(products.m))
    bandwidth = device.bandwidth_gb_s * 1e3 * device.memory_efficiency
    for spec, elements in (
        (scheme.activation, products.input_elements),
        (out, products.output_elements),
    ):
        if spec != runs.activation and scheme != runs:
            moved = element_bytes(spec) + element_bytes(runs.activation)
            result += device.launch_us + elements * (moved / bandwidth + device.dequantize_ns / 1e3)
    return result


def mask_schemes(
    graph: ModelGraph, space: SearchSpace, device: Device
) -> tuple[Bools, dict[tuple[str, str], str]]:
    """Return what space and device allow each group, and why not the rest.

    Raises:
        DeviceError: The device cannot compute in the base format.
    """
    base = space.schemes[space.index(space.base)]
    if computed_in(space, device, base) is None:
        reason = refusal(device, base)
        casts = ", ".join(f for f in ("fp32", "bf16", "fp16") if f in device.formats) or "none"
        raise DeviceError(
            f"the base format must run on the device, but {reason}; "
            f"choose a base that it computes: {casts}"
        )
    mask, reasons = allowed(space, graph)
    for s, scheme in enumerate(space.schemes):
        if computed_in(space, device, scheme) is None:
            reason = refusal(device, scheme)
            for g in np.flatnonzero(mask[:, s]):
                reasons[graph.groups[g].name, scheme.name] = reason
            mask[:, s] = False
    return mask, reasons


def group_weights(graph: ModelGraph, space: SearchSpace, mask: Bools) -> tuple[Floats, Ints]:
    """Return [G, S] stored bytes and [G] parameters, as :func:`mpsearch.space.stored.total_weight_bytes` counts."""
    schemes, storage = space.schemes, space.storage
    kept = find_kept(graph, space.base if storage.kept == "base" else "")
    owned = [_owned_weights(graph, group, kept) for group in graph.groups]
    stored = _owned_bytes(owned, schemes, storage)
    stored[~mask] = 0.0
    for g, group in enumerate(graph.groups):
        if owned[g] is None:
            for s in np.flatnonzero(mask[g]).tolist():
                chosen = dict.fromkeys(group.layers, schemes[s])
                stored[g, s] = total_weight_bytes(graph, chosen, kept, storage)
    parameters = [count_parameters(graph, group.layers) for group in graph.groups]
    return stored, np.array(parameters, np.int64)


def _owned_weights(graph: ModelGraph, group: Group, kept: Kept) -> list[Gemm] | None:
    """The weights of a group, each stored once for one reader; None where layers or operators share one."""
    gemms = [gemm for i in group.layers for gemm in graph.layers[i].gemms if gemm.has_weight]
    sources = [gemm.right.source or gemm.right.value for gemm in gemms]
    shared = len(set(sources)) < len(sources) or any(source in kept.sizes for source in sources)
    return None if shared else gemms


def _owned_bytes(
    owned: Sequence[Sequence[Gemm] | None], schemes: Sequence[Scheme], storage: Storage
) -> Floats:
    """[G, S] stored bytes of weights that nothing shares; 0 of a group that has others."""
    flat = [(g, gemm) for g, gemms in enumerate(owned) for gemm in gemms or ()]
    sizes = [(gemm.n, gemm.positions, gemm.k // gemm.positions) for _, gemm in flat]
    rows = np.array(sizes, np.int64).reshape(-1, 3).T
    groups = np.array([g for g, _ in flat], np.int64)
    columns = []
    for scheme in schemes:
        bits = np.broadcast_to(stored_weight_bits(storage, scheme, *rows), groups.shape)
        columns.append(np.bincount(groups, bits / 8, len(owned)))
    return np.stack(columns, axis=1)


def sum_groups(graph: ModelGraph, layers: Floats) -> Floats:
    """Return the [G, S] sums over each group's layers of ``layers`` [L, S]."""
    return np.stack([layers[list(group.layers)].sum(axis=0) for group in graph.groups])


def sum_pairs(terms: Iterable[tuple[int, int, Floats]], n_schemes: int) -> tuple[Ints, Floats]:
    """Add up pair terms by pair of groups.

    Args:
        terms: Group a, group b and what each (scheme of a, scheme of b) costs, [S, S].
        n_schemes: S.

    Returns:
        [E, 2] edges, the smaller group first, and [E, S, S] terms.
    """
    totals: dict[tuple[int, int], Floats] = {}
    for a, b, term in terms:
        key, value = ((a, b), term) if a < b else ((b, a), term.T)
        totals[key] = totals[key] + value if key in totals else np.array(value)
    edges = np.array(list(totals), np.int64).reshape(-1, 2)
    pairs = np.array(list(totals.values())).reshape(-1, n_schemes, n_schemes)
    return edges, pairs


def group_of_layers(graph: ModelGraph) -> Mapping[int, int]:
    """Return layer index → group index."""
    return {i: g for g, group in enumerate(graph.groups) for i in group.layers}


def _kernels(layer: Layer, sizes: _Sizes) -> Iterator[Kernel]:
    for index, gemm in enumerate(layer.gemms):
        scaled, reads_context = _scaled(layer, index, sizes)
        rows, own = scaled.m * scaled.calls, gemm.m * gemm.calls
        if len(layer.gemms) == 1 and not reads_context:
            yield Kernel(
                scaled,
                _scale(layer.input_elements, rows, own),
                _scale(layer.output_elements, rows, own),
            )
        else:
            yield Kernel(scaled, rows * scaled.k, rows * scaled.n)


def _scaled(layer: Layer, index: int, sizes: _Sizes) -> tuple[Gemm, bool]:
    """Product ``index`` at what is priced, and whether it runs over a context that was given."""
    gemm = layer.gemms[index]
    m, n, k, calls = gemm.m, gemm.n, gemm.k, gemm.calls
    if gemm.batch_in_m:
        m = _scale(m, sizes.batch, sizes.own_batch)
    else:
        calls = _scale(calls, sizes.batch, sizes.own_batch)
    if _rows_per_sample(gemm, sizes.own_batch) == sizes.own_tokens and gemm.positions == 1:
        m = _scale(m, sizes.tokens, sizes.own_tokens)
    axis = context_axis(layer, index) if sizes.context is not None else ""
    if sizes.context is not None:
        n, k = (sizes.context if axis == name else size for name, size in (("n", n), ("k", k)))
    same = (m, n, k, calls) == (gemm.m, gemm.n, gemm.k, gemm.calls)
    return gemm if same else replace(gemm, m=m, n=n, k=k, calls=calls), bool(axis)


def _scale(value: int, to: int, of: int) -> int:
    return max(1, round(value * to / of))


def _rows_per_sample(gemm: Gemm, batch: int) -> int:
    return gemm.m // batch if gemm.batch_in_m else gemm.m


def tokens_of(graph: ModelGraph) -> int:
    """Return the rows a sample of the layers that hold most parameters of matrix products on tokens.

    Raises:
        DeviceError: No layer works token by token.
    """
    votes: dict[int, int] = {}
    for layer in graph.layers:
        for gemm in layer.gemms:
            rows = _rows_per_sample(gemm, graph.batch)
            if gemm.has_weight and not layer.op_type.startswith("Conv") and rows > 1:
                votes[rows] = votes.get(rows, 0) + gemm.parameters
    if not votes and any(layer.role.startswith("attention.") for layer in graph.layers):
        return 1  # a decoder that was imported at one token
    if not votes:
        raise DeviceError(f"`tokens` needs layers that work token by token; {graph.name} has none")
    return max(votes, key=lambda rows: votes[rows])
