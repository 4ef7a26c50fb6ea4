"""Small networks that are trained here, in a minute each, on data that need no download.

``python -m experiments.models.trained NAME -o FOLDER`` writes ``model.onnx``, ``calibration.npz`` and
``held_out.npz``. Random weights will not do where sensitivities are judged: a network that has learnt
nothing forgives nearly everything, and what it does not forgive is chance.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.models.made import write_arrays

_STEPS, _BATCH = 500, 64
_CALIBRATION, _HELD_OUT = 64, 128  # samples


class _Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(x + self.inner(x))


class _Attention(nn.Module):
    """Self-attention of [n, positions, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        positions, width = x.shape[1:]
        each = width // self.heads

        def split(y: Tensor) -> Tensor:
            return y.reshape(-1, positions, self.heads, each).transpose(1, 2)

        scores = split(self.q(x)) @ split(self.k(x)).transpose(2, 3) / each**0.5
        mixed = scores.softmax(-1) @ split(self.v(x))
        return torch.as_tensor(self.o(mixed.transpose(1, 2).reshape(-1, positions, width)))


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def _block(width: int, stride: int = 1, groups: int = 1, out: int | None = None) -> nn.Module:
    convolution = nn.Conv2d(width, out or width, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out or width), nn.ReLU())


def _residual_net() -> nn.Module:
    """Nineteen convolutions with residual connections, as in ResNet, and a head."""
    layers: list[nn.Module] = [_block(1, out=16)]
    for width in (16, 32, 64):
        layers += [_Residual(_block(width), _block(width)) for _ in range(2)]
        if width < 64:
            layers.append(_block(width, 2, out=2 * width))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def _separable_net() -> nn.Module:
    """Depthwise and pointwise convolutions, as in MobileNet."""
    layers: list[nn.Module] = [_block(1, out=32)]
    for stride in (1, 2, 1, 1, 2, 1, 1):
        pointwise = nn.Conv2d(32, 64, 1, bias=False)
        deep = nn.Sequential(pointwise, nn.BatchNorm2d(64), nn.ReLU(), _block(64, stride, 64))
        narrow = nn.Sequential(nn.Conv2d(64, 32, 1, bias=False), nn.BatchNorm2d(32))
        body = nn.Sequential(deep, narrow)
        layers.append(_Residual(body) if stride == 1 else body)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def _mixer() -> nn.Module:
    """Perceptrons over patches and over channels in turn, with layer norms and GELU."""
    layers: list[nn.Module] = [nn.Conv2d(1, 48, 4, 4), nn.Flatten(2), _Transpose()]
    for _ in range(5):
        over_patches = [nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)]
        over_channels = [nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48)]
        layers.append(_Residual(nn.LayerNorm(48), _Transpose(), *over_patches, _Transpose()))
        layers.append(_Residual(nn.LayerNorm(48), *over_channels))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 48, 10))


def _transformer() -> nn.Module:
    """Four encoder blocks over tokens, one answer a position."""
    width = 64
    layers: list[nn.Module] = [nn.Linear(20, width)]
    for _ in range(4):
        layers.append(_Residual(nn.LayerNorm(width), _Attention(width, 4)))
        perceptron = [nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width)]
        layers.append(_Residual(nn.LayerNorm(width), *perceptron))
    return nn.Sequential(*layers, nn.LayerNorm(width), nn.Linear(width, 10))


class _Denoiser(nn.Module):
    """A U-Net of twelve convolutions: noisy picture in, clean one out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [
                nn.Sequential(_block(1, out=16), _block(16)),
                nn.Sequential(_block(16, 2, out=32), _block(32)),
                nn.Sequential(_block(32, 2, out=64), _block(64), _block(64)),
            ]
        )
        self.up = nn.ModuleList(
            [
                nn.Sequential(_block(96, out=32), _block(32)),
                nn.Sequential(_block(48, out=16), _block(16)),
            ]
        )
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for stage in self.down:
            x = stage(x)
            kept.append(x)
        for stage, skipped in zip(self.up, (kept[1], kept[0]), strict=True):
            wider = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = stage(torch.cat([wider, skipped], 1))
        return torch.as_tensor(self.last(x))


def _digits() -> tuple[Tensor, Tensor]:
    """Scanned digits of scikit-learn, 1 797 of 8 × 8, enlarged to 16 × 16."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    small = torch.tensor(pictures.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    return nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear"), torch.tensor(labels)


def _sequences() -> tuple[Tensor, Tensor]:
    """Twelve symbols of ten and the answers: how often each came before it, modulo ten, plus itself."""
    symbols = torch.randint(0, 10, (3000, 12))
    one_hot = nn.functional.one_hot(symbols, 10).float()
    before = one_hot.cumsum(1) - one_hot
    answers = ((before * one_hot).sum(2).long() * 3 + symbols) % 10
    position = torch.arange(12)
    waves = [torch.sin(position / 2.0**k) for k in range(5)]
    waves += [torch.cos(position / 2.0**k) for k in range(5)]
    where = torch.stack(waves, 1).float().expand(3000, -1, -1)
    return torch.cat([one_hot, where], 2), answers


def _noisy() -> tuple[Tensor, Tensor]:
    clean = _digits()[0]
    return clean + 0.3 * torch.randn_like(clean), clean


def _classify(scores: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1))


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained on what."""

    network: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]


RECIPES = {
    "residual": Recipe(_residual_net, _digits, _classify),
    "separable": Recipe(_separable_net, _digits, _classify),
    "mixer": Recipe(_mixer, _digits, _classify),
    "transformer": Recipe(_transformer, _sequences, _classify),
    "denoiser": Recipe(_Denoiser, _noisy, nn.functional.mse_loss),
}


def make(name: str, folder: Path, *, seed: int = 0, steps: int = _STEPS) -> float:
    """Train a network, write it and its data to ``folder``, and return its loss on held-out samples."""
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    inputs, answers = recipe.data()
    order = torch.randperm(len(inputs))
    kept, rest = order[: _CALIBRATION + _HELD_OUT], order[_CALIBRATION + _HELD_OUT :]
    network = recipe.network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = rest[torch.randint(len(rest), (_BATCH,))]
        optimiser.zero_grad()
        recipe.loss(network(inputs[rows]), answers[rows]).backward()
        optimiser.step()
        schedule.step()
    network.eval()
    parts = {"calibration": kept[:_CALIBRATION], "held_out": kept[_CALIBRATION:]}
    for part, rows in parts.items():
        x: NDArray[np.float32] = inputs[rows].numpy()
        write_arrays(folder / f"{part}.npz", {"x": x})
    torch.onnx.export(
        network,
        (inputs[kept[:2]],),
        folder / "model.onnx",
        input_names=["x"],
        output_names=["y"],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n")},),
        external_data=False,
        verbose=False,
    )
    with torch.no_grad():
        judged = parts["held_out"]
        return float(recipe.loss(network(inputs[judged]), answers[judged]))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.models.trained", description=__doc__
    )
    parser.add_argument("name", choices=RECIPES, metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=_STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(
        f"held-out loss {make(arguments.name, arguments.out, steps=arguments.steps):.4f}",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
