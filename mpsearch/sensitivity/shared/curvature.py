"""Curvature of a loss in single weight tensors: traces and largest eigenvalues, with error bars.

Sources: Hutchinson (1990), trace from random signs; HAWQ-V2 (arXiv 1911.03852), traces of layers;
Martens (arXiv 1412.1193), the Gauss-Newton matrix as an expected outer product of gradients;
Golub & Van Loan, Matrix Computations, 10.1, the Lanczos iteration.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.stats.estimates import Estimate, Floats, estimate_mean


def hessian_traces(
    loss: Tensor, weights: Mapping[str, Tensor], *, n_probes: int = 32, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate tr(d²loss/dw²) for every weight at once; see :func:`hessian_samples`."""
    samples = hessian_samples(loss, weights, n_probes=n_probes, seed=seed)
    return {name: estimate_mean(values) for name, values in zip(weights, samples.T, strict=True)}


def hessian_samples(
    loss: Tensor, weights: Mapping[str, Tensor], *, n_probes: int = 32, seed: int = 0
) -> Floats:
    """Return [probes, weights] unbiased samples of tr(d²loss/dw²), for every weight at once.

    A Rademacher probe v gives v_l·(Hv)_l, whose mean is the trace of block l: terms that couple two
    layers average to zero, so one product Hv serves all the layers.

    Args:
        loss: Scalar mean loss of the calibration batch, its autograd graph alive.
        weights: Name to weight, of any shape.
        n_probes: Probes to average; the standard error falls as 1/sqrt(n_probes).
        seed: Seed of the probes.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the weight.
    """
    _check_probes(n_probes)
    params = list(weights.values())
    grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    _check_finite(dict(zip(weights, grads, strict=True)))
    rng = torch.Generator(params[0].device).manual_seed(seed)
    samples = torch.empty(n_probes, len(params), dtype=torch.float64)
    for sample in samples:
        signs = [_signs(p, rng) for p in params]
        products = _products(grads, params, signs)
        _check_finite(dict(zip(weights, products, strict=True)))
        sample[:] = torch.stack(
            [(v * hv).double().sum() for v, hv in zip(signs, products, strict=True)]
        )
    return samples.numpy()


def gauss_newton_traces(
    draw: Callable[[torch.Generator], Tensor],
    weights: Mapping[str, Tensor],
    *,
    n_probes: int = 32,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate the trace of every weight's block of the Gauss-Newton matrix, which is never negative.

    See :func:`gauss_newton_samples`.
    """
    samples = gauss_newton_samples(draw, weights, n_probes=n_probes, seed=seed)
    return {name: estimate_mean(values) for name, values in zip(weights, samples.T, strict=True)}


def gauss_newton_samples(
    draw: Callable[[torch.Generator], Tensor],
    weights: Mapping[str, Tensor],
    *,
    n_probes: int = 32,
    seed: int = 0,
) -> Floats:
    """Return [probes, weights] unbiased samples of the traces of the Gauss-Newton matrix's blocks.

    The matrix is the mean of g·gᵀ over labels drawn from the model's own predictions. A probe draws
    one label a sample and weighs the samples' losses by random signs: then one backward pass gives
    the squared norm of a gradient whose mean is the trace.

    Args:
        draw: Generator to the probe's scalar, 1/sqrt(n) · Σ sign · loss(drawn label), graph alive.
        weights: Name to weight.
        n_probes: Probes to average.
        seed: Seed of the probes.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the weight.
    """
    _check_probes(n_probes)
    params = list(weights.values())
    rng = torch.Generator(params[0].device).manual_seed(seed)
    samples = torch.empty(n_probes, len(params), dtype=torch.float64)
    for sample in samples:
        grads = torch.autograd.grad(draw(rng), params, retain_graph=True, materialize_grads=True)
        _check_finite(dict(zip(weights, grads, strict=True)))
        sample[:] = torch.stack([g.double().square().sum() for g in grads])
    return samples.numpy()


def largest_eigenvalues(
    loss: Tensor, weights: Mapping[str, Tensor], *, n_steps: int = 20, seed: int = 0
) -> dict[str, Estimate]:
    """Return the largest eigenvalue of each weight's own block of the Hessian, by Lanczos.

    The standard error is the residual norm of the Ritz pair: some eigenvalue lies that near.

    Args:
        loss: Scalar mean loss of the calibration batch, its autograd graph alive.
        weights: Name to weight.
        n_steps: Products with the block; a block of fewer elements needs no more than those.
        seed: Seed of the starting vectors.

    Raises:
        NumericsError: A gradient is NaN or Inf; the message names the weight.
    """
    result = {}
    for name, weight in weights.items():
        (grad,) = torch.autograd.grad(loss, [weight], create_graph=True, materialize_grads=True)
        _check_finite({name: grad})
        rng = torch.Generator(weight.device).manual_seed(seed)
        start = torch.empty_like(weight).normal_(generator=rng)

        def product(v: Tensor, grad: Tensor = grad, weight: Tensor = weight) -> Tensor:
            (found,) = _products([grad], [weight], [v.to(weight.dtype)])
            _check_finite({name: found})  # noqa: B023 - called before the loop goes on
            return found

        result[name] = _lanczos(product, start.detach(), n_steps)
    return result


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor, n_steps: int) -> Estimate:
    """Largest eigenvalue of a symmetric operator, fully reorthogonalised, in fp64."""
    size = start.numel()
    basis = [start.double().reshape(-1) / start.double().norm()]
    diagonal: list[float] = []
    off: list[float] = []
    for _ in range(min(n_steps, size)):
        w = product(basis[-1].reshape(start.shape)).double().reshape(-1)
        diagonal.append(float(w @ basis[-1]))
        for vector in (*basis, *basis):  # twice is enough
            w = w - (w @ vector) * vector
        norm = float(w.norm())
        off.append(norm)
        if norm <= 1e-10 * max(map(abs, diagonal)):
            break
        basis.append(w / norm)
    steps = len(diagonal)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if steps > 1:
        sides = torch.tensor(off[: steps - 1], dtype=torch.float64)
        tridiagonal = tridiagonal + torch.diag(sides, 1) + torch.diag(sides, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return Estimate(float(values[-1]), abs(off[steps - 1] * float(vectors[-1, -1])))


def _products(
    grads: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Hessian times vectors; zero where the loss is linear in a weight."""
    pairs = [(g, v) for g, v in zip(grads, vectors, strict=True) if g.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(p) for p in params)
    return torch.autograd.grad(
        [g for g, _ in pairs],
        params,
        [v for _, v in pairs],
        retain_graph=True,
        materialize_grads=True,
    )


def _signs(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.empty_like(like).bernoulli_(generator=rng) * 2 - 1


def _check_probes(n_probes: int) -> None:
    if n_probes < 2:
        raise ValueError(f"`n_probes >= 2` must hold for a standard error, got {n_probes=}")


def _check_finite(derivatives: Mapping[str, Tensor]) -> None:
    for name, tensor in derivatives.items():
        if not torch.isfinite(tensor).all():
            raise NumericsError(
                f"derivatives must be finite, but those of {name!r} hold NaN or Inf on the "
                "calibration data"
            )
