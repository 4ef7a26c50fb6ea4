"""Operators that onnxruntime's optimiser writes into models: fused normalisations, gates, products.

Definitions: onnxruntime's ContribOperators.md, domain ``com.microsoft``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer, number, refuse, text
from mpsearch.program.operators.convolution import BUILDERS as CONVOLUTIONS
from mpsearch.program.operators.linear import BUILDERS as PRODUCTS


def _normalised(x: Tensor, epsilon: float, is_centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return x over its last axis at unit variance (or mean square), with the mean and 1/deviation."""
    wide = x.float() if x.dtype.itemsize < 4 else x
    if is_centred:
        variance, mean = torch.var_mean(wide, -1, correction=0, keepdim=True)
    else:
        variance, mean = wide.square().mean(-1, keepdim=True), wide.new_zeros(())
    inverse = torch.rsqrt(variance + epsilon)
    return ((wide - mean) * inverse).to(x.dtype), mean, inverse


def _simplified(node: Node) -> Kernel:
    epsilon = number(node, "epsilon", 1e-5)
    if integer(node, "axis", -1) != -1:
        raise refuse(node, "an axis that is not the last")

    def kernel(x: Tensor, scale: Tensor) -> Tensor | tuple[Tensor, ...]:
        y, _, inverse = _normalised(x, epsilon, is_centred=False)
        return (y * scale, inverse) if len(node.outputs) > 1 else y * scale

    return kernel


def _skip(node: Node, is_centred: bool) -> Kernel:
    """LayerNorm(x + skip + bias); the sum is an output too."""
    epsilon = number(node, "epsilon", 1e-12)

    def kernel(
        x: Tensor, skip: Tensor, gamma: Tensor, *more: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        beta = more[0] if is_centred and more else None
        rest = more[1:] if is_centred else more
        total = x + skip
        if rest and rest[0] is not None:
            total = total + rest[0]
        y, mean, inverse = _normalised(total, epsilon, is_centred)
        y = y * gamma
        return (y if beta is None else y + beta, mean, inverse, total)

    return kernel


def _embed(node: Node) -> Kernel:
    """Word, position and segment embeddings, summed and normalised."""
    epsilon = number(node, "epsilon", 1e-12)
    if integer(node, "mask_index_type", 0):
        raise refuse(node, "mask_index_type")

    def kernel(
        ids: Tensor,
        segments: Tensor | None,
        words: Tensor,
        places: Tensor,
        kinds: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions
        total = words[ids.long()] + places[own.long()]
        if segments is not None and kinds is not None:
            total = total + kinds[segments.long()]
        y, _, _ = _normalised(total, epsilon, is_centred=True)
        seen = ids.new_zeros(ids.shape[0]) if mask is None else mask.sum(1)
        return y * gamma + beta, seen.to(torch.int32), total

    return kernel


def _gated(approximate: str) -> Builder:
    def build(node: Node) -> Kernel:
        def kernel(x: Tensor, bias: Tensor | None = None) -> Tensor:
            return F.gelu(x if bias is None else x + bias, approximate=approximate)

        return kernel

    return build


def _quick_gelu(node: Node) -> Kernel:
    alpha = number(node, "alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


def _fused_matmul(node: Node) -> Kernel:
    alpha = number(node, "alpha", 1.0)
    if integer(node, "transBatchA", 0) or integer(node, "transBatchB", 0):
        raise refuse(node, "transBatchA and transBatchB")
    turn = integer(node, "transA", 0), integer(node, "transB", 0)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        a = a.transpose(-1, -2) if turn[0] and a.ndim > 1 else a
        b = b.transpose(-1, -2) if turn[1] and b.ndim > 1 else b
        return alpha * torch.matmul(a, b) if alpha != 1.0 else torch.matmul(a, b)

    return kernel


def _activation(node: Node, default: str = "") -> Callable[[Tensor], Tensor]:
    name = text(node, "activation", default)
    parameters = node.attributes.get("activation_params", ())
    given = [float(p) for p in parameters] if isinstance(parameters, tuple) else []
    table: dict[str, Callable[[Tensor], Tensor]] = {
        "": lambda x: x,
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "LeakyRelu": lambda x: F.leaky_relu(x, given[0] if given else 0.01),
        "Clip": lambda x: x.clamp(*given),
        "HardSigmoid": lambda x: (given[0] * x + given[1]).clamp(0, 1),
    }
    if name not in table or (name in ("Clip", "HardSigmoid") and len(given) != 2):
        raise refuse(node, f"activation {name!r}")
    return table[name]


def _fused_conv(node: Node) -> Kernel:
    convolve, activate = CONVOLUTIONS["Conv"](node), _activation(node)

    def kernel(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, more: Tensor | None = None
    ) -> Tensor:
        y = convolve(x, weight, bias)
        return activate(y if more is None else y + more)

    return kernel


def _fused_gemm(node: Node) -> Kernel:
    product, activate = PRODUCTS["Gemm"](node), _activation(node)
    return lambda a, b, c=None: activate(product(a, b, c))


def _rotary(node: Node) -> Kernel:
    """Rotate [B, T, N·D] or [B, N, T, D] by rows of the caches at the given positions."""
    interleaved, heads = integer(node, "interleaved", 0), integer(node, "num_heads", 0)
    if integer(node, "is_packed_batching", 0) or number(node, "scale", 1.0) != 1.0:
        raise refuse(node, "packed batching and scale")

    def kernel(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape, half = x.shape, cos.shape[-1]
        if x.ndim == 3:
            head = shape[-1] // heads if heads else 2 * half
            x = x.reshape(shape[0], shape[1], -1, head).transpose(1, 2)
        if positions.numel() == 1:  # the first token's
            steps = torch.arange(x.shape[2], device=x.device)
            positions = (positions.reshape(1, 1) + steps).expand(x.shape[0], -1)
        cos, sin = cos[positions.long()].unsqueeze(1), sin[positions.long()].unsqueeze(1)
        turned, rest = x[..., : 2 * half], x[..., 2 * half :]
        if interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
            y = torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2)
        else:
            a, b = turned[..., :half], turned[..., half:]
            y = torch.cat([cos * a - sin * b, sin * a + cos * b], -1)
        y = torch.cat([y, rest], -1) if rest.shape[-1] else y
        return y.transpose(1, 2).reshape(shape) if len(shape) == 3 else y

    return kernel


BUILDERS: dict[str, Builder] = {
    "BiasGelu": _gated("none"),
    "EmbedLayerNormalization": _embed,
    "FastGelu": _gated("tanh"),
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gated("none"),
    "QuickGelu": _quick_gelu,
    "RotaryEmbedding": _rotary,
    "SimplifiedLayerNormalization": _simplified,
    "SkipLayerNormalization": lambda node: _skip(node, is_centred=True),
    "SkipSimplifiedLayerNormalization": lambda node: _skip(node, is_centred=False),
}
