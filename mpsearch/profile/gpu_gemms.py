"""Matrix products timed on a GPU with torch, in the columns that ``mpsearch fit`` reads."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpsearch.errors import DeviceError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Progress

COLUMNS = ("gpu", "dtype", "sparsity", "m", "n", "k", "latency_us")
FORMATS = (("bf16", "dense"), ("fp8", "dense"), ("int8", "dense"), ("bf16", "2:4"), ("int8", "2:4"))
_MULTIPLE = 16
"""Sizes of the kernels of fp8, int8 and 2:4 are multiples of it."""
_RUNS, _WARM = 50, 5


@dataclass(frozen=True, slots=True)
class Size:
    """M × K activations by K × N weights."""

    m: int
    n: int
    k: int


def gemm_sizes(graph: ModelGraph) -> tuple[Size, ...]:
    """Return the distinct products with weights of ``graph``, padded to what every format's kernel takes.

    Raises:
        DeviceError: There is none whose size is known.
    """
    sizes = {
        Size(*(_padded(size) for size in (gemm.m, gemm.n, gemm.k)))
        for layer in graph.layers
        for gemm in layer.gemms
        if gemm.has_weight and gemm.groups == 1 and gemm.m > 0
    }
    if not sizes:
        raise DeviceError(
            f"{graph.name} must hold a product with weights of known size to be timed; give sizes with --shape"
        )
    return tuple(sorted(sizes, key=lambda size: (size.m, size.n, size.k)))


def check_gpu() -> str:
    """Return the GPU's name.

    Raises:
        DeviceError: torch finds none.
    """
    if not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda needs a GPU that torch can use, but there is none on this machine; "
            "take --runtime onnxruntime or openvino for its processor"
        )
    return torch.cuda.get_device_name()


def time_gemms(
    sizes: Sequence[Size],
    *,
    gpu: str,
    timer: Callable[[Callable[[], Any]], float] | None = None,
    make: Callable[[str, str, Size], Callable[[], Any]] | None = None,
    progress: Progress | None = None,
) -> tuple[list[tuple[object, ...]], dict[str, str]]:
    """Return rows of :data:`COLUMNS`, and format → why the GPU does not run it.

    Args:
        sizes: What is timed.
        gpu: Name in the rows.
        timer: Function to the microseconds of one call; None times with events of the GPU.
        make: (dtype, sparsity, size) to what runs one product; None multiplies on the GPU.
        progress: Called with (done, all, what goes on).
    """
    timer, make = timer or _event_us, make or _product
    rows: list[tuple[object, ...]] = []
    refused: dict[str, str] = {}
    work = [(dtype, sparsity, size) for dtype, sparsity in FORMATS for size in sizes]
    for done, (dtype, sparsity, size) in enumerate(work, 1):
        name = dtype if sparsity == "dense" else f"{dtype}_2of4"
        if name not in refused:
            try:
                took = timer(make(dtype, sparsity, size))
                rows.append((gpu, dtype, sparsity, size.m, size.n, size.k, round(took, 3)))
            except (RuntimeError, ValueError, NotImplementedError) as error:
                refused[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if progress is not None:
            progress(done, len(work), f"{name} {size.m}x{size.n}x{size.k}")
    return rows, refused


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return ``rows`` under their header."""
    return "".join(",".join(map(str, row)) + "\n" for row in (COLUMNS, *rows))


def _padded(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE


def _event_us(run: Callable[[], Any]) -> float:
    """Median microseconds of a call, by the GPU's own clock."""
    for _ in range(_WARM):
        run()
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(_RUNS)
    ]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(end) for start, end in events)
    return times[len(times) // 2] * 1e3


def _product(dtype: str, sparsity: str, size: Size) -> Callable[[], Tensor]:
    left = torch.randn(size.m, size.k, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(size.n, size.k, device="cuda", dtype=torch.bfloat16)
    if sparsity == "2:4":
        kept = torch.tensor([True, True, False, False], device="cuda").repeat(size.k // 4)
        right = right * kept
    if dtype == "int8":
        left, right = (x.clamp(-1, 1).mul(127).to(torch.int8) for x in (left, right))
    if sparsity == "2:4":
        sparse = torch.sparse.to_sparse_semi_structured(right)
        return lambda: torch.nn.functional.linear(left, sparse)
    if dtype == "bf16":
        return lambda: left @ right.T
    if dtype == "int8":
        return lambda: torch._int_mm(left, right.T)
    one = torch.ones((), device="cuda")
    codes = [x.to(torch.float8_e4m3fn) for x in (left, right)]
    return lambda: torch._scaled_mm(
        codes[0], codes[1].T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16
    )
