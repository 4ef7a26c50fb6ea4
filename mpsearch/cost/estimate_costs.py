"""Costs of a whole network: which device, which cost model."""

from pathlib import Path
from typing import Protocol

from mpsearch.cost.device import Device, read_device
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
        """Return ``latency_us``, ``weight_bytes`` and what else is known, with pair terms."""


def estimate_costs(
    graph: ModelGraph,
    space: SearchSpace,
    device: Device | str | Path,
    *,
    batch: int = 1,
    tokens: int | None = None,
) -> Costs:
    """Price every group at every scheme by the cost model that the device's file names.

    Args:
        graph: The model.
        space: The schemes, and where they are allowed.
        device: A device, the name of one that ships, or the path of a device file.
        batch: Samples that one latency is for.
        tokens: Rows a sample of layers that work token by token; None is what the graph says.

    Returns:
        Costs; ``allowed`` is what space and device take, with a reason for each refusal.

    Raises:
        UnknownNameError: No such device or cost model.
        DeviceError: The device cannot compute in the base format, or a size is not positive.
    """
    check_argument("graph", graph, ModelGraph, "as import_onnx returns it")
    check_argument("space", space, SearchSpace, "as read_space returns it")
    if isinstance(device, str | Path):
        device = read_device(device)
    check_argument("device", device, Device, "as read_device returns it")
    model: CostModel = find("cost_models", device.model)
    return model(graph, space, device, batch=batch, tokens=tokens)
