"""Gradients of depthwise convolutions are torch's own."""

import pytest
import torch

from mpsearch.numerics.depthwise import convolve_depthwise, is_depthwise


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (1, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (1, 2)])
def test_gradients_are_torch_s(
    size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    rng = torch.Generator().manual_seed(0)
    pads = (size[0] // 2, size[1] // 2)
    x = torch.randn(3, 20, 9, 14, generator=rng)
    weight, bias = torch.randn(20, 1, *size, generator=rng), torch.randn(20, generator=rng)
    found, wanted = [], []
    for kept, exact in ((found, False), (wanted, True)):
        own = [t.clone().double() if exact else t.clone() for t in (x, weight, bias)]
        for tensor in own:
            tensor.requires_grad_()
        assert is_depthwise(own[0], own[1], 20) is not exact
        if exact:
            y = torch.conv2d(*own, stride, pads, dilation, 20)
        else:
            y = convolve_depthwise(*own, stride, pads, dilation)
        coefficients = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        (y * coefficients).sum().backward()
        kept += [y.detach(), *(tensor.grad for tensor in own)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-4)


def test_others_are_left_to_torch() -> None:
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3)
    assert not is_depthwise(x, weight, 4)
    assert not is_depthwise(x, torch.randn(4, 2, 3, 3).requires_grad_(), 2)
    with torch.no_grad():
        assert not is_depthwise(x, weight.requires_grad_(), 4)
