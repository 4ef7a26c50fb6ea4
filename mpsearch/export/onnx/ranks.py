"""How many axes an operand has."""

from mpsearch.graph.model import Layer, ModelGraph, Operand

RANK_OF_WEIGHT = ("Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm")
"""Operators whose activations have the rank of their weights."""


def find_rank(graph: ModelGraph, layer: Layer, operand: Operand) -> int | None:
    """Return the rank of what ``layer`` reads; None where neither shapes nor the operator tell it."""
    value = graph.values.get(operand.value)
    if value is not None and value.shape is not None:
        return len(value.shape)
    if layer.op_type in RANK_OF_WEIGHT:
        weight = layer.gemms[0].right.value
        if weight in graph.constants:
            return graph.constants[weight].ndim
    return None
