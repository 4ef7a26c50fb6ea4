"""Normalisation layers and softmax."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer, integers, number, refuse


def _per_channel(x: Tensor, values: Tensor) -> Tensor:
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def _batch_norm(node: Node) -> Kernel:
    epsilon, momentum = number(node, "epsilon", 1e-5), number(node, "momentum", 0.9)
    training = bool(integer(node, "training_mode", 0))

    def kernel(
        x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        if not training:
            if mean.requires_grad or variance.requires_grad:  # torch's own takes these as data
                factor = scale * torch.rsqrt(variance + epsilon)
                return x * _per_channel(x, factor) + _per_channel(x, shift - mean * factor)
            if x.dtype == scale.dtype == mean.dtype:
                return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, epsilon)
            wide = x.to(mean.dtype)
            y = F.batch_norm(
                wide,
                mean,
                variance,
                scale.to(mean.dtype),
                shift.to(mean.dtype),
                False,
                0.0,
                epsilon,
            )
            return y.to(x.dtype)
        axes = [0, *range(2, x.ndim)]
        live_mean, live_variance = x.mean(axes), x.var(axes, correction=0)
        root = torch.rsqrt(live_variance + epsilon)
        y = (x - _per_channel(x, live_mean)) * _per_channel(x, root * scale)
        return (
            y + _per_channel(x, shift),
            mean * momentum + live_mean * (1 - momentum),
            variance * momentum + live_variance * (1 - momentum),
        )

    return kernel


def _instance_norm(node: Node) -> Kernel:
    epsilon = number(node, "epsilon", 1e-5)

    def kernel(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        axes = list(range(2, x.ndim))
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        y = (x - mean) * torch.rsqrt(variance + epsilon)
        return y * _per_channel(x, scale) + _per_channel(x, shift)

    return kernel


def _layer_norm(node: Node) -> Kernel:
    axis, epsilon = integer(node, "axis", -1), number(node, "epsilon", 1e-5)
    statistics = any(node.outputs[1:])

    def kernel(
        x: Tensor, scale: Tensor, shift: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        shape = x.shape[axis:] if axis < 0 else x.shape[axis % max(x.ndim, 1) :]
        if not statistics and scale.shape == shape and x.dtype == scale.dtype:
            return F.layer_norm(x, shape, scale, shift, epsilon)
        wide = x.float() if x.dtype.itemsize < 4 else x
        axes = list(range(x.ndim - len(shape), x.ndim))
        variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
        inverse = torch.rsqrt(variance + epsilon)
        y = ((wide - mean) * inverse).to(x.dtype) * scale
        return (y if shift is None else y + shift), mean, inverse

    return kernel


def _rms_norm(node: Node) -> Kernel:
    axis, epsilon = integer(node, "axis", -1), number(node, "epsilon", 1e-5)

    def kernel(x: Tensor, scale: Tensor) -> Tensor:
        wide = x.float() if x.dtype.itemsize < 4 else x
        axes = list(range(axis % x.ndim, x.ndim))
        inverse = torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
        return (wide * inverse).to(x.dtype) * scale

    return kernel


def _group_norm(node: Node) -> Kernel:
    groups, epsilon = integer(node, "num_groups", 1), number(node, "epsilon", 1e-5)
    per_group = node.version < 21

    def kernel(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if per_group and scale.numel() != x.shape[1]:
            scale = scale.repeat_interleave(x.shape[1] // groups)
            shift = shift.repeat_interleave(x.shape[1] // groups)
        if (
            x.numel() == x.shape[0] * groups
        ):  # torch refuses groups of one element: each is its own mean
            return _per_channel(x, shift).expand(x.shape) + 0 * x
        return F.group_norm(x, groups, scale, shift, epsilon)

    return kernel


def _lrn(node: Node) -> Kernel:
    size, alpha = integer(node, "size", 1), number(node, "alpha", 1e-4)
    beta, bias = number(node, "beta", 0.75), number(node, "bias", 1.0)
    low, high = (size - 1) // 2, math.ceil((size - 1) / 2)

    def kernel(x: Tensor) -> Tensor:
        square = x.square().movedim(1, -1)
        total = F.pad(square, (low, high)).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
        return x / (bias + alpha / size * total).pow(beta)

    return kernel


def _lp_normalise(node: Node) -> Kernel:
    axis, order = integer(node, "axis", -1), integer(node, "p", 2)

    def kernel(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, order, axis, keepdim=True)
        return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, 1, norm))

    return kernel


def _mean_variance(node: Node) -> Kernel:
    axes = integers(node, "axes") or [0, 2, 3]

    def kernel(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) / (variance.sqrt() + 1e-9)

    return kernel


def _along(node: Node, function: Kernel) -> Kernel:
    """Softmax and its kin: one axis since opset 13, everything from it on before."""
    if node.version >= 13:
        axis = integer(node, "axis", -1)
        return lambda x: function(x, axis)
    start = integer(node, "axis", 1)

    def flattened(x: Tensor) -> Tensor:
        rows = math.prod(x.shape[: start if start >= 0 else start + x.ndim])
        return function(x.reshape(rows, -1), 1).reshape(x.shape)

    return lambda x: function(x, start) if start in (-1, x.ndim - 1) else flattened(x)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    best = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1.0)


def _dropout(node: Node) -> Kernel:
    with_mask = len(node.outputs) > 1 and bool(node.outputs[1])

    def kernel(
        x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        if training is not None and bool(training) and (ratio is None or float(ratio) > 0):
            raise refuse(node, "dropout in training mode")
        return (x, mask(x)) if with_mask else x

    def mask(x: Tensor) -> Tensor:
        if node.version < 12:  # not said by the standard; what onnxruntime gives
            return torch.zeros_like(x, dtype=x.dtype if node.version < 10 else torch.bool)
        return torch.ones_like(x, dtype=torch.bool)

    return kernel


BUILDERS: dict[str, Builder] = {
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "GroupNormalization": _group_norm,
    "Hardmax": lambda node: _along(node, _hardmax),
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": lambda node: _along(node, torch.log_softmax),
    "LpNormalization": _lp_normalise,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms_norm,
    "Softmax": lambda node: _along(node, torch.softmax),
}
