"""Attention as one operator, and the positions that rotate its heads."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer, number, refuse


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, H·D] to [B, H, T, D]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _attention(node: Node) -> Kernel:
    causal, softcap = integer(node, "is_causal", 0), number(node, "softcap", 0.0)
    q_heads, kv_heads = integer(node, "q_num_heads", 0), integer(node, "kv_num_heads", 0)
    scale, mode = node.attributes.get("scale"), integer(node, "qk_matmul_output_mode", 0)
    outputs = len(node.outputs)
    left, right = integer(node, "left_window_size", -1), integer(node, "right_window_size", -1)
    known = {
        "is_causal", "softcap", "q_num_heads", "kv_num_heads", "scale",
        "qk_matmul_output_mode", "softmax_precision", "left_window_size", "right_window_size",
    }  # fmt: skip
    unknown = set(node.attributes) - known
    if unknown:
        raise refuse(node, f"attribute {min(unknown)!r}")

    def kernel(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_key: Tensor | None = None,
        past_value: Tensor | None = None,
        lengths: Tensor | None = None,
        *,
        hidden: Callable[[Tensor], Tensor] = lambda p: p,
    ) -> Tensor | tuple[Tensor | None, ...]:
        flat = q.ndim == 3
        if flat:
            q, k, v = _split_heads(q, q_heads), _split_heads(k, kv_heads), _split_heads(v, kv_heads)
        if past_key is not None and past_value is not None:
            k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        present = (k, v)
        repeats = q.shape[1] // k.shape[1]
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        factor = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)  # type: ignore[arg-type]
        root = math.sqrt(factor)
        scores = torch.matmul(q * root, (k * root).transpose(-1, -2))
        capped = softcap * torch.tanh(scores / softcap) if softcap > 0 else scores
        bias = _bias(scores, mask, lengths)
        if causal or left >= 0 or right >= 0:
            window = _window(scores, (left, 0 if causal else right), lengths, past_key)
            bias = window if bias is None else bias + window
        biased = capped if bias is None else capped + bias
        p = _soften(biased)
        y = torch.matmul(hidden(p), v)
        if flat:
            y = y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1)
        if outputs == 1:
            return y
        shown = {0: scores, 1: capped, 2: biased, 3: p}[mode]
        return y, *present, shown

    return kernel


def _soften(scores: Tensor) -> Tensor:
    """Softmax over keys, in fp32 or wider; a query that may look nowhere gives zeros, not NaN."""
    wide = scores.float() if scores.dtype.itemsize < 4 else scores
    blind = (wide == float("-inf")).all(-1, keepdim=True)
    p = torch.softmax(torch.where(blind, torch.zeros_like(wide), wide), -1)
    return torch.where(blind, torch.zeros_like(p), p).to(scores.dtype)


def _bias(scores: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """What masks add to the scores: -inf where nothing may be seen."""
    keys = scores.shape[-1]
    bias: Tensor | None = None
    if mask is not None:
        bias = _hidden_unless(mask, scores) if mask.dtype == torch.bool else mask
        missing = keys - bias.shape[-1]
        if missing > 0:
            bias = F.pad(bias, (0, missing), value=float("-inf"))
    if lengths is not None:
        seen = torch.arange(keys, device=scores.device) < lengths.reshape(-1, 1, 1, 1)
        extra = _hidden_unless(seen, scores)
        bias = extra if bias is None else bias + extra
    return bias


def _hidden_unless(seen: Tensor, scores: Tensor) -> Tensor:
    none = scores.new_zeros(())
    return torch.where(seen, none, torch.full_like(none, float("-inf")))


def _window(
    scores: Tensor, reach: tuple[int, int], lengths: Tensor | None, past_key: Tensor | None
) -> Tensor:
    """-inf at keys further left or right of a query's own position than ``reach``; -1 is unbounded."""
    queries, keys = scores.shape[-2:]
    offset: Tensor | int = 0 if past_key is None else past_key.shape[2]
    if lengths is not None and past_key is None:
        offset = lengths.reshape(-1, 1, 1, 1) - queries
    own = torch.arange(queries, device=scores.device).reshape(-1, 1) + offset
    position = torch.arange(keys, device=scores.device).reshape(1, -1)
    seen = torch.ones_like(position + own, dtype=torch.bool)
    if reach[0] >= 0:
        seen = seen & (position >= own - reach[0])
    if reach[1] >= 0:
        seen = seen & (position <= own + reach[1])
    return _hidden_unless(seen, scores)


def _rotary(node: Node) -> Kernel:
    interleaved, heads = integer(node, "interleaved", 0), integer(node, "num_heads", 0)
    partial = integer(node, "rotary_embedding_dim", 0)

    def kernel(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
        shape = x.shape
        if x.ndim == 3:  # [B, T, H·D]
            x = _split_heads(x, heads)
        width = partial or x.shape[-1]
        turned, rest = x[..., :width], x[..., width:]
        if positions is not None:
            cos, sin = cos[positions], sin[positions]
        cos = cos[..., : width // 2].unsqueeze(1)
        sin = sin[..., : width // 2].unsqueeze(1)
        if interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
        else:
            a, b = turned.chunk(2, -1)
        real, imaginary = cos * a - sin * b, sin * a + cos * b
        if interleaved:
            turned = torch.stack([real, imaginary], -1).reshape(turned.shape)
        else:
            turned = torch.cat([real, imaginary], -1)
        y = torch.cat([turned, rest], -1)
        return y.transpose(1, 2).reshape(shape) if len(shape) == 3 else y

    return kernel


BUILDERS: dict[str, Builder] = {"Attention": _attention, "RotaryEmbedding": _rotary}
