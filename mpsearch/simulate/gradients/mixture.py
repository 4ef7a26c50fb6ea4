"""Layers that run in all schemes at once, weighted by probabilities: what relaxed searches differentiate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mpsearch.graph.model import ModelGraph
from mpsearch.program.program import Step
from mpsearch.schemes import Scheme, Spec
from mpsearch.simulate.scheme_run import (
    Ports,
    Ranges,
    Read,
    hidden_quantizer,
    quantize_input,
    round_output,
)
from mpsearch.simulate.weight_cache import WeightStore


class MixtureRun:
    """Runs layers with operands mixed over schemes: Σ p(s) Q_s(x) by Σ p(s) Q_s(w).

    The gradient reaches the probabilities through the mixture and the activations straight through
    the rounding.
    """

    __slots__ = (
        "_base",
        "_graph",
        "_groups",
        "_p",
        "_ports",
        "_ranges",
        "_schemes",
        "_shared",
        "_weights",
    )

    def __init__(
        self,
        graph: ModelGraph,
        schemes: Sequence[Scheme],
        base: Scheme,
        ranges: Ranges,
        weights: WeightStore,
        probabilities: Sequence[Sequence[tuple[int, Tensor]]],
        ports: Sequence[Ports],
    ) -> None:
        """Mix by ``probabilities``: for each group, (scheme index, 0-d tensor) of what counts."""
        self._graph, self._schemes, self._base = graph, schemes, base
        self._ranges, self._weights, self._p, self._ports = ranges, weights, probabilities, ports
        self._groups = {layer: g for g, group in enumerate(graph.groups) for layer in group.layers}
        self._shared: dict[object, Tensor] = {}

    def __call__(self, step: Step, inputs: list[Tensor | None]) -> object:
        """Run the step of a layer."""
        layer = self._graph.layers[step.layer]
        mixture = self._p[self._groups[step.layer]]
        ports = self._ports[step.layer]
        for read in ports.reads:
            x = inputs[read.index]
            if x is not None:
                inputs[read.index] = self._mix_input(x, read, mixture, layer.name)
        for gemm, index in ports.weights:
            parts = [
                (p, self._weights.simulated(step.layer, self._schemes[s], gemm)) for s, p in mixture
            ]
            inputs[index] = _weighted(parts)
        main = max(mixture, key=lambda pair: float(pair[1].detach()))[0]
        hidden = (
            hidden_quantizer(layer, self._schemes[main], self._ranges) if ports.hidden else None
        )
        result = step.kernel(*inputs) if hidden is None else step.kernel(*inputs, hidden=hidden)
        return round_output(result, self._base)

    def _mix_input(
        self, x: Tensor, read: Read, mixture: Sequence[tuple[int, Tensor]], layer: str
    ) -> Tensor:
        by_spec: dict[Spec, Tensor] = {}
        for s, p in mixture:
            spec = self._schemes[s].activation
            by_spec[spec] = by_spec[spec] + p if spec in by_spec else p
        parts = []
        for spec, p in by_spec.items():
            key = read.key(spec)
            if key not in self._shared:
                self._shared[key] = quantize_input(x, spec, read, self._ranges, layer)
            parts.append((p, self._shared[key]))
        return _weighted(parts)


def _weighted(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    total: Tensor | None = None
    for p, tensor in parts:
        term = p.to(tensor.dtype) * tensor
        total = term if total is None else total + term
    return torch.zeros(()) if total is None else total
