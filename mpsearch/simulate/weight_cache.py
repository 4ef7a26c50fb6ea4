"""Simulated weights: made once a layer and scheme, kept under a bound of bytes."""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mpsearch.graph.model import Gemm, Layer, ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.program.program import Program
from mpsearch.schemes import Scheme
from mpsearch.simulate.changes import Product
from mpsearch.simulate.layer_weight import quantize_layer_weight, simulate_layer_weight

Recover = Callable[[int, int, Tensor, Scheme], Tensor]
"""(layer, gemm, fp32 weight, scheme) to the fp32 weight that is quantised instead."""


class WeightStore:
    """Weights of all layers in all schemes; of those that do not fit, the most often used are kept.

    A run walks through all layers in turn: where they do not fit, keeping the most recent ones
    would keep none until it is needed again.
    """

    __slots__ = (
        "_bytes",
        "_cache",
        "_changed",
        "_graph",
        "_limit",
        "_program",
        "_recoverers",
        "_uses",
    )

    def __init__(
        self,
        graph: ModelGraph,
        program: Program,
        limit: int,
        recoverers: Mapping[str, Recover] = {},
        changed: Mapping[Product, QuantizedTensor] = {},
    ) -> None:
        """Hold at most ``limit`` bytes of simulated weights.

        Args:
            graph: The model.
            program: The model, compiled.
            limit: Bytes of simulated weights.
            recoverers: By name of the recovery.
            changed: (layer, product) to what a plan stores there, whatever the scheme.
        """
        self._graph, self._program, self._limit = graph, program, limit
        self._cache: dict[object, Tensor] = {}
        self._uses: Counter[object] = Counter()
        self._bytes = 0
        self._recoverers, self._changed = dict(recoverers), changed

    def change(self, program: Program, changed: Mapping[Product, QuantizedTensor]) -> "WeightStore":
        """Return an empty store of the same size for ``program``, in which ``changed`` take the place of others."""
        return WeightStore(self._graph, program, self._limit, self._recoverers, changed)

    def plain(self, layer: int, gemm: int = 0) -> Tensor:
        """Return the fp32 weight as the node reads it."""
        right = self._graph.layers[layer].gemms[gemm].right
        return self._program.constants[self._program.slots[right.value]]

    def amax(self) -> list[float]:
        """Return the largest magnitude among the weights of each layer, 0 where it has none."""
        peaks = []
        for index, layer in enumerate(self._graph.layers):
            gemms = [i for i, gemm in enumerate(layer.gemms) if gemm.has_weight]
            found = [torch.aminmax(self.plain(index, i)) for i in gemms]
            peaks.append(max((max(-float(low), float(high)) for low, high in found), default=0.0))
        return peaks

    def simulated(self, layer: int, scheme: Scheme, gemm: int = 0) -> Tensor:
        """Return the weight in ``scheme``: pruned, then quantised; shape and type as in the graph."""
        right = self._graph.layers[layer].gemms[gemm].right
        own = scheme.recovery != "none" or (layer, gemm) in self._changed
        key = (
            right.value, right.reduction_axis, right.channel_axes, right.groups,
            scheme.weight, scheme.sparsity, scheme.recovery, layer if own else -1,
        )  # fmt: skip
        self._uses[key] += 1
        if key in self._cache:
            return self._cache[key]
        with torch.inference_mode(False), torch.no_grad():
            weight = self._make(layer, scheme, gemm)
        self._keep(key, weight)
        return weight

    def _keep(self, key: object, weight: Tensor) -> None:
        size = _bytes(weight)
        if size > self._limit:
            return
        while self._bytes + size > self._limit:
            rarest = min(self._cache, key=self._uses.__getitem__)
            if self._uses[rarest] >= self._uses[key]:
                return
            self._bytes -= _bytes(self._cache.pop(rarest))
        self._cache[key] = weight
        self._bytes += size

    def recovered(self, layer: int, scheme: Scheme, gemm: int = 0) -> Tensor:
        """Return the pruned and recovered fp32 weight, which schemes of one pattern share."""
        key = (layer, gemm, scheme.sparsity, scheme.recovery)
        self._uses[key] += 1
        if key not in self._cache:
            weight = self.plain(layer, gemm)
            made = self._recoverers[scheme.recovery](layer, gemm, weight, scheme)
            self._keep(key, made)
            return made
        return self._cache[key]

    def quantized(self, layer: int, scheme: Scheme, gemm: int = 0) -> QuantizedTensor:
        """Return the weight as ``scheme`` stores it, of which :meth:`simulated` has the values."""
        if (layer, gemm) in self._changed:
            return self._changed[layer, gemm]
        owner = self._graph.layers[layer]
        return quantize_layer_weight(owner, gemm, scheme, self.source(layer, scheme, gemm))

    def changed(self, layer: int, gemm: int = 0) -> QuantizedTensor | None:
        """Return what a plan stores in the place of the model's weight, None where it does not."""
        return self._changed.get((layer, gemm))

    def source(self, layer: int, scheme: Scheme, gemm: int = 0) -> Tensor:
        """Return what is rounded where a plan stores nothing else: the weight, or what recovery made of it."""
        if scheme.recovery == "none":
            return self.plain(layer, gemm)
        return self.recovered(layer, scheme, gemm)

    def _make(self, layer: int, scheme: Scheme, gemm: int) -> Tensor:
        owner = self._graph.layers[layer]
        if (layer, gemm) in self._changed:
            made = self._changed[layer, gemm].dequantize()
            plain = self.plain(layer, gemm)
            return lay_out_weight(owner, owner.gemms[gemm], made.to(plain.device, plain.dtype))
        made = round_weight(owner, gemm, scheme, self.source(layer, scheme, gemm))
        return lay_out_weight(owner, owner.gemms[gemm], made.to(self.plain(layer, gemm).dtype))


def round_weight(layer: Layer, gemm: int, scheme: Scheme, weight: Tensor) -> Tensor:
    """Return ``weight`` as ``scheme`` holds it, itself where that is fp32; differentiable in ``weight``."""
    if scheme.sparsity is None and scheme.weight.is_cast and scheme.weight.format == "fp32":
        return weight
    return simulate_layer_weight(layer, gemm, scheme, weight)


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()


def lay_out_weight(layer: Layer, gemm: Gemm, weight: Tensor) -> Tensor:
    """Return ``weight`` in the memory order that its kernel reads fastest."""
    if layer.op_type == "Conv" and weight.ndim == 4 and weight.device.type == "cpu":
        return weight.contiguous(memory_format=torch.channels_last)
    return weight
