"""Why a layer takes as long as it does: FLOPs, bytes by level of memory, and what binds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from mpsearch.cost.arrays import work
from mpsearch.cost.device import Device, refusal
from mpsearch.cost.gemm import compute_us, latencies, moved_bytes
from mpsearch.cost.kernels import collect_kernels, lower
from mpsearch.cost.phases import Phase
from mpsearch.cost.products import Products
from mpsearch.errors import DeviceError, UnknownNameError
from mpsearch.graph.model import ModelGraph
from mpsearch.schemes import Scheme, Spec
from mpsearch.space.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Explained:
    """What one layer does in one scheme, all its products together.

    Attributes:
        phase: Phase of tokens; "" where there is only one.
        scheme: Name of the scheme.
        flops: Multiplications and additions of the dense layer.
        latency_us: Its kernels' latency, conversions of its input not included.
        compute_us: Time of the arithmetic alone, by peak or arrays.
        memory_us: Time of the slowest memory alone.
        launch_us: Time of empty kernels.
        busy: Useful arithmetic over what the peak would do in the latency.
        traffic: Level of memory to bytes read of the left operand, read of the right one, and written.
        bound: What takes longest: ``compute``, a memory or ``launch``.
        extrapolated: Whether the latency is of a fitted curve beyond what was measured.
    """

    phase: str
    scheme: str
    flops: int
    latency_us: float
    compute_us: float
    memory_us: float
    launch_us: float
    busy: float
    traffic: Mapping[str, tuple[float, float, float]]
    bound: str
    extrapolated: bool = False


def explain_layer(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device,
    layer: str,
    phases: tuple[Phase, ...],
    *,
    batch: int = 1,
) -> tuple[Explained, ...]:
    """Return what ``layer`` does in each scheme of ``space`` that ``device`` runs, phase by phase.

    Raises:
        DeviceError: Another model prices the device.
        UnknownNameError: The model has no such layer; the message says which are called alike.
    """
    if device.model not in ("roofline", "npu"):
        raise DeviceError(
            f"a layer is explained by the models roofline and npu; {device.name} is priced by {device.model}"
        )
    names = [known.name for known in graph.layers]
    if layer not in names:
        close = get_close_matches(layer, names) or names[:3]
        raise UnknownNameError(
            f"layer must be one of {graph.name}, such as {', '.join(close)}; got {layer!r}; "
            "`mpsearch inspect` lists them"
        )
    found: list[Explained] = []
    for phase in phases:
        lowered = lower(graph, batch=batch, tokens=phase.tokens, context=phase.context)
        products, _ = collect_kernels([lowered[names.index(layer)]])
        found += _explain(space, device, phase.name, products)
    return tuple(found)


def _explain(
    space: SearchSpace, device: Device, phase: str, products: Products
) -> Iterator[Explained]:
    out = space.schemes[space.index(space.base)].activation
    explain = _on_arrays if device.npu is not None else _on_roofline
    for scheme in space.schemes:
        if not refusal(device, scheme):
            yield explain(device, scheme, products, out, phase)


def _on_arrays(
    device: Device, scheme: Scheme, products: Products, out: Spec, phase: str
) -> Explained:
    done = work(device, scheme, products, out=out)
    traffic = {name: _three(bytes_.sum(axis=0).tolist()) for name, bytes_ in done.traffic.items()}
    longest = int(np.argmax(done.latency_us))
    memory_binds = done.memory_us[longest] > done.compute_us[longest]
    return Explained(
        phase=phase,
        scheme=scheme.name,
        flops=2 * int(products.macs.sum()),
        latency_us=float(done.latency_us.sum()),
        compute_us=float(done.compute_us.sum()),
        memory_us=float(done.memory_us.sum()),
        launch_us=device.launch_us * len(products.m),
        busy=float((done.busy * done.compute_us).sum() / done.latency_us.sum()),
        traffic=traffic,
        bound=done.slowest[longest] if memory_binds else "compute",
    )


def _on_roofline(
    device: Device, scheme: Scheme, products: Products, out: Spec, phase: str
) -> Explained:
    found = latencies(device, scheme, products, out=out)
    moved = moved_bytes(device, scheme, products, out)
    compute = float(compute_us(device, scheme, products).sum())
    bandwidth = device.bandwidth_gb_s * 1e3 * device.memory_efficiency
    memory, launch = float(moved.sum() / bandwidth), device.launch_us * len(products.m)
    times = {"compute": compute, "dram": memory, "launch": launch}
    flops, latency = 2 * int(products.macs.sum()), float(found.mean.sum())
    return Explained(
        phase=phase,
        scheme=scheme.name,
        flops=flops,
        latency_us=latency,
        compute_us=compute,
        memory_us=memory,
        launch_us=launch,
        busy=flops / (device.peak_tflops[scheme.rate] * 1e6 * latency),
        traffic={"dram": _three(moved.sum(axis=0).tolist())},
        bound=max(times, key=lambda name: times[name]),
        extrapolated=bool(found.extrapolated.any()),
    )


def _three(values: list[float]) -> tuple[float, float, float]:
    left, right, written = values
    return left, right, written
