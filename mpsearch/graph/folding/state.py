"""What is known while a model is imported; private to the import."""

from collections import ChainMap
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from mpsearch.errors import ModelError
from mpsearch.graph.folding.types_of_outputs import Types, constant_type
from mpsearch.graph.onnx_file.constants import Array, Constant, load_checked

_SMALL_INTEGERS, _SMALL_FLOATS = 65536, 64  # elements: room for indices and shapes, not for weights

_SHARED = frozenset({"inferred", "interns", "declared", "versions"})  # never undone


def is_small(dtype: "np.dtype[np.generic]", size: int) -> bool:
    """Return whether folding reads or computes the elements of such a tensor at once."""
    return dtype.kind in "biuf" and size <= (
        _SMALL_FLOATS if dtype.kind == "f" else _SMALL_INTEGERS
    )


@dataclass(frozen=True, slots=True)
class KnownValue:
    """A small tensor's value in every probe.

    Attributes:
        arrays: One a probe, None where unknown; one alone if it never varies.
        varies: Elements that depend on the batch or on an unbound axis; None: none of them.
    """

    arrays: tuple[Array | None, ...]
    varies: NDArray[np.bool_] | None = None

    def at(self, probe: int) -> Array | None:
        """Return the value in ``probe``."""
        return self.arrays[probe if self.varies is not None else 0]


@dataclass(slots=True)
class Draft:
    """The state of one import.

    Attributes:
        folder: Where external data may lie.
        versions: Domain to opset.
        n_probes: Inferences that run side by side.
        declared: Types that the file states for values that inference does not reach.
        constants: Tensors by final name.
        originals: Floating-point tensors of the user's file.
        types: Final value name to its type in every probe.
        known_values: Final value name to its value in every probe.
        sequences: Name of a sequence to its elements' names, where they are known one by one.
        quantized: Output of QuantizeLinear to what it was quantised from.
        modules: Node name to the exporter's module name.
        removed_quantizers: Pairs of QuantizeLinear and DequantizeLinear that were taken out.
        failures: Probe to the first node whose types contradict each other in it, and how.
        inferred: What inference said of nodes alike; types are told apart by identity.
        interns: Serialised type to the one object that stands for it.
        value_names: Taken value names.
        node_names: Taken node names.
    """

    folder: Path
    versions: Mapping[str, int]
    n_probes: int
    declared: Mapping[str, onnx.TypeProto]
    constants: dict[str, Constant] = field(default_factory=dict)
    originals: dict[str, Constant] = field(default_factory=dict)
    types: dict[str, Types] = field(default_factory=dict)
    known_values: dict[str, KnownValue] = field(default_factory=dict)
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    quantized: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    removed_quantizers: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    inferred: dict[object, list[onnx.TypeProto | None]] = field(default_factory=dict)
    interns: dict[bytes, onnx.TypeProto] = field(default_factory=dict)
    value_names: set[str] = field(default_factory=set)
    node_names: set[str] = field(default_factory=set)

    def add_constant(self, name: str, constant: Constant) -> None:
        """Enter ``constant`` as the value ``name``, its elements too if they are few."""
        self.constants[name] = constant
        self.types[name] = (self.interned(constant_type(constant)),) * self.n_probes
        if is_small(constant.dtype, constant.size):
            with suppress(ModelError):  # reported where the tensor is needed
                self.known_values[name] = KnownValue((load_checked(name, constant),))

    def interned(self, kind: onnx.TypeProto | None) -> onnx.TypeProto | None:
        """Return the one object that stands for all types equal to ``kind``."""
        return None if kind is None else self.interns.setdefault(kind.SerializeToString(), kind)

    def snapshot(self) -> "Draft":
        """Return a copy of the state, for :meth:`restore`."""
        copies = {
            entry.name: copy(getattr(self, entry.name))
            for entry in fields(self)
            if isinstance(getattr(self, entry.name), dict | set) and entry.name not in _SHARED
        }
        return replace(self, **copies)

    def restore(self, earlier: "Draft") -> None:
        """Go back to the state that ``earlier`` holds."""
        for entry in fields(self):
            setattr(self, entry.name, getattr(earlier, entry.name))

    def version(self, domain: str) -> int:
        """Return the opset version of ``domain``."""
        return self.versions.get("" if domain == "ai.onnx" else domain, 1)

    def fresh_value(self, wish: str) -> str:
        """Return and take ``wish``, or a name like it that is free."""
        return _take(wish, self.value_names)

    def fresh_node(self, wish: str, otherwise: str) -> str:
        """Return and take a free node name: ``wish``, else ``otherwise``, else one like it."""
        if wish and wish not in self.node_names:
            self.node_names.add(wish)
            return wish
        return _take(otherwise or wish or "node", self.node_names)


@dataclass(frozen=True, slots=True)
class Scope:
    """One graph of the model while its nodes are folded: the main one, or a body in it.

    Attributes:
        names: Name in the file to name in the folded graph, outer graphs included; nodes add theirs.
        kept: Final names of the graph's outputs, which must stay outputs of nodes.
        path: Of the graph, "" for the model itself, else ending in "/".
        draft: State of the import.
    """

    names: ChainMap[str, str]
    kept: frozenset[str]
    path: str
    draft: Draft


def _take(wish: str, taken: set[str]) -> str:
    name, count = wish, 1
    while name in taken:
        count += 1
        name = f"{wish}#{count}"
    taken.add(name)
    return name
