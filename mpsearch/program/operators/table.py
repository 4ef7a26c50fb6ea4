"""The table of native operators."""

from types import MappingProxyType

from mpsearch.program.operators import (
    attention,
    casting,
    contrib,
    convolution,
    criteria,
    elementwise,
    image,
    indexing,
    linear,
    normalisation,
    pooling,
    quantisation,
    random,
    recurrent,
    reductions,
    shaping,
    signals,
)
from mpsearch.program.operators.attributes import Builder

_KINDS = (
    attention,
    casting,
    convolution,
    criteria,
    random,
    elementwise,
    image,
    indexing,
    linear,
    normalisation,
    pooling,
    quantisation,
    recurrent,
    reductions,
    shaping,
    signals,
)
OPERATORS = MappingProxyType(
    {("", name): builder for kind in _KINDS for name, builder in kind.BUILDERS.items()}
    | {("com.microsoft", name): builder for name, builder in contrib.BUILDERS.items()}
    # onnxruntime registers this one in ONNX's own domain
    | {("", "SimplifiedLayerNormalization"): contrib.BUILDERS["SimplifiedLayerNormalization"]}
)


def find_builder(domain: str, op_type: str) -> Builder | None:
    """Return the builder of an operator, None where there is no native one."""
    return OPERATORS.get(("" if domain == "ai.onnx" else domain, op_type))
