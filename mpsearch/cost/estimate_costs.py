"""Costs of a whole network: which device, which cost model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mpsearch.cost.device import Device, read_device
from mpsearch.cost.memory import add_memory
from mpsearch.cost.phases import Phase, Tokens, combine, read_phases
from mpsearch.errors import check_argument
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Costs
from mpsearch.registry import find
from mpsearch.space.space import SearchSpace


class CostModel(Protocol):
    """Prices every group at every scheme on a device."""

    def __call__(
        self,
        graph: ModelGraph,
        space: SearchSpace,
        device: Device,
        *,
        batch: int = 1,
        tokens: int | None = None,
    ) -> Costs:
        """Return ``latency_us``, ``weight_bytes`` and what else is known, with pair terms.

        One that prices phases such as ``decode:1@kv=4096`` also takes ``context``, the tokens that
        self-attention reads.
        """


def estimate_costs(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device | str | Path,
    *,
    batch: int = 1,
    tokens: Tokens | None = None,
    mix: Mapping[str, float] | None = None,
) -> Costs:
    """Price every group at every scheme by the cost model that the device's file names.

    Args:
        graph: The model.
        space: The schemes, and where they are allowed.
        device: A device, the name of one that ships, or the path of a device file.
        batch: Samples that one latency is for.
        tokens: Tokens of a sample, for layers that work token by token; None is what the graph says. Or name of
            a phase to its tokens: ``{"prefill": 2048, "decode": "1@kv=4096"}``, where ``kv`` is how many
            tokens came before, whose keys and values attention reads. Each phase is an objective of its
            own, ``latency_us:decode``.
        mix: Phase to its share of ``latency_us``; None: ``latency_us`` is the sum of one of each.

    Returns:
        Costs; ``allowed`` is what space and device take, with a reason for each refusal. ``memory_bytes`` is
        what must lie in the device's memory at once.

    Raises:
        UnknownNameError: No such device or cost model.
        DeviceError: Phases or their mix cannot be read.
        DeviceError: The device cannot compute in the base format, or a size is not positive.
    """
    check_argument("graph", graph, ModelGraph, "as import_onnx returns it")
    check_argument("space", space, SearchSpace, "as read_space returns it")
    if isinstance(device, str | Path):
        device = read_device(device)
    check_argument("device", device, Device, "as read_device returns it")
    model: CostModel = find("cost_models", device.model)
    phases = read_phases(tokens, mix)
    priced = tuple(
        model(graph, space, device, batch=batch, tokens=phase.tokens, **_context(phase))
        for phase in phases
    )
    return add_memory(combine(priced, phases), graph, space, phases, batch=batch)


def _context(phase: Phase) -> dict[str, Any]:
    """What only a phase with a context says: cost models of one's own need not know it."""
    return {} if phase.context is None else {"context": phase.context}
