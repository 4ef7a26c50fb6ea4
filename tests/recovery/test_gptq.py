"""Second-order rounding: what a slow reference gives, never worse than plain rounding, whatever the data."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.errors import NumericsError, SchemeError
from mpsearch.graph.model import Operand
from mpsearch.numerics.quantize import quantize_weight
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.sparsity import prune
from mpsearch.recovery.gptq import round_in_gram
from mpsearch.recovery.obs import find_gram, find_patch_gram
from mpsearch.schemes import Scheme, Spec, find_scheme

LINEAR = Operand("w", "w", 1, 1, (0,))
SCHEMES = (
    "nvfp4", "nvfp4_four_over_six", "mxfp4", "mxfp6", "mxfp8", "fp4", "w4a16_g32", "int8", "fp8", "fp8_tensor",
    "fp8_block", "fp16", "bf16", "fp8_2of4", "fp16_2of4", "nvfp4_4of8", "w4a16_g32_2of4",
)  # fmt: skip
ASYMMETRIC = Scheme("int4_asymmetric", Spec("int4", "channel", symmetric=False), Spec("int8"))

Array = NDArray[np.float64]


def layer(seed: int, K: int = 32, R: int = 6, n: int = 200) -> tuple[Tensor, Tensor]:
    """A weight and correlated inputs of uneven scale, as activations are."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((K, K)) * rng.lognormal(0, 1, K)
    x = rng.standard_normal((n, K)) @ mixing + rng.standard_normal(K)
    return torch.from_numpy(rng.standard_normal((R, K))).float(), torch.from_numpy(x).float()


def plain(weight: Tensor, scheme: Scheme) -> QuantizedTensor:
    return quantize_weight(
        weight, scheme.weight, reduction_axis=1, channel_axes=(0,), sparsity=scheme.sparsity
    )


def row_errors(found: QuantizedTensor, weight: Tensor, x: Tensor) -> Array:
    change = (found.dequantize() - weight).double().flatten(1)
    error: Array = (x.double() @ change.T).square().sum(0).numpy()
    return error


def find(name: str) -> Scheme:
    return ASYMMETRIC if name == ASYMMETRIC.name else find_scheme(name)


