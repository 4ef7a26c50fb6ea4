"""A model as a device measured it: its layers' kernels, what rounds its tensors, and the whole of it in fp32."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mpsearch.cost.device import Device
from mpsearch.cost.executed.kernel_shapes import KernelShape, find_kernel_shapes
from mpsearch.cost.executed.onnxruntime import GraphView, view_graph
from mpsearch.cost.executed.table import (
    MeasuredBoundary,
    MeasuredKernel,
    MeasuredModel,
    MeasuredTable,
)
from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph


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
        boundaries: Shape to what rounding a tensor takes.
    """

    view: GraphView
    table: MeasuredTable
    model: MeasuredModel
    shapes: tuple[KernelShape | None, ...]
    floats: tuple[MeasuredKernel | None, ...]
    integers: tuple[MeasuredKernel | None, ...]
    boundaries: Mapping[str, MeasuredBoundary]

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
        {boundary.shape: boundary for boundary in table.boundaries},
    )
