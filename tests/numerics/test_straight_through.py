"""Gradients: straight through inside the clipping range, LSQ's for the step."""

import pytest
import torch
from torch import Tensor

from mpsearch.formats import find_format
from mpsearch.numerics.quantize import fake_quantize, quantize_activation
from mpsearch.numerics.ranges import make_range
from mpsearch.numerics.straight_through import first_step, largest_rounded, quantize_learned
from mpsearch.schemes import SCHEMES, Spec


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SCHEMES)
def test_values_do_not_depend_on_whether_a_gradient_is_wanted(name: str) -> None:
    if SCHEMES[name].sparsity:
        return
    spec, x = SCHEMES[name].activation, randn(3, 40, 4, 4)
    want = quantize_activation(x, spec, reduction_axis=1)
    got = quantize_activation(x.clone().requires_grad_(), spec, reduction_axis=1)
    assert got.requires_grad
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        (Spec("int8"), -127.5, 127.5),
        (Spec("e4m3"), -464, 464),
        (Spec("e2m1"), -7, 7),
        (Spec("int4", symmetric=False), -8.5, 7.5),
    ],
)
def test_the_gradient_is_1_where_saturation_did_not_alter_the_rounding(
    spec: Spec, low: float, high: float
) -> None:
    step = 0.25
    bound = spec.element.max_value * step
    calibrated = make_range(-bound if spec.symmetric else -8 * step, bound, spec)
    assert calibrated.scale == step
    x = (randn(500) * bound).requires_grad_()
    coefficients = randn(500, seed=1)
    (
        quantize_activation(x, spec, reduction_axis=0, range=calibrated) * coefficients
    ).sum().backward()
    inside = (x / step > low) & (x / step < high)
    assert 0 < int(inside.sum()) < 500
    assert x.grad is not None
    assert torch.equal(x.grad, coefficients * inside)


def test_nothing_is_outside_a_range_taken_from_the_tensor_itself() -> None:
    for name in ("e4m3", "int8", "nvfp4"):
        x = randn(4, 64).requires_grad_()
        fake_quantize(x, name).sum().backward()
        assert x.grad is not None
        assert bool((x.grad == 1).all())


def test_mx_saturation_above_the_largest_element_stops_the_gradient() -> None:
    x = torch.tensor([[7.5, 6.5, 1.0, -7.9]]).requires_grad_()  # scale 1, e2m1 ends at 6
    fake_quantize(x, "mxfp4").sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 0]]


def test_casts_pass_every_gradient() -> None:
    x = randn(50).requires_grad_()
    fake_quantize(x, "fp16").sum().backward()
    assert x.grad is not None
    assert bool((x.grad == 1).all())


@pytest.mark.parametrize("name", ["int4", "int8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_steps_gradient_is_that_of_the_paper(name: str, per_channel: bool) -> None:
    fmt = find_format(name)
    top = fmt.max_value
    x = randn(6, 50).requires_grad_()
    step = torch.full((6, 1) if per_channel else (), 1.2 / top).requires_grad_()
    weights = randn(6, 50, seed=1)
    quantized = quantize_learned(x, step, fmt)
    (quantized * weights).sum().backward()
    assert x.grad is not None
    assert step.grad is not None
    v = (x / step).detach()
    outside = v.abs() >= top + 0.5
    assert outside.any()
    slope = torch.where(outside, v.sign() * top, v.round() - v)
    total = (weights * slope).sum(1, keepdim=True) if per_channel else (weights * slope).sum()
    numel = 50 if per_channel else 300
    torch.testing.assert_close(step.grad, total / (numel * top) ** 0.5, rtol=1e-4, atol=1e-5)
    assert torch.equal(x.grad, weights * ~outside)
    want = (v.round().clamp(-top, top) * step).detach()
    assert torch.equal(quantized.detach(), want)


def test_learning_the_step_lowers_the_error() -> None:
    fmt, x = find_format("int4"), randn(4000)
    step = (4 * first_step(x, fmt)).requires_grad_()
    optimizer = torch.optim.SGD([step], lr=5.0)

    def loss() -> Tensor:
        return (quantize_learned(x, step, fmt) - x).square().mean()

    before = loss().item()
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.8 * before


def test_the_first_step_is_that_of_the_paper() -> None:
    x = randn(1000)
    assert float(first_step(x, find_format("int8"))) == pytest.approx(
        2 * float(x.abs().mean()) / 127**0.5, rel=1e-6
    )


def test_rounding_goes_beyond_the_maximum_from_half_a_unit_above_it() -> None:
    assert [largest_rounded(find_format(name)) for name in ("e2m1", "e4m3", "int8")] == [
        7,
        464,
        127.5,
    ]
