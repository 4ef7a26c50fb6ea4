from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.sensitivity.shared.curvature import (
    gauss_newton_traces,
    hessian_traces,
    largest_eigenvalues,
)

Weights = dict[str, Tensor]
Forward = Callable[[Weights, Tensor], Tensor]


def dense_forward(weights: Weights, x: Tensor) -> Tensor:
    return torch.tanh(x @ weights["a"]) @ weights["b"]


def residual_forward(weights: Weights, x: Tensor) -> Tensor:
    hidden = x + torch.nn.functional.silu(x @ weights["a"])
    return (hidden * torch.sigmoid(x @ weights["b"])) @ weights["c"]


def convolution_forward(weights: Weights, x: Tensor) -> Tensor:
    image = x[:, :4].reshape(-1, 1, 2, 2)
    features = torch.nn.functional.conv2d(image, weights["k"], padding=1).tanh()
    return features.mean((2, 3)) @ weights["b"]


NETWORKS: dict[str, tuple[Forward, dict[str, tuple[int, ...]]]] = {
    "dense": (dense_forward, {"a": (5, 4), "b": (4, 3)}),
    "residual": (residual_forward, {"a": (5, 5), "b": (5, 5), "c": (5, 3)}),
    "convolution": (convolution_forward, {"k": (3, 1, 3, 3), "b": (3, 3)}),
}


class Case:
    """A small network on a batch of twelve samples, in fp64."""

    def __init__(self, name: str) -> None:
        self.forward, shapes = NETWORKS[name]
        rng = torch.Generator().manual_seed(7)
        self.x = torch.randn(12, 5, generator=rng, dtype=torch.float64)
        self.labels = torch.randint(0, 3, (12,), generator=rng)
        self.weights = {
            key: (0.7 * torch.randn(shape, generator=rng, dtype=torch.float64)).requires_grad_()
            for key, shape in shapes.items()
        }

    def loss(self, weights: Weights | None = None) -> Tensor:
        logits = self.forward(weights or self.weights, self.x)
        return torch.nn.functional.cross_entropy(logits, self.labels)

    def block(self, key: str) -> Tensor:
        """The dense Hessian of one weight's block."""

        def only(w: Tensor) -> Tensor:
            return self.loss(self.weights | {key: w})

        size = self.weights[key].numel()
        hessian = torch.autograd.functional.hessian(only, self.weights[key].detach())
        return hessian.reshape(size, size)

    def gauss_newton_block(self, key: str) -> Tensor:
        """Mean of JᵀHJ over samples, H = diag(p) - p pᵀ, from a dense Jacobian."""

        def only(w: Tensor) -> Tensor:
            return self.forward(self.weights | {key: w}, self.x)

        weight = self.weights[key].detach()
        jacobian = torch.autograd.functional.jacobian(only, weight)
        jacobian = jacobian.reshape(12, 3, weight.numel())
        p = torch.softmax(only(weight), -1)
        outer = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        return torch.einsum("nci,ncd,ndj->ij", jacobian, outer, jacobian).detach() / 12

    def draw(self, rng: torch.Generator) -> Tensor:
        logits = self.forward(self.weights, self.x)
        labels = torch.multinomial(torch.softmax(logits.detach(), -1), 1, generator=rng)[:, 0]
        signs = torch.randint(0, 2, (12,), generator=rng) * 2 - 1
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return (signs * losses).sum() / 12**0.5


@pytest.fixture(params=list(NETWORKS))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_traces_agree_with_the_dense_hessian_in_the_limit(case: Case) -> None:
    found = hessian_traces(case.loss(), case.weights, n_probes=400, seed=1)
    for key, estimate in found.items():
        exact = float(case.block(key).trace())
        assert abs(estimate.mean - exact) < 4 * estimate.stderr
        assert estimate.stderr < 0.15 * max(abs(exact), 0.2)


def test_probes_that_are_a_whole_orthogonal_set_give_the_exact_trace(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(weight.numel() for weight in case.weights.values())
    rows = torch.from_numpy(hadamard(2 ** (total - 1).bit_length())).double()
    column = 0

    def signs(like: Tensor, rng: torch.Generator) -> Tensor:
        nonlocal column
        row, first = divmod(column, total)
        column += like.numel()
        return rows[row, first : first + like.numel()].reshape(like.shape)

    monkeypatch.setattr("mpsearch.sensitivity.shared.curvature._signs", signs)
    found = hessian_traces(case.loss(), case.weights, n_probes=len(rows))
    for key, estimate in found.items():
        assert estimate.mean == pytest.approx(float(case.block(key).trace()), rel=1e-9, abs=1e-12)


def test_gauss_newton_traces_agree_with_the_dense_matrix(case: Case) -> None:
    found = gauss_newton_traces(case.draw, case.weights, n_probes=400, seed=1)
    for key, estimate in found.items():
        exact = float(case.gauss_newton_block(key).trace())
        assert abs(estimate.mean - exact) < 4 * estimate.stderr
        assert estimate.stderr < 0.3 * exact


def test_largest_eigenvalues_agree_with_the_dense_hessian(case: Case) -> None:
    found = largest_eigenvalues(case.loss(), case.weights, n_steps=40)
    for key, estimate in found.items():
        exact = float(torch.linalg.eigvalsh(case.block(key))[-1])
        assert estimate.mean == pytest.approx(exact, rel=1e-3)


def test_few_lanczos_steps_say_how_far_they_may_be_off() -> None:
    case = Case("residual")
    for key, estimate in largest_eigenvalues(case.loss(), case.weights, n_steps=4).items():
        spectrum = torch.linalg.eigvalsh(case.block(key))
        assert (spectrum - estimate.mean).abs().min() <= estimate.stderr * (1 + 1e-9)


@pytest.mark.parametrize(("n_probes", "n_seeds"), [(8, 100), (16, 60), (64, 20)])
def test_error_bars_of_traces_cover_the_truth_as_often_as_they_say(
    n_probes: int, n_seeds: int
) -> None:
    inside = []
    for case in map(Case, NETWORKS):
        exact = {key: float(case.block(key).trace()) for key in case.weights}
        for seed in range(n_seeds):
            found = hessian_traces(case.loss(), case.weights, n_probes=n_probes, seed=seed)
            inside += [abs(mean - exact[key]) < 1.96 * err for key, (mean, err) in found.items()]
    assert 0.9 <= np.mean(inside) <= 0.97


def test_a_seed_repeats_and_another_differs() -> None:
    case = Case("dense")
    one, again, other = (
        hessian_traces(case.loss(), case.weights, n_probes=4, seed=seed) for seed in (0, 0, 1)
    )
    assert one == again != other


def test_a_weight_that_the_loss_does_not_depend_on_has_no_curvature() -> None:
    case = Case("dense")
    dead = torch.ones(3, dtype=torch.float64, requires_grad=True)
    weights = case.weights | {"dead": dead}
    assert hessian_traces(case.loss(), weights, n_probes=4)["dead"].mean == 0
    assert largest_eigenvalues(case.loss(), {"dead": dead})["dead"].mean == 0


def test_gradients_that_are_not_finite_name_the_weight() -> None:
    weight = torch.zeros(2, requires_grad=True)
    with pytest.raises(NumericsError, match="those of 'w' hold NaN"):
        hessian_traces(weight.sum().sqrt() * 0, {"w": weight})


def test_one_probe_gives_no_error_bar() -> None:
    case = Case("dense")
    with pytest.raises(ValueError, match="n_probes >= 2"):
        hessian_traces(case.loss(), case.weights, n_probes=1)
