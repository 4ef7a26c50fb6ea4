"""GEMMs of a model's layers for a GPU: which are timed, what is said where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mpsearch.errors import DeviceError
from mpsearch.profile.gpu_gemms import Size, check_gpu, csv_text, gemm_sizes, time_gemms
from tests.support.integer_models import branching_net
from tests.support.torch_models import imported


def test_sizes_are_distinct_padded_and_without_depthwise_layers(tmp_path: Path) -> None:
    sizes = gemm_sizes(imported(branching_net(), tmp_path))
    assert Size(64, 16, 32) in sizes  # the stem: 8 x 8 positions, 3 x 9 inputs padded to 32
    assert len(sizes) == len(set(sizes)) < 9
    assert all(size.m % 16 == size.n % 16 == size.k % 16 == 0 for size in sizes)


def test_a_format_that_the_gpu_lacks_is_said_once_and_the_rest_is_timed() -> None:
    tried: list[str] = []

    def make(dtype: str, sparsity: str, size: Size) -> Callable[[], None]:
        tried.append(dtype)
        if dtype == "fp8":
            raise RuntimeError("torch._scaled_mm needs compute capability 8.9\nmore")
        return lambda: None

    sizes = [Size(16, 32, 48), Size(32, 32, 64)]
    rows, refused = time_gemms(sizes, gpu="toy", timer=lambda run: 12.3456, make=make)
    assert refused == {"fp8": "torch._scaled_mm needs compute capability 8.9"}
    assert tried.count("fp8") == 1
    assert len(rows) == 8
    text = csv_text(rows).splitlines()
    assert text[0] == "gpu,dtype,sparsity,m,n,k,latency_us"
    assert text[1] == "toy,bf16,dense,16,32,48,12.346"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line() -> None:
    with pytest.raises(DeviceError, match="needs a GPU that torch can use, but there is none"):
        check_gpu()
