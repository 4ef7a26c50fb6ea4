"""A weight is quantised once: the simulation is what its stored parts stand for, to the bit."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mpsearch.errors import NumericsError, SchemeError
from mpsearch.formats import find_format
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.packing import pack_parts
from mpsearch.numerics.quantize import quantize_weight, simulate_weight
from mpsearch.numerics.sparsity import prune
from mpsearch.schemes import SCHEMES, Spec, find_scheme, stored_bits

EXTRA = {
    "int4 asymmetric": Spec("int4", "group", block_shape=(1, 32), symmetric=False),
    "int8 asymmetric per channel": Spec("int8", "channel", symmetric=False),
    "int8 asymmetric per tensor": Spec("int8", symmetric=False, estimator="percentile"),
    "int8 by percentile": Spec("int8", estimator="percentile"),
    "int8 by entropy": Spec("int8", estimator="entropy"),
    "int8 channels by mse": Spec("int8", "channel", estimator="mse"),
    "e4m3 without subnormals": Spec("e4m3", "channel", subnormals=False),
    "e2m1 in blocks of 7": Spec("e2m1", "block", block_shape=(1, 7), scale_format="bf16"),
    "e5m2 in powers of two": Spec("e5m2", "channel", scale_format="e8m0"),
}
SPECS = {n: (s.weight, s.sparsity) for n, s in SCHEMES.items()} | {
    n: (spec, None) for n, spec in EXTRA.items()
}
# shape, reduction axis, channel axes, groups
LAYOUTS = {
    "gemm": ((24, 64), 1, (0,), 1),
    "matmul": ((64, 24), 0, (1,), 1),
    "short tail": ((6, 40), 1, (0,), 1),
    "wide": ((130, 264), 1, (0,), 1),
    "convolution": ((8, 24, 3, 3), 1, (0,), 1),
    "one channel": ((12, 1, 5, 3), 1, (0,), 1),
    "batched": ((3, 24, 8), 1, (0, 2), 1),
    "transposed in groups": ((24, 6, 2, 2), 0, (1,), 3),
    "one number": ((1, 1), 1, (0,), 1),
    "empty": ((0, 8), 1, (0,), 1),
}


def weights(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers of several magnitudes, zeros of both signs, one row of zeros."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, dtype=np.float32)
    x *= np.exp2(rng.integers(-3, 3, shape)).astype(np.float32)
    x[rng.random(shape) < 0.05] = -0.0
    x[-1:] *= 0
    return torch.from_numpy(x)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SPECS)
def test_the_simulation_is_what_the_parts_stand_for(name: str, layout: str) -> None:
    spec, sparsity = SPECS[name]
    shape, reduction, channels, groups = LAYOUTS[layout]
    axes = {"reduction_axis": reduction, "channel_axes": channels, "groups": groups}
    weight = weights(shape, seed=len(name))
    per_group = shape[reduction] // groups
    if sparsity is not None and per_group % (8 if "8" in sparsity else 4):
        with pytest.raises(SchemeError, match="must hold along the reduction"):
            quantize_weight(weight, spec, **axes, sparsity=sparsity)
        return
    made = quantize_weight(weight, spec, **axes, sparsity=sparsity)
    assert same_bits(made.dequantize(), simulate_weight(weight, spec, **axes, sparsity=sparsity))
    pruned = prune(weight, sparsity, axis=reduction, groups=groups) if sparsity else weight
    assert same_bits(made.dequantize(), simulate_weight(pruned, spec, **axes))
    if spec.symmetric:  # asymmetric integers have one code more
        assert same_bits(round_elements(made.codes, spec.element), made.codes)
    if made.scales is not None:
        scale = find_format(str(spec.scale_format))
        assert same_bits(round_elements(made.scales, scale), made.scales)
    if made.mask is not None:
        assert not made.codes[~made.mask].any()


@pytest.mark.parametrize("layout", ["gemm", "short tail", "convolution", "transposed in groups"])
@pytest.mark.parametrize("name", [n for n in SPECS if "tf32" not in n])
def test_its_parts_take_the_bytes_that_are_counted(name: str, layout: str) -> None:
    spec, sparsity = SPECS[name]
    shape, reduction, channels, groups = LAYOUTS[layout]
    axes = {"reduction_axis": reduction, "channel_axes": channels, "groups": groups}
    if sparsity is not None and shape[reduction] // groups % 8:
        pytest.skip("not divisible")
    made = quantize_weight(weights(shape, seed=2), spec, **axes, sparsity=sparsity)
    at = made.layout
    counted = stored_bits(spec, at.rows, at.positions, at.channels, sparsity=sparsity)
    assert made.stored_bytes == -(-counted // 8)
    parts = pack_parts(made)
    assert abs(sum(part.numel() for part in parts.values()) - made.stored_bytes) <= 1
    assert ("indices" in parts) == (sparsity is not None)


def test_a_pruned_weight_stays_as_it_is() -> None:
    scheme = find_scheme("nvfp4_2of4")
    weight = prune(weights((8, 64), 1), "2:4")
    axes = {"reduction_axis": 1, "channel_axes": (0,)}
    made = quantize_weight(weight, scheme.weight, **axes, sparsity="2:4")
    assert torch.equal(
        made.dequantize(), quantize_weight(weight, scheme.weight, **axes).dequantize()
    )


def test_a_weight_that_is_not_finite_is_named() -> None:
    weight = torch.tensor([[1.0, torch.nan]])
    for scheme in ("fp16", "int8", "nvfp4"):
        with pytest.raises(NumericsError, match="'w1' must be finite"):
            quantize_weight(
                weight, find_scheme(scheme).weight, reduction_axis=1, channel_axes=(0,), name="w1"
            )


def test_zeros_keep_their_sign_whatever_was_quantised_before() -> None:
    axes = {"reduction_axis": 1, "channel_axes": (0,)}
    spec = find_scheme("nvfp4").weight
    for zeros in (torch.zeros(1, 1), -torch.zeros(1, 1), torch.zeros(1, 1)):
        assert same_bits(simulate_weight(zeros, spec, **axes), zeros)
        assert same_bits(quantize_weight(zeros, spec, **axes).dequantize(), zeros)
