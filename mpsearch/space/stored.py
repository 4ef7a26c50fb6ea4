"""What the decided weights take once they are stored: the one number of costs, limits, plans and exports.

A weight is stored once for all layers that read it alike in one scheme. What other operators read of it,
such as a tied embedding table that rows are looked up in, stays beside it in its own type; layers that stay in that
type read the same tensor.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from mpsearch.formats import find_format
from mpsearch.graph.layers.traversal import all_nodes, bodies
from mpsearch.graph.model import Gemm, ModelGraph, Operand
from mpsearch.graph.onnx_file.constants import Constants
from mpsearch.schemes import Scheme
from mpsearch.space.storage import CANONICAL, Storage, stored_weight_bits

_CASTS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of decided tensors in the model's own types, because operators read it that are no layers.

    Attributes:
        sizes: Tensor of the user's file to what stays of it: value name to bytes.
        twins: Weight of a layer to what stays and is the same, or the same transposed.
        format: Plain format that it is all stored in; "" as it is.
    """

    sizes: Mapping[str, Mapping[str, int]]
    twins: Mapping[str, str]
    format: str = ""


def weight_key(operand: Operand, scheme: Scheme, own: int) -> object:
    """Return what layers must have in common to read one stored weight; ``own`` is a layer that has its own, else -1."""
    return operand, scheme.weight, scheme.sparsity, scheme.recovery, own


def weight_bits(scheme: Scheme, gemm: Gemm, storage: Storage = CANONICAL) -> int:
    """Return the stored bits of a product's weight, scales and metadata included."""
    return _weight_bits(storage, scheme, gemm.n, gemm.positions, gemm.k // gemm.positions)


def total_weight_bytes(
    graph: ModelGraph, chosen: Mapping[int, Scheme], kept: Kept, storage: Storage = CANONICAL
) -> int:
    """Return the bytes that the weights of some layers take, each in its layer's scheme.

    Args:
        graph: The model.
        chosen: Layer index to scheme; layers that share a weight tensor are all there or none.
        kept: As :func:`find_kept` returns it.
        storage: How the target's exporter stores weights.
    """
    total = 0
    sources = set()
    for gemm, scheme in _stored(graph, chosen):
        value = gemm.right.value
        sources.add(gemm.right.source or value)
        if not (value in kept.twins and _is_stored_like(graph, value, scheme, kept)):
            total += weight_bits(scheme, gemm, storage) // 8
    return total + sum(size for source in sources for size in kept.sizes.get(source, {}).values())


def count_parameters(graph: ModelGraph, layers: Iterable[int]) -> int:
    """Return the elements of the user's weight tensors that some layers multiply with."""
    sizes: dict[str, dict[str, int]] = {}
    for i in layers:
        for gemm in graph.layers[i].gemms:
            if gemm.has_weight:
                source = gemm.right.source or gemm.right.value
                sizes.setdefault(source, {})[gemm.right.value] = gemm.parameters
    total = 0
    for source, values in sizes.items():  # slices of it, or copies
        size = sum(values.values())
        original = _original_size(graph, source)
        total += size if original is None else min(size, original)
    return total


def find_kept(graph: ModelGraph, format: str = "") -> Kept:
    """Return what stays of decided tensors: what operators read that are no layers, and what is an output.

    Args:
        graph: The model.
        format: Plain format that it is stored in; "" its own.
    """
    decided: dict[str, str] = {}
    readers: set[tuple[str, int]] = set()
    for layer in graph.layers:
        for gemm in layer.gemms:
            if gemm.has_weight:
                decided[gemm.right.value] = gemm.right.source or gemm.right.value
                readers.add((layer.name, gemm.right.input_index))
    sources = set(decided.values())
    sizes: dict[str, dict[str, int]] = {}
    for name in _read_elsewhere(graph, readers):
        source = decided.get(name) or _source(graph, name)
        if source in sources:
            size = prod(_shape(graph, name)) * find_format(format).bits // 8 if format else 0
            sizes.setdefault(source, {})[name] = size or _nbytes(graph, name)
    twins = {}
    for value, source in decided.items():
        beside = sizes.get(source, {})
        turned = (name for name in beside if _is_transposed(graph, name, value))
        twin = value if value in beside else next(turned, None)
        if twin is not None:
            twins[value] = twin
    return Kept(sizes, twins, format)


def _is_transposed(graph: ModelGraph, name: str, value: str) -> bool:
    """Whether a constant is a layer's weight with its two axes exchanged."""
    if len(_shape(graph, name)) != 2 or _shape(graph, name) != _shape(graph, value)[::-1]:
        return False
    return np.array_equal(graph.constants[name].T, graph.constants[value])


def keeps_type(graph: ModelGraph, value: str, scheme: Scheme) -> bool:
    """Return whether a scheme stores a weight as the model does: in the same type, unpruned."""
    if scheme.sparsity is not None or not scheme.weight.is_cast:
        return False
    return value in graph.constants and _CASTS.get(_dtype(graph, value)) == scheme.weight.format


def _is_stored_like(graph: ModelGraph, value: str, scheme: Scheme, kept: Kept) -> bool:
    """Whether ``scheme`` stores a layer's weight as its twin among what stays is stored."""
    if not kept.format:
        return keeps_type(graph, value, scheme)
    is_plain = scheme.weight.is_cast and scheme.sparsity is None
    return is_plain and scheme.weight.format == kept.format


def _stored(graph: ModelGraph, chosen: Mapping[int, Scheme]) -> Iterator[tuple[Gemm, Scheme]]:
    seen = set()
    for i, scheme in chosen.items():
        for gemm in graph.layers[i].gemms:
            own = i if scheme.recovery != "none" else -1  # it depends on what the layer reads
            key = weight_key(gemm.right, scheme, own)
            if gemm.has_weight and key not in seen:
                seen.add(key)
                yield gemm, scheme


def _read_elsewhere(graph: ModelGraph, readers: set[tuple[str, int]]) -> dict[str, None]:
    """Names of constants that something reads in another place than ``readers`` (layer name, input)."""
    names: dict[str, None] = {}
    for node in all_nodes(graph.nodes):
        for i, name in enumerate(node.inputs):
            if name in graph.constants and (node.name, i) not in readers:
                names[name] = None
        for body in bodies(node):
            names.update((o.name, None) for o in body.outputs if o.name in graph.constants)
    names.update((o.name, None) for o in graph.outputs if o.name in graph.constants)
    return names


def _source(graph: ModelGraph, name: str) -> str:
    constants = graph.constants
    return constants.entries[name].source if isinstance(constants, Constants) else name


def _nbytes(graph: ModelGraph, name: str) -> int:
    constants = graph.constants
    return int((constants.entries if isinstance(constants, Constants) else constants)[name].nbytes)


def _shape(graph: ModelGraph, name: str) -> tuple[int, ...]:
    constants = graph.constants
    return (constants.entries if isinstance(constants, Constants) else constants)[name].shape


def _dtype(graph: ModelGraph, name: str) -> str:
    constants = graph.constants
    found = (constants.entries if isinstance(constants, Constants) else constants)[name].dtype
    return str(found.name)


def _original_size(graph: ModelGraph, source: str) -> int | None:
    constants = graph.constants
    known = constants.originals if isinstance(constants, Constants) else {}
    return known[source].size if source in known else None


@lru_cache(maxsize=65536)
def _weight_bits(storage: Storage, scheme: Scheme, n: int, positions: int, channels: int) -> int:
    return int(stored_weight_bits(storage, scheme, n, positions, channels))
