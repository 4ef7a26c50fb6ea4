"""Fourier transforms, windows and filter banks."""

import math

import numpy as np
import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer
from mpsearch.program.tensors import ELEMENT_TYPES, carrier


def _as_complex(x: Tensor) -> Tensor:
    """[…, 1] reals or […, 2] pairs to complex numbers; 16-bit floats compute in fp32."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if x.shape[-1] == 2:
        return torch.view_as_complex(wide.contiguous())
    return torch.complex(wide[..., 0], torch.zeros_like(wide[..., 0]))


def _dft(node: Node) -> Kernel:
    inverse, one_sided = integer(node, "inverse", 0), integer(node, "onesided", 0)
    fixed = integer(node, "axis", 1) if node.version < 20 else -2

    def kernel(x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
        along = fixed if axis is None else int(axis)
        along = along if along >= 0 else along + x.ndim
        size = x.shape[along] if length is None else int(length)
        if inverse and one_sided:
            y = torch.fft.irfft(
                _as_complex(x), 2 * (x.shape[along] - 1) if length is None else size, along
            )
            return y.unsqueeze(-1).to(x.dtype)
        z = _as_complex(x)
        y = torch.fft.ifft(z, size, along) if inverse else torch.fft.fft(z, size, along)
        if one_sided:
            y = y.narrow(along, 0, size // 2 + 1)
        return torch.view_as_real(y).to(x.dtype)

    return kernel


def _stft(node: Node) -> Kernel:
    one_sided = integer(node, "onesided", 1)

    def kernel(
        x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
    ) -> Tensor:
        size = (
            int(length)
            if length is not None
            else window.shape[0]
            if window is not None
            else x.shape[1]
        )
        frames = _as_complex(x if x.ndim == 3 else x.unsqueeze(-1)).unfold(1, size, int(step))
        if window is not None:
            frames = frames * window
        y = torch.fft.fft(frames, dim=-1)
        if one_sided:
            y = y[..., : size // 2 + 1]
        return torch.view_as_real(y).to(x.dtype)

    return kernel


def _window(coefficients: tuple[float, ...]) -> Builder:
    """A sum of cosines: Σ (-1)^k a_k cos(2πkn / N)."""

    def build(node: Node) -> Kernel:
        periodic, to = integer(node, "periodic", 1), integer(node, "output_datatype", 1)

        def kernel(size: Tensor) -> Tensor:
            count = int(size)
            span = count if periodic else count - 1
            n = torch.arange(count, dtype=torch.float64, device=size.device)
            total = torch.zeros_like(n)
            for k, a in enumerate(coefficients):
                total += (-1) ** k * a * torch.cos(2 * math.pi * k * n / max(span, 1))
            return total.to(carrier(ELEMENT_TYPES[to]))

        return kernel

    return build


def _mel(node: Node) -> Kernel:
    to = integer(node, "output_datatype", 1)

    def kernel(bins: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
        n_bins, n_dft, sampling = int(bins), int(length), float(rate)
        n_spectrum = n_dft // 2 + 1

        def to_mel(hertz: float) -> float:
            return 2595 * math.log10(1 + hertz / 700)

        mels = np.linspace(0, n_bins + 1, n_bins + 2)
        step = (to_mel(float(high)) - to_mel(float(low))) / (n_bins + 2)
        hertz = 700 * (10 ** ((mels * step + to_mel(float(low))) / 2595) - 1)
        edges = ((n_dft + 1) * hertz // sampling).astype(int)
        weights = np.zeros((n_spectrum, n_bins))
        for i in range(n_bins):
            left, center, right = edges[i : i + 3]
            if center == left:
                weights[center, i] = 1
            for j in range(left, center + 1):
                if center > left:
                    weights[j, i] = (j - left) / (center - left)
            for j in range(center, right):
                if right > center:
                    weights[j, i] = (right - j) / (right - center)
        return torch.from_numpy(weights).to(carrier(ELEMENT_TYPES[to])).to(bins.device)

    return kernel


BUILDERS: dict[str, Builder] = {
    "BlackmanWindow": _window((0.42, 0.5, 0.08)),
    "DFT": _dft,
    "HammingWindow": _window((25 / 46, 21 / 46)),
    "HannWindow": _window((0.5, 0.5)),
    "MelWeightMatrix": _mel,
    "STFT": _stft,
}
