"""Operators that work element by element, with numpy's broadcasting."""

from collections.abc import Callable
from functools import reduce
from math import isclose
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import (
    Builder,
    Kernel,
    constant_kernel,
    integer,
    number,
    refuse,
    text,
)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or a.is_complex():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _modulo(node: Node) -> Kernel:
    return torch.fmod if integer(node, "fmod", 0) else torch.remainder


def _variadic(combine: Callable[[Tensor, Tensor], Tensor]) -> Builder:
    def kernel(*tensors: Tensor) -> Tensor:
        return reduce(combine, tensors)

    return constant_kernel(kernel)


def _mean(*tensors: Tensor) -> Tensor:
    return reduce(torch.add, tensors) / len(tensors)


def _clip(node: Node) -> Kernel:
    if node.version < 11:
        low, high = number(node, "min", -3.4028234663852886e38), number(node, "max", 3.4e39)
        return lambda x: torch.clamp(x, low, min(high, 3.4028234663852886e38))

    def kernel(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        if any(edge is not None and edge.requires_grad for edge in (low, high)):
            x = x if low is None else torch.maximum(x, low)
            return x if high is None else torch.minimum(x, high)
        if low is None and high is None:
            return x
        if (
            x.dtype == torch.float16 and x.device.type == "cpu"
        ):  # scalars would not be rounded to it
            return torch.clamp(x, low, high)
        return torch.clamp(
            x, None if low is None else low.item(), None if high is None else high.item()
        )

    return kernel


def _bit_shift(node: Node) -> Kernel:
    if text(node, "direction", "") == "LEFT":
        return torch.bitwise_left_shift
    return torch.bitwise_right_shift


def _is_inf(node: Node) -> Kernel:
    positive, negative = integer(node, "detect_positive", 1), integer(node, "detect_negative", 1)
    if positive and negative:
        return torch.isinf
    if positive:
        return torch.isposinf
    return torch.isneginf if negative else lambda x: torch.zeros_like(x, dtype=torch.bool)


def _gelu(node: Node) -> Kernel:
    approximate = text(node, "approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


def _selu(node: Node) -> Kernel:
    alpha = number(node, "alpha", 1.67326319217681884765625)
    gamma = number(node, "gamma", 1.05070102214813232421875)
    return lambda x: torch.where(x > 0, gamma * x, gamma * alpha * torch.expm1(x.clamp(max=0)))


def _celu(node: Node) -> Kernel:
    alpha = number(node, "alpha", 1.0)
    return lambda x: F.celu(x, alpha)


def _elu(node: Node) -> Kernel:
    alpha = number(node, "alpha", 1.0)
    return lambda x: F.elu(x, alpha)


def _leaky_relu(node: Node) -> Kernel:
    alpha = number(node, "alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


def _thresholded_relu(node: Node) -> Kernel:
    alpha = number(node, "alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _hard_sigmoid(node: Node) -> Kernel:
    alpha, beta = number(node, "alpha", 0.2), number(node, "beta", 0.5)
    if isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _affine(node: Node) -> Kernel:
    """α x + β in one pass; ONNX had it at opset 1, and here fusion makes it."""
    alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 0.0)
    rank = integer(node, "rank", 0)  # of the numbers that it was written with

    def kernel(x: Tensor) -> Tensor:
        x = x if x.ndim >= rank else x.reshape(1)
        return torch.add(torch.tensor(beta, dtype=x.dtype, device=x.device), x, alpha=alpha)

    return kernel


def _shrink(node: Node) -> Kernel:
    bias, edge = number(node, "bias", 0.0), number(node, "lambd", 0.5)

    def kernel(x: Tensor) -> Tensor:
        shrunk = torch.where(x < -edge, x + bias, x - bias)
        return torch.where(x.abs() > edge, shrunk, torch.zeros_like(x)).to(x.dtype)

    return kernel


def _swish(node: Node) -> Kernel:
    alpha = number(node, "alpha", 1.0)
    return F.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


def _relu(x: Tensor) -> Tensor:
    return torch.relu(x)


def _sign(x: Tensor) -> Tensor:
    return torch.where(torch.isnan(x), x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


def _rounded(function: Callable[[Tensor], Tensor]) -> Builder:
    return constant_kernel(lambda x: function(x) if x.is_floating_point() else x)


def _logical(function: Callable[[Tensor, Tensor], Tensor]) -> Builder:
    def build(node: Node) -> Kernel:
        if node.version < 7:
            raise refuse(node, "the broadcast attribute of opset 6")
        return function

    return build


_PLAIN: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "And": torch.logical_and,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": torch.reciprocal,
    "Relu": _relu,
    "Sigmoid": torch.sigmoid,
    "Sign": _sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: F.softplus(x, threshold=60),
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}
_ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Sub": torch.sub,
}

BUILDERS: dict[str, Builder] = {
    **{name: constant_kernel(function) for name, function in _PLAIN.items()},
    **{name: _logical(function) for name, function in _ARITHMETIC.items()},
    "Affine": _affine,
    "BitShift": _bit_shift,
    "Ceil": _rounded(torch.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Elu": _elu,
    "Floor": _rounded(torch.floor),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "IsInf": _is_inf,
    "LeakyRelu": _leaky_relu,
    "Max": _variadic(torch.maximum),
    "Mean": constant_kernel(_mean),
    "Min": _variadic(torch.minimum),
    "Mod": _modulo,
    "Round": _rounded(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sum": _variadic(torch.add),
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
}
