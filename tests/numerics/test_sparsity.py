"""Structured pruning keeps the best of each group, along the reduction and nowhere else."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mpsearch.errors import NumericsError, SchemeError
from mpsearch.numerics import dispatch
from mpsearch.numerics.sparsity import choose_mask, prune, score_weights


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def brute_force(row: np.ndarray, score: np.ndarray, kept: int, group: int, unit: int) -> np.ndarray:
    """Try every selection of units in every group; of equal sums the first in order wins."""
    out = np.zeros_like(row)
    for start in range(0, len(row), group):
        choices = itertools.combinations(range(group // unit), kept // unit)

        def worth(choice: tuple[int, ...], start: int = start) -> float:
            return sum(float(score[start + u * unit + i]) for u in choice for i in range(unit))

        for u in max(choices, key=worth):
            at = slice(start + u * unit, start + (u + 1) * unit)
            out[at] = row[at]
    return out


@pytest.mark.parametrize(
    ("pattern", "kept", "group", "unit"),
    [
        ("2:4", 2, 4, 1),
        ("1:4", 1, 4, 1),
        ("3:4", 3, 4, 1),
        ("2:6", 2, 6, 1),
        ("4:8", 4, 8, 1),
        ("4:8_paired", 4, 8, 2),
        ("2:4_paired", 2, 4, 2),
    ],
)
def test_the_kept_elements_of_every_group_have_the_largest_sum(
    pattern: str, kept: int, group: int, unit: int
) -> None:
    x = randn(10, 4 * group)
    got = prune(x, pattern).numpy()
    want = [brute_force(row, row.astype(np.float64) ** 2, kept, group, unit) for row in x.numpy()]
    np.testing.assert_array_equal(got, np.stack(want))
    score = randn(10, 4 * group, seed=1).abs()
    got = prune(x, pattern, score=score).numpy()
    want = [
        brute_force(row, s, kept, group, unit)
        for row, s in zip(x.numpy(), score.numpy(), strict=True)
    ]
    np.testing.assert_array_equal(got, np.stack(want))


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8_paired", "5:8"])
def test_ties_keep_the_first_on_both_paths(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([1.0, -1, 1, 1, 0, 0, 0, 0, 2, 1, -2, 2, 1, 1, 1, 1]).repeat(3, 1)
    x = torch.cat([x, randn(3, 16).round()], dim=1)
    fast = prune(x, pattern), choose_mask(x, pattern)
    monkeypatch.setattr(dispatch, "load_kernels", lambda: None)
    assert torch.equal(prune(x, pattern), fast[0])
    assert torch.equal(choose_mask(x, pattern), fast[1])
    if pattern == "2:4":
        assert fast[1][0, :12].tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0]


def test_convolutions_are_pruned_along_their_channels() -> None:
    weight = randn(5, 8, 3, 3)
    got = prune(weight, "2:4", axis=1)
    want = prune(weight.permute(0, 2, 3, 1).contiguous(), "2:4").permute(0, 3, 1, 2)
    assert torch.equal(got, want)
    assert ((got != 0).reshape(5, 2, 4, 9).sum(2) == 2).all()


def test_large_tensors_are_shared_by_threads_without_a_trace() -> None:
    x = randn(513, 1024)
    parts = torch.cat([prune(part, "2:4") for part in x.split(27)])
    assert torch.equal(prune(x, "2:4"), parts)


def test_the_gradient_passes_where_weights_were_kept() -> None:
    x = randn(3, 8).requires_grad_()
    pruned = prune(x, "2:4")
    pruned.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (pruned != 0).float())


def test_scores_are_what_they_are_called() -> None:
    w, g, h, n = randn(3, 4), randn(3, 4, seed=1), randn(4, seed=2).abs(), randn(4, seed=3).abs()
    assert torch.equal(score_weights(w, gradient=g), (w * g).abs())
    torch.testing.assert_close(score_weights(w, hessian_diagonal=h), 0.5 * h * w * w)
    torch.testing.assert_close(score_weights(w, input_norms=n), w.abs() * n)
    with pytest.raises(SchemeError, match="exactly one of"):
        score_weights(w)


def test_mistakes_are_named() -> None:
    with pytest.raises(SchemeError, match=r"`size % 4 == 0` must hold .* axis 1 has 6"):
        prune(randn(4, 6, 2), "2:4", axis=1)
    with pytest.raises(SchemeError, match=r"n:m or n:m_paired .*; got '4:2'"):
        prune(randn(4, 8), "4:2")
    with pytest.raises(SchemeError, match="axis 2 is missing"):
        prune(randn(4, 8), "2:4", axis=2)
    with pytest.raises(SchemeError, match=r"`score` must have the tensor's shape \(4, 8\)"):
        prune(randn(4, 8), "2:4", score=randn(8))
    x = randn(4, 8)
    x[1, 1] = torch.nan
    for pattern in ("2:4", "4:8_paired"):
        with pytest.raises(NumericsError, match=r"'fc1\.weight' must be finite"):
            prune(x, pattern, name="fc1.weight")


def test_empty_tensors_pass() -> None:
    assert prune(torch.empty(0, 8), "2:4").shape == (0, 8)
