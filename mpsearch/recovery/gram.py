"""Recovered weights of sparse layers: pruned in the Gram matrix of what the layer reads on the data."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.graph.model import Gemm, ModelGraph, Node
from mpsearch.program.operators.attributes import integers, text
from mpsearch.program.operators.convolution import same_pads
from mpsearch.program.program import Program, Step
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.recovery.obs import find_gram, find_patch_gram, recover
from mpsearch.schemes import Scheme

RECOVERABLE = ("Conv", "Gemm", "MatMul")
"""Operators whose inputs' Gram matrix is known."""


GramKey = tuple[object, ...]


class Recovery:
    """Recovers pruned weights from Gram matrices that are streamed: one pass over the data for many layers.

    The first layer asked for brings along as many of those after it as fit in memory; layers that read
    one value in one way share a matrix. What was recovered is kept, in files without names.
    """

    __slots__ = (
        "_feeds",
        "_grams",
        "_graph",
        "_limit",
        "_made",
        "_mask",
        "_nodes",
        "_program",
    )

    def __init__(
        self,
        graph: ModelGraph,
        program: Program,
        feeds: Callable[[], Iterable[Mapping[str, Tensor]]],
        *,
        limit: int,
        mask: str | None = None,
    ) -> None:
        """Recover layers of ``graph`` on the data that ``feeds`` yields.

        Args:
            graph: The model.
            program: The fp32 program, which is run.
            feeds: Called for each pass; yields input name to tensor of each batch.
            limit: Bytes that Gram matrices may take at a time; one layer's may take more.
            mask: Input that says which positions count: padding tells nothing of a layer's inputs.
        """
        self._graph, self._program, self._feeds = graph, program, feeds
        self._limit, self._mask = limit, mask
        self._nodes = {layer: step.node for layer, (_, step) in program.find_layers().items()}
        self._grams: dict[GramKey, Tensor] = {}
        self._made: dict[tuple[int, int, str], Tensor] = {}

    def __call__(self, layer: int, gemm: int, weight: Tensor, scheme: Scheme) -> Tensor:
        """Return the recovered fp32 weight of a layer's product.

        Raises:
            SchemeError: The layer is none whose inputs' Gram matrix is known.
        """
        owner = self._graph.layers[layer]
        if (reason := self.refuse(layer)) or scheme.sparsity is None:
            raise SchemeError(reason or f"recovery obs is for sparse schemes, got {scheme.name}")
        place = (layer, gemm, scheme.sparsity)
        if place not in self._made:
            product = owner.gemms[gemm]
            made = recover(
                weight,
                scheme.sparsity,
                self._gram(layer, gemm),
                reduction_axis=product.right.reduction_axis,
                channel_axes=product.right.channel_axes,
                groups=product.right.groups,
                name=f"{owner.name}: weight",
            )
            self._made[place] = _put_aside(made)
        return self._made[place]

    def refuse(self, layer: int) -> str:
        """Return why a layer cannot be recovered, "" where it can."""
        owner = self._graph.layers[layer]
        if owner.op_type in RECOVERABLE:
            return ""
        return (
            f"recovery obs is for {', '.join(RECOVERABLE)}, but {owner.name!r} is a {owner.op_type}"
        )

    def _gram(self, layer: int, gemm: int) -> Tensor:
        key = self._key(layer, gemm)
        if key not in self._grams:
            self._grams = {}
            self._stream(self._choose(layer))
        if key not in self._grams:
            name = self._graph.layers[layer].name
            raise SchemeError(f"recovery obs of layer {name!r} needs calibration data")
        return self._grams[key]

    def _key(self, layer: int, gemm: int) -> GramKey:
        """What layers must have in common to share a Gram matrix."""
        owner = self._graph.layers[layer]
        product = owner.gemms[gemm]
        if owner.op_type != "Conv":
            return product.left.value, product.left.reduction_axis
        node = self._nodes[layer]
        weight = self._program.constants[self._program.slots[product.right.value]]
        names = ("strides", "pads", "dilations", "auto_pad")
        attributes = tuple((name, repr(node.attributes.get(name))) for name in names)
        return product.left.value, product.groups, tuple(weight.shape[2:]), attributes

    def _choose(self, first: int) -> dict[int, list[int]]:
        """Layer to its products: ``first`` and, in turn, those that fit beside it."""
        chosen: dict[int, list[int]] = {}
        seen: set[GramKey] = set()
        size, count = 0, len(self._graph.layers)
        for layer in (*range(first, count), *range(first)):
            owner = self._graph.layers[layer]
            if owner.op_type not in RECOVERABLE:
                continue
            for gemm, product in enumerate(owner.gemms):
                if not product.has_weight or (key := self._key(layer, gemm)) in seen:
                    continue
                own = 8 * product.groups * product.k**2
                if chosen and size + own > self._limit:
                    return chosen
                size += own
                seen.add(key)
                chosen.setdefault(layer, []).append(gemm)
        return chosen

    def _stream(self, chosen: Mapping[int, Sequence[int]]) -> None:
        """Add up the Gram matrices of ``chosen`` over the data, each as its layer runs."""
        outer = [
            step for step in self._program.steps if not chosen.keys().isdisjoint(step.layers())
        ]
        slots = [slot for step in outer for slot in step.outputs if slot >= 0]
        schedule = make_schedule(self._program, slots)
        kept: Tensor | None = None

        def call(step: Step, inputs: list[Tensor | None]) -> object:
            for gemm in chosen.get(step.layer, ()):
                product = self._graph.layers[step.layer].gemms[gemm]
                x = inputs[product.left.input_index]
                if x is None:
                    continue
                if kept is not None and x.ndim > 2 and x.shape[:2] == kept.shape:
                    x = x[kept]
                gram = _gram(step.node, product, x, inputs[product.right.input_index])
                key = self._key(step.layer, gemm)
                self._grams[key] = self._grams[key].add_(gram) if key in self._grams else gram
            return step.kernel(*inputs)

        for feed in self._feeds():
            values = self._program.make_values()
            for name, tensor in feed.items():
                values[self._program.slots[name]] = tensor
            kept = feed[self._mask].bool() if self._mask is not None else None
            with torch.no_grad():
                run_schedule(schedule, values, call=call)


def _put_aside(weight: Tensor) -> Tensor:
    """The same weight in a file without a name: memory that the system may take back."""
    with tempfile.TemporaryFile() as file:
        array = np.memmap(file, np.float32, "w+", shape=tuple(weight.shape))
    array[...] = weight.cpu().numpy()
    return torch.from_numpy(array).to(weight.device)


def _gram(node: Node, gemm: Gemm, x: Tensor, weight: Tensor | None) -> Tensor:
    if node.op_type != "Conv" or weight is None:
        return find_gram(x, reduction_axis=gemm.left.reduction_axis)
    rank = weight.ndim - 2
    kernel = tuple(weight.shape[2:])
    strides, dilations = integers(node, "strides") or [1] * rank, integers(node, "dilations")
    spread = dilations or [1] * rank
    pads, auto = integers(node, "pads") or [0] * 2 * rank, text(node, "auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * 2 * rank
    elif auto != "NOTSET":
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
        pads = same_pads(list(x.shape[2:]), extents, strides, auto == "SAME_UPPER")
    return find_patch_gram(
        x,
        kernel=kernel,
        strides=tuple(strides),
        pads=tuple((pads[i], pads[rank + i]) for i in range(rank)),
        dilations=tuple(spread),
        groups=gemm.groups,
    )
