"""What a plan changes of its model's tensors: recovered, trained or transformed ones, in memory."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.graph.onnx_file.constants import Constants, in_memory
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.schemes import Spec

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
        ranges: (value, activation spec) to the range that values have with these constants.
    """

    weights: Mapping[Product, QuantizedTensor] = field(default_factory=dict)
    biases: Mapping[int, Tensor] = field(default_factory=dict)
    constants: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    ranges: Mapping[tuple[str, Spec], Range] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return bool(self.weights or self.biases or self.constants)


def change_constants(graph: ModelGraph, changes: Changes) -> ModelGraph:
    """Return ``graph`` with the changed constants in the place of its own."""
    if not changes.constants:
        return graph
    known = graph.constants
    if not isinstance(known, Constants):
        return replace(graph, constants={**known, **changes.constants})
    changed = {
        name: in_memory(array, known.entries[name].source if name in known else name)
        for name, array in changes.constants.items()
    }
    return replace(graph, constants=Constants(known.entries | changed, known.originals))


def constant_type(graph: ModelGraph, name: str) -> tuple[tuple[int, ...], str]:
    """Return shape and numpy's name of the type of a constant, which is not read for it."""
    known = graph.constants
    found = known.entries[name] if isinstance(known, Constants) else known[name]
    return tuple(found.shape), found.dtype.name


def constant_source(graph: ModelGraph, name: str) -> str:
    """Return the initialiser of the user's file that a constant stems from."""
    known = graph.constants
    return known.entries[name].source if isinstance(known, Constants) else name


def output_channel_axis(layer: Layer) -> int | None:
    """Return the axis of a layer's output that its bias runs along; None where it can take none."""
    if layer.op_type in ("Conv", "ConvTranspose"):
        return 1
    right = layer.gemms[0].right
    if layer.op_type == "Gemm" or (layer.op_type == "MatMul" and right.channel_axes):
        return -2 if layer.has_weight and right.input_index == 0 else -1
    return None


def output_channels(graph: ModelGraph, layer: int) -> int | None:
    """Return N, the size of a layer's output along :func:`output_channel_axis`; None where it can take no bias."""
    owner = graph.layers[layer]
    axis = output_channel_axis(owner)
    if axis is None:
        return None
    if owner.op_type == "MatMul":  # a stack of weights shares one bias
        return constant_type(graph, owner.gemms[0].right.value)[0][axis]
    return owner.n or None


def digest_changes(changes: Changes) -> str:
    """Return the SHA-256 of every tensor of ``changes`` and of where it belongs."""
    digest = hashlib.sha256()

    def feed(where: object, *arrays: NDArray[np.generic]) -> None:
        digest.update(repr(where).encode("utf-8", "surrogatepass"))
        for array in arrays:
            digest.update(repr((array.shape, array.dtype.name)).encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    for at, weight in sorted(changes.weights.items()):
        codes = weight.codes + 0.0  # integers have one zero
        parts = (codes, weight.scales, weight.zeros, weight.mask)
        feed((at, weight.spec, weight.sparsity, weight.tensor_scale, [p is None for p in parts]))
        feed("parts", *(part.cpu().numpy() for part in parts if part is not None))
    for layer, bias in sorted(changes.biases.items()):
        feed(layer, bias.detach().cpu().numpy())
    for name, constant in sorted(changes.constants.items()):
        feed(name, constant)
    for key, known in sorted(changes.ranges.items(), key=repr):
        feed((key, known))
    return digest.hexdigest()


def add_bias(output: Tensor, bias: Tensor, layer: Layer) -> Tensor:
    """Return ``output`` of ``layer`` with ``bias`` [N] added along its channels."""
    axis = output_channel_axis(layer)
    assert axis is not None
    shape = [1] * output.ndim
    shape[axis] = -1
    return output + bias.to(output.device, output.dtype).reshape(shape)
