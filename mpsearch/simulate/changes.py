"""What a plan changes of its model's tensors: recovered, trained or transformed ones, in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor

Product = tuple[int, int]
"""A layer, and which of its matrix products."""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Tensors that take the place of the model's own, for one assignment of schemes.

    Attributes:
        weights: (layer, product) to what is stored instead of the model's own weight, rounded.
        biases: Layer to fp32 [N], added to its output along :func:`output_channel_axis` before that is rounded
            to the base format.
        constants: Value name to array: constants of the graph that equivalent transforms change, shape and
            type as they were.
    """

    weights: Mapping[Product, QuantizedTensor] = field(default_factory=dict)
    biases: Mapping[int, Tensor] = field(default_factory=dict)
    constants: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return bool(self.weights or self.biases or self.constants)


def change_constants(graph: ModelGraph, changes: Changes) -> ModelGraph:
    """Return ``graph`` with the changed constants in the place of its own."""
    if not changes.constants:
        return graph
    return replace(graph, constants={**graph.constants, **changes.constants})


def output_channel_axis(layer: Layer) -> int | None:
    """Return the axis of a layer's output that its bias runs along; None where it can take none."""
    if layer.op_type in ("Conv", "ConvTranspose"):
        return 1
    if layer.op_type == "Gemm":
        return -1
    if layer.op_type == "MatMul" and layer.has_weight:
        return -1 if layer.gemms[0].right.input_index == 1 else -2
    return None


def add_bias(output: Tensor, bias: Tensor, layer: Layer) -> Tensor:
    """Return ``output`` of ``layer`` with ``bias`` [N] added along its channels."""
    axis = output_channel_axis(layer)
    assert axis is not None
    shape = [1] * output.ndim
    shape[axis] = -1
    return output + bias.to(output.device, output.dtype).reshape(shape)