def nearest(found: QuantizedTensor, value: float, row: int, column: int) -> float:
    """Round one element by trying all that the result's own scale can say."""
    spec = found.spec
    if found.scales is None:
        return float(
            torch.tensor(value).to({"fp16": torch.float16, "bf16": torch.bfloat16}[spec.format])
        )
    tall, wide = spec.block_shape or (1, 10**6)
    scale = float(found.scales[min(row // tall, len(found.scales) - 1), 0, column // wide])
    step = np.float32(scale) * np.float32(found.tensor_scale)
    if spec.element.kind == "int":
        top = spec.element.max_value
        zero = (
            0.0 if found.zeros is None else float(found.zeros[min(row, len(found.zeros) - 1), 0, 0])
        )
        low = -top if spec.symmetric else -top - 1
        return float(np.clip(np.rint(value / step) + zero, low, top) - zero) * float(step)
    codes = np.array(
        [m * 2.0**e for e in range(-12, 20) for m in range(2 ** (spec.element.mantissa_bits + 1))]
    )
    smallest = spec.element.min_normal / 2**spec.element.mantissa_bits
    codes = np.unique(codes[(codes <= spec.element.max_value) & (codes % smallest == 0)])
    codes = np.concatenate([-codes[::-1], codes])
    return float(codes[np.abs(codes - value / step).argmin()] * step)


def reference(found: QuantizedTensor, weight: Array, gram: Array, damping: float) -> Array:
    """Round column by column, with the inverse of what is left computed anew for each."""
    R, K = weight.shape
    h = gram + damping * np.diag(gram).mean() * np.eye(K)
    kept = np.ones((R, K), bool) if found.mask is None else found.mask.flatten(1).numpy()
    unit = 1 if found.sparsity is None else int(found.sparsity[2])
    units = np.argsort(-np.diag(gram).reshape(-1, unit).sum(1), kind="stable")
    order = [int(u) * unit + i for u in units for i in range(unit)]
    rounded = np.zeros_like(weight)
    for r in range(R):
        row = weight[r].copy()
        for at, column in enumerate(order):
            left = order[at:]
            inverse = np.linalg.inv(h[np.ix_(left, left)])
            if kept[r, column]:
                rounded[r, column] = nearest(found, row[column], r, column)
            error = row[column] - rounded[r, column]
            row[left] -= error * inverse[0] / inverse[0, 0]
    return rounded


def descended(
    found: QuantizedTensor, weight: Array, start: Array, gram: Array, damping: float
) -> Array:
    """Go over all columns once more, each to the best that it can be beside the others."""
    R, K = weight.shape
    h = gram + damping * np.diag(gram).mean() * np.eye(K)
    kept = np.ones((R, K), bool) if found.mask is None else found.mask.flatten(1).numpy()
    unit = 1 if found.sparsity is None else int(found.sparsity[2])
    units = np.argsort(-np.diag(gram).reshape(-1, unit).sum(1), kind="stable")
    result = start.copy()
    for r in range(R):
        for column in [int(u) * unit + i for u in units for i in range(unit)]:
            if kept[r, column]:
                pull = (result[r] - weight[r]) @ h[:, column]
                wanted = result[r, column] - pull / h[column, column]
                result[r, column] = nearest(found, wanted, r, column)
    return result


@pytest.mark.parametrize("name", [*SCHEMES, ASYMMETRIC.name])
def test_a_slow_reference_gives_the_same(name: str) -> None:
    weight, x = layer(3)
    scheme, gram = find(name), find_gram(x)
    for passes in (0, 1):
        # the guard is apart: errors of a row can be worse than plain rounding's before it
        found = round_in_gram(
            weight, scheme.weight, gram, LINEAR, sparsity=scheme.sparsity, passes=passes
        )
        expected = reference(found, weight.double().numpy(), gram[0].numpy(), 1e-3)
        if passes:
            expected = descended(found, weight.double().numpy(), expected, gram[0].numpy(), 1e-3)
        got = found.dequantize().double().numpy()
        worse = row_errors(found, weight, x) == row_errors(plain(weight, scheme), weight, x)
        assert worse.sum() <= 1
        np.testing.assert_allclose(got[~worse], expected[~worse], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*SCHEMES, ASYMMETRIC.name])
def test_no_row_is_worse_than_plain_rounding(name: str) -> None:
    scheme = find(name)
    shared = scheme.weight.tensor_scale or name in ("fp4", "fp8_tensor", "fp8_block")
    for seed in range(8):
        weight, x = layer(seed, K=64, R=9)
        gram = find_gram(x)
        found = round_in_gram(weight, scheme.weight, gram, LINEAR, sparsity=scheme.sparsity)
        got, least = row_errors(found, weight, x), row_errors(plain(weight, scheme), weight, x)
        assert got.sum() <= least.sum() * (1 + 1e-6)
        if not shared:
            assert (got <= least * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", [*SCHEMES, ASYMMETRIC.name])
def test_the_result_is_what_its_scheme_stores(name: str) -> None:
    """Codes are elements, scales are exact in their format, and the pattern holds."""
    scheme = find(name)
    weight, x = layer(1, K=40 if scheme.sparsity is None else 64)
    found = round_in_gram(weight, scheme.weight, find_gram(x), LINEAR, sparsity=scheme.sparsity)
    expected = plain(weight, scheme)
    assert found.layout == expected.layout
    assert found.stored_bytes == expected.stored_bytes
    for a, b in (
        (found.scales, expected.scales),
        (found.zeros, expected.zeros),
        (found.mask, expected.mask),
    ):
        assert (a is None) == (b is None)
        assert a is None or b is None or (a.shape == b.shape and a.dtype == b.dtype)
    if scheme.weight.symmetric:
        assert float(found.codes.abs().max()) <= scheme.weight.element.max_value
    if scheme.sparsity is not None:
        values = found.dequantize()
        assert torch.equal(prune(values, scheme.sparsity), values)


def test_four_bits_lose_half_of_what_plain_rounding_loses() -> None:
    weight, x = layer(5, K=96, R=40, n=400)
    for name in ("nvfp4", "w4a16_g32", "mxfp4", "fp8_2of4"):
        scheme = find_scheme(name)
        found = round_in_gram(weight, scheme.weight, find_gram(x), LINEAR, sparsity=scheme.sparsity)
        got, least = row_errors(found, weight, x), row_errors(plain(weight, scheme), weight, x)
        assert got.sum() < 0.5 * least.sum(), name


def test_convolutions_are_rounded_in_their_patches() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 12, 9, 7, generator=generator).cumsum(1).cumsum(3) * 0.1
    for groups, weight in (
        (1, torch.randn(8, 12, 3, 3, generator=generator)),
        (3, torch.randn(6, 4, 3, 3, generator=generator)),
        (12, torch.randn(12, 1, 3, 3, generator=generator)),
    ):
        gram = find_patch_gram(
            x, kernel=(3, 3), strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=groups
        )
        scheme = find_scheme("nvfp4")
        found = round_in_gram(weight, scheme.weight, gram, LINEAR)

        def outputs(w: Tensor, groups: int = groups) -> Tensor:
            return torch.nn.functional.conv2d(x, w, padding=1, groups=groups).double()

        errors = [
            float((outputs(q.dequantize()) - outputs(weight)).square().sum())
            for q in (found, plain(weight, scheme))
        ]
        assert errors[0] < 0.7 * errors[1]


def test_columns_of_a_matmul_weight_are_its_rows() -> None:
    weight, x = layer(5)
    spec = find_scheme("nvfp4").weight
    want = round_in_gram(weight, spec, find_gram(x), LINEAR)
    got = round_in_gram(weight.T, spec, find_gram(x), Operand("w", "w", 1, 0, (1,)))
    assert torch.equal(got.dequantize(), want.dequantize().T)


@pytest.mark.parametrize("name", ["nvfp4", "int8", "fp8_2of4", "fp16"])
def test_data_that_say_little_do_no_harm(name: str) -> None:
    scheme = find_scheme(name)
    weight, x = layer(7, K=64)
    dead = x.clone()
    dead[:, :9] = 0  # channels that nothing passes
    repeated = x.clone()
    repeated[:, 32:] = x[:, :32]
    for data in (dead, repeated, x[:1], x[:3], x * 1e-12, x * 1e8):
        found = round_in_gram(
            weight, scheme.weight, find_gram(data), LINEAR, sparsity=scheme.sparsity
        )
        assert bool(torch.isfinite(found.dequantize()).all())
        got, least = (
            row_errors(found, weight, data),
            row_errors(plain(weight, scheme), weight, data),
        )
        assert got.sum() <= least.sum() * (1 + 1e-5)
    nothing = torch.zeros_like(find_gram(x))
    found = round_in_gram(weight, scheme.weight, nothing, LINEAR, sparsity=scheme.sparsity)
    close = (found.dequantize() - weight).norm() / (
        plain(weight, scheme).dequantize() - weight
    ).norm()
    assert float(close) < 1.05  # without data it is rounding by the weights' own error


def test_weights_of_zeros_stay_zero() -> None:
    _, x = layer(0)
    for name in SCHEMES:
        scheme = find_scheme(name)
        found = round_in_gram(
            torch.zeros(6, 32), scheme.weight, find_gram(x), LINEAR, sparsity=scheme.sparsity
        )
        assert not found.dequantize().any()


def test_large_layers_in_fp32_lose_no_more_than_their_parts_in_fp64() -> None:
    weight, x = layer(2, K=384, R=200, n=1500)
    spec, gram = find_scheme("nvfp4").weight, find_gram(x)
    whole = round_in_gram(weight, spec, gram, LINEAR)
    parts = [round_in_gram(weight[i : i + 100], spec, gram, LINEAR) for i in (0, 100)]
    errors = np.concatenate(
        [row_errors(q, weight[i : i + 100], x) for q, i in zip(parts, (0, 100), strict=True)]
    )
    assert row_errors(whole, weight, x).sum() == pytest.approx(errors.sum(), rel=0.02)


def test_mistakes_are_named() -> None:
    weight, x = layer(0)
    spec = find_scheme("nvfp4").weight
    with pytest.raises(SchemeError, match=r"Gram matrix of fc1 must be"):
        round_in_gram(weight, spec, find_gram(x)[:, 1:, 1:], LINEAR, name="fc1")
    with pytest.raises(NumericsError, match=r"Gram matrix of fc1 must be finite"):
        round_in_gram(weight, spec, find_gram(x) * torch.nan, LINEAR, name="fc1")
    with pytest.raises(NumericsError, match="fc1"):
        round_in_gram(weight * torch.nan, spec, find_gram(x), LINEAR, name="fc1")
