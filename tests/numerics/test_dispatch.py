"""The compiled kernels give the bits of the torch path, whatever the shape, threads or layout."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from mpsearch.errors import NumericsError
from mpsearch.formats import FORMATS
from mpsearch.numerics import dispatch
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.quantize import fake_quantize, quantize_activation, simulate_weight
from mpsearch.numerics.ranges import finite_range, make_range
from mpsearch.schemes import SCHEMES, Spec

DENSE = [scheme for scheme in SCHEMES.values() if scheme.sparsity is None]
EXTRA = {
    "int4 per channel in fp16": Spec("int4", "channel", scale_format="fp16"),
    "int8 groups of 24": Spec("int8", "group", block_shape=(1, 24), scale_format="fp16"),
    "e4m3 without subnormals": Spec("e4m3", "channel", subnormals=False),
    "e2m1 in blocks of 7 with bf16 scales": Spec(
        "e2m1", "block", block_shape=(1, 7), scale_format="bf16"
    ),
    "e5m2 per channel in powers of two": Spec("e5m2", "channel", scale_format="e8m0"),
    "int8 asymmetric": Spec("int8", symmetric=False),
}
WEIGHTS = {scheme.name: scheme.weight for scheme in DENSE} | EXTRA
ACTIVATIONS = {scheme.name: scheme.activation for scheme in DENSE}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch):
    """Run a function on the torch path."""

    def run(function, *args, **more):
        with monkeypatch.context() as patch:
            patch.setattr(dispatch, "load_kernels", lambda: None)
            assert not dispatch.can_run(torch.zeros(1))
            return function(*args, **more)

    return run


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def wild(*shape: int, seed: int = 0) -> Tensor:
    """Finite numbers of all magnitudes, subnormals, zeros of both signs, and channels of zeros."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, dtype=np.float32)
    x *= np.exp2(rng.integers(-60, 60, shape)).astype(np.float32)
    x[0] *= np.float32(2.0**-100)
    x[-1] *= np.float32(0)
    return torch.from_numpy(x)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("shape", [(24, 20, 3, 3), (6, 150, 1, 1), (33, 160), (3, 1, 5, 5)])
def test_weights_have_the_same_bits(name: str, shape: tuple[int, ...], plain) -> None:
    for weight in (wild(*shape), torch.randn(shape, generator=torch.Generator().manual_seed(1))):
        options = {"reduction_axis": 1, "channel_axes": (0,)}
        want = plain(simulate_weight, weight, WEIGHTS[name], **options)
        assert same_bits(simulate_weight(weight, WEIGHTS[name], **options), want)
        flipped = weight.transpose(0, 1)
        options = {"reduction_axis": 0, "channel_axes": (1,)}
        want = plain(simulate_weight, flipped, WEIGHTS[name], **options)
        assert same_bits(simulate_weight(flipped, WEIGHTS[name], **options), want)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 40, 6, 7), 1), ((2, 40, 2, 3), 1), ((2, 5, 40), -1), ((40,), 0)]
)
@pytest.mark.parametrize("groups", [1, 4])
def test_activations_have_the_same_bits(
    name: str, shape: tuple[int, ...], axis: int, groups: int, plain
) -> None:
    spec, x = ACTIVATIONS[name], wild(*shape, seed=2)
    for calibrated in (None, make_range(-3.0, 5.0, spec)):
        options = {"reduction_axis": axis, "groups": groups, "range": calibrated}
        want = plain(quantize_activation, x, spec, **options)
        assert same_bits(quantize_activation(x, spec, **options), want)


@pytest.mark.parametrize("name", ["e4m3", "fp16", "bf16", "nvfp4", "mxfp4", "int8", "int4_g32"])
def test_threads_share_large_tensors_without_a_trace(name: str, plain) -> None:
    x = torch.randn(301, 1001, generator=torch.Generator().manual_seed(3))
    want = plain(fake_quantize, x, name)
    assert x.numel() // torch.get_num_threads() > 2**16
    assert same_bits(fake_quantize(x, name), want)
    assert same_bits(fake_quantize(x, name, axis=0), plain(fake_quantize, x, name, axis=0))


def test_callers_in_several_threads_do_not_disturb_each_other() -> None:
    xs = [torch.randn(300, 700, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    want = [fake_quantize(x, "nvfp4") for x in xs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda x: fake_quantize(x, "nvfp4"), xs))
    assert all(map(same_bits, got, want))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("subnormals", [True, False])
def test_elements_have_the_same_bits(name: str, subnormals: bool, plain) -> None:
    bits = np.random.default_rng(4).integers(0, 2**32, 2**16, dtype=np.uint32)
    x = torch.from_numpy(bits.view(np.float32))
    x = torch.cat([x[~x.isnan()], torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])])
    want = plain(round_elements, x, FORMATS[name], subnormals=subnormals)
    got = round_elements(x, FORMATS[name], subnormals=subnormals)
    assert torch.equal(got.isnan(), want.isnan())
    assert same_bits(got.nan_to_num(7.0), want.nan_to_num(7.0))


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "e4m3", "nvfp4", "mxfp4", "fp4"])
@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("size", [5, 100])
def test_nan_and_inf_are_errors_that_name_the_tensor(
    name: str, bad: float, size: int, plain
) -> None:
    x = torch.ones(3, size)
    x[1, size - 1] = bad
    for run in (fake_quantize, lambda *args, **more: plain(fake_quantize, *args, **more)):
        with pytest.raises(NumericsError, match=r"'conv1\.input' must be finite"):
            run(x, name, name="conv1.input")


def test_extremes_equal_torch() -> None:
    x = wild(40, 5001)
    assert finite_range(x, "x") == (float(x.min()), float(x.max()))
    assert finite_range(-x.abs() - 1, "x") == (float((-x.abs() - 1).min()), -1.0)


def test_numba_is_imported_by_the_first_tensor_not_by_the_package() -> None:
    code = "import sys, mpsearch.numerics.quantize; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
