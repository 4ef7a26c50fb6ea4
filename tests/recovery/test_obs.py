"""Recovered weights are at the least-squares optimum of their mask, and never worse than magnitude."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mpsearch.errors import NumericsError, SchemeError
from mpsearch.numerics.sparsity import prune
from mpsearch.recovery.obs import find_gram, find_patch_gram, recover


def random_layer(seed: int) -> tuple[Tensor, Tensor]:
    """A weight and correlated inputs of uneven scale, as activations are."""
    rng = np.random.default_rng(seed)
    K, R = int(rng.choice([16, 32, 48, 64])), int(rng.integers(3, 20))
    mixing = rng.standard_normal((K, K)) * rng.lognormal(0, 1, K)
    x = rng.standard_normal((int(rng.integers(2, 8)) * K, K)) @ mixing + rng.standard_normal(K)
    weight = rng.standard_normal((R, K))
    return torch.from_numpy(weight).float(), torch.from_numpy(x).float()


def optimum(weight: np.ndarray, x: np.ndarray, kept: np.ndarray) -> float:
    """Least squared output error of a mask: one least-squares problem a row, without damping."""
    total = 0.0
    for row, mask in zip(weight, kept, strict=True):
        target = x @ row
        solution = np.linalg.lstsq(x[:, mask], target, rcond=None)[0]
        total += float(((x[:, mask] @ solution - target) ** 2).sum())
    return total


def output_error(weight: Tensor, changed: Tensor, x: Tensor) -> float:
    return float(((x.double() @ (changed - weight).double().T) ** 2).sum())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pattern", ["2:4", "4:8_paired"])
def test_the_result_is_within_5_percent_of_the_optimum_of_its_mask(seed: int, pattern: str) -> None:
    weight, x = random_layer(seed)
    got = recover(weight, pattern, find_gram(x), reduction_axis=1, channel_axes=(0,))
    kept = (got != 0).numpy()
    least = optimum(weight.double().numpy(), x.double().numpy(), kept)
    assert output_error(weight, got, x) <= 1.05 * least
    magnitude = prune(weight, pattern)
    assert torch.equal(prune(got, pattern), got)
    assert output_error(weight, got, x) <= output_error(weight, magnitude, x)


@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_worse_than_magnitude(seed: int) -> None:
    weight, x = random_layer(seed)
    got = recover(weight, "2:4", find_gram(x), reduction_axis=1, channel_axes=(0,), damping=0.3)
    magnitude = prune(weight, "2:4")
    errors = [((x.double() @ (w - weight).double().T) ** 2).sum(0) for w in (got, magnitude)]
    assert bool((errors[0] <= errors[1] * (1 + 1e-6)).all())


def test_a_given_mask_is_kept_and_refitted() -> None:
    weight, x = random_layer(3)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    got = recover(weight, mask, find_gram(x), reduction_axis=1, channel_axes=(0,))
    assert bool((got[~mask] == 0).all())
    least = optimum(weight.double().numpy(), x.double().numpy(), mask.numpy())
    assert output_error(weight, got, x) <= 1.05 * least


@pytest.mark.parametrize("groups", [1, 3])
def test_convolutions_are_recovered_in_their_patches(groups: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 8 * groups, 9, 7, generator=generator)
    x = x.cumsum(1).cumsum(3) * 0.1  # neighbours are correlated
    weight = torch.randn(6, 8, 3, 2, generator=generator)
    options = {"strides": (2, 1), "pads": ((1, 0), (0, 1)), "dilations": (1, 2)}
    gram = find_patch_gram(x, kernel=(3, 2), groups=groups, **options)

    def outputs(w: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (0, 1, 1, 0))
        return torch.nn.functional.conv2d(
            padded, w, stride=(2, 1), dilation=(1, 2), groups=groups
        ).double()

    got = recover(weight, "2:4", gram, reduction_axis=1, channel_axes=(0,))
    magnitude = prune(weight, "2:4", axis=1)
    errors = [float((outputs(w) - outputs(weight)).square().sum()) for w in (got, magnitude)]
    assert errors[0] < 0.5 * errors[1]
    assert torch.equal(prune(got, "2:4", axis=1), got)
    # The Gram matrix predicts the output error: its order is that of the weight's reduction.
    rows = (got - weight).permute(0, 2, 3, 1).reshape(groups, -1, 48).double()
    predicted = ((rows @ gram) * rows).sum()
    assert float(predicted) == pytest.approx(errors[0], rel=1e-4)


def test_columns_of_a_matmul_weight_are_its_rows() -> None:
    weight, x = random_layer(5)
    want = recover(weight, "2:4", find_gram(x), reduction_axis=1, channel_axes=(0,))
    got = recover(weight.T, "2:4", find_gram(x), reduction_axis=0, channel_axes=(1,))
    torch.testing.assert_close(got, want.T, rtol=1e-5, atol=1e-6)


def test_gram_matrices_of_batches_add_up() -> None:
    x = random_layer(0)[1].reshape(2, -1, random_layer(0)[1].shape[1])
    together, apart = find_gram(x), find_gram(x[:1]) + find_gram(x[1:])
    assert float((together - apart).abs().max()) < 1e-6 * float(together.max())


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, x = random_layer(7)
    x[:, :5] = 0
    got = recover(weight, "2:4", find_gram(x), reduction_axis=1, channel_axes=(0,))
    assert bool(torch.isfinite(got).all())
    nothing = torch.zeros_like(find_gram(x))
    got = recover(weight, "2:4", nothing, reduction_axis=1, channel_axes=(0,))
    assert torch.equal(got, prune(weight, "2:4"))


def test_mistakes_are_named() -> None:
    weight, x = random_layer(0)
    options = {"reduction_axis": 1, "channel_axes": (0,), "name": "fc1.weight"}
    with pytest.raises(SchemeError, match=r"Gram matrix of fc1\.weight must be"):
        recover(weight, "2:4", find_gram(x)[:, 1:, 1:], **options)
    with pytest.raises(NumericsError, match=r"Gram matrix of fc1\.weight must be finite"):
        recover(weight, "2:4", find_gram(x) * torch.nan, **options)
    with pytest.raises(SchemeError, match=r"mask of fc1\.weight must have its shape"):
        recover(weight, torch.ones(3), find_gram(x), **options)
