"""A small Llama-like language model of characters: RMSNorm, rotary attention, SwiGLU; trained here in minutes.

Its text are the descriptions in ``data/descriptions.jsonl`` (numpy's, scipy's and networkx's docstrings, BSD).
"""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CHARACTERS = 96  # printable ASCII; all else is the last one
TOKENS = 64
_WIDTH, _HEADS, _BLOCKS, _INNER = 128, 4, 4, 352
_BATCH, _RATE, _HELD_OUT = 24, 2e-3, 0.2
_DESCRIPTIONS = Path(__file__).with_name("data") / "descriptions.jsonl"


class _Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(_WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gain


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = _Norm(), _Norm()
        self.q, self.k, self.v, self.o = (nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(_WIDTH, _INNER, bias=False) for _ in range(2))
        self.down = nn.Linear(_INNER, _WIDTH, bias=False)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor, mask: Tensor) -> Tensor:
        y = self.before_attention(x)
        q, k, v = (
            layer(y).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = _rotate(q, cosines, sines), _rotate(k, cosines, sines)
        scores = q @ k.transpose(2, 3) / (_WIDTH // _HEADS) ** 0.5 + mask
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = self.before_mlp(x)
        return torch.as_tensor(x + self.down(nn.functional.silu(self.gate(y)) * self.up(y)))


class Llama(nn.Module):
    """Characters [n, TOKENS] to the logits of the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS, _WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(_BLOCKS))
        self.norm, self.head = _Norm(), nn.Linear(_WIDTH, CHARACTERS, bias=False)
        half = _WIDTH // _HEADS // 2
        angles = torch.arange(TOKENS)[:, None] / 10_000 ** (torch.arange(half) / half)
        self.register_buffer("cosines", angles.cos().repeat(1, 2))
        self.register_buffer("sines", angles.sin().repeat(1, 2))
        self.register_buffer("mask", torch.full((TOKENS, TOKENS), -1e4).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits [n, TOKENS, CHARACTERS]."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cosines, self.sines, self.mask)
        return torch.as_tensor(self.head(self.norm(x)))


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines


def read_text() -> NDArray[np.int64]:
    """Return the descriptions, one after another, as numbers of characters."""
    lines = _DESCRIPTIONS.read_text(encoding="utf-8").splitlines()
    text = "\n".join(pair[key] for pair in map(json.loads, lines) for key in ("short", "long"))
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 32
    return np.where((codes >= 0) & (codes < CHARACTERS - 1), codes, CHARACTERS - 1)


def train(text: NDArray[np.int64], *, steps: int, seed: int = 0) -> tuple[Llama, NDArray[np.int64]]:
    """Return a trained model, and pieces [n, TOKENS] of the last fifth of ``text``, which it has not seen."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    end = int(len(text) * (1 - _HELD_OUT))
    model = Llama()
    optimizer = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        starts = rng.integers(0, end - TOKENS - 1, _BATCH)
        pieces = torch.from_numpy(np.stack([text[i : i + TOKENS + 1] for i in starts]))
        logits = model(pieces[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"trained {steps} steps: {loss.item():.2f} nats a character", flush=True)
    held = text[end:]
    count = len(held) // TOKENS
    return model.eval(), held[: count * TOKENS].reshape(count, TOKENS)


@torch.no_grad()
def single_out(model: Llama, *, channels: int = 3, factor: float = 30.0, seed: int = 0) -> Llama:
    """Make some channels behind each norm ``factor`` times as large and what reads them as much smaller: outliers, as large models have.

    What the model computes stays as it is.
    """
    rng = np.random.default_rng(seed)
    norms = [
        part
        for block in model.blocks
        if isinstance(block, _Block)
        for part in (
            (block.before_attention, (block.q, block.k, block.v)),
            (block.before_mlp, (block.gate, block.up)),
        )
    ]
    for norm, readers in (*norms, (model.norm, (model.head,))):
        chosen = torch.from_numpy(rng.choice(_WIDTH, channels, replace=False))
        norm.gain[chosen] *= factor
        for reader in readers:
            reader.weight[:, chosen] /= factor
    return model
