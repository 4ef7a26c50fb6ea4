"""Times of the numerics as ratios in one run: quantisation to ``clone``, amax to ``min`` and ``max``.

Run: python experiments/bench/numerics.py [--size 4096] [--threads 2] [--repeats 9]
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch

from mpsearch.numerics.quantize import fake_quantize, quantize_weight
from mpsearch.numerics.ranges import RangeObserver
from mpsearch.numerics.sparsity import prune
from mpsearch.schemes import SCHEMES


def best_time(run: Callable[[], object], repeats: int) -> float:
    """Return the shortest of ``repeats`` wall times in milliseconds, after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.size, options.size, generator=generator)

    def weight(name: str) -> torch.Tensor:
        spec = SCHEMES[name].weight
        return quantize_weight(x, spec, reduction_axis=1, channel_axes=(0,))

    def calibrate() -> None:
        RangeObserver().observe(x)

    clone = best_time(lambda: x.clone(), options.repeats)
    extremes = best_time(lambda: (x.min(), x.max()), options.repeats)
    rows: list[tuple[str, Callable[[], object], float, str, float | None]] = [
        ("e4m3 per channel", lambda: weight("fp8"), clone, "clone", 5),
        ("nvfp4", lambda: weight("nvfp4"), clone, "clone", 5),
        ("mxfp4", lambda: weight("mxfp4"), clone, "clone", 5),
        ("int8 per channel", lambda: weight("int8"), clone, "clone", 5),
        ("int8 per tensor", lambda: fake_quantize(x, "int8"), clone, "clone", 5),
        ("nvfp4 along axis 0", lambda: fake_quantize(x, "nvfp4", axis=0), clone, "clone", None),
        ("fp16 cast", lambda: fake_quantize(x, "fp16"), clone, "clone", None),
        ("2:4 by magnitude", lambda: prune(x, "2:4"), clone, "clone", 6),
        ("4:8 paired", lambda: prune(x, "4:8_paired"), clone, "clone", None),
        ("amax calibration", calibrate, extremes, "min, max", 3),
    ]
    print(f"{options.size} x {options.size} fp32, {options.threads} threads, {platform.machine()}")
    print(f"clone {clone:.1f} ms, min and max {extremes:.1f} ms")
    for name, run, unit, what, limit in rows:
        ratio = best_time(run, options.repeats) / unit
        goal = f"goal {limit:.0f}" if limit else ""
        print(f"{name:20s} {ratio:6.2f} x {what:9s} {goal}")


if __name__ == "__main__":
    main()
