"""Times of the numerics as ratios in one run: quantisation to ``clone``, amax to ``min`` and ``max``.

Run: python -m experiments.bench.numerics [--size 4096] [--threads 2] [--repeats 9]
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence

import torch

from mpsearch.numerics.quantize import fake_quantize, simulate_weight
from mpsearch.numerics.ranges import RangeObserver
from mpsearch.numerics.sparsity import prune
from mpsearch.schemes import SCHEMES


def best_times(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the shortest wall time of each run in milliseconds: taken in turns, so that all meet the same load."""
    times = [[float("inf")] for _ in runs]
    for turn in range(repeats + 1):
        for run, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if turn:  # the first one warms up
                taken.append(time.perf_counter() - start)
    return [1000 * min(taken) for taken in times]


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
        return simulate_weight(x, spec, reduction_axis=1, channel_axes=(0,))

    def calibrate() -> None:
        RangeObserver(histogram=False).observe(x)

    def clone() -> None:
        x.clone()

    def extremes() -> None:
        x.min(), x.max()  # timed, not used

    rows: list[tuple[str, Callable[[], object], Callable[[], object], float | None]] = [
        ("e4m3 per channel", lambda: weight("fp8"), clone, 5),
        ("nvfp4", lambda: weight("nvfp4"), clone, 5),
        ("mxfp4", lambda: weight("mxfp4"), clone, 5),
        ("int8 per channel", lambda: weight("int8"), clone, 5),
        ("int8 per tensor", lambda: fake_quantize(x, "int8"), clone, 5),
        ("nvfp4 along axis 0", lambda: fake_quantize(x, "nvfp4", axis=0), clone, None),
        ("fp16 cast", lambda: fake_quantize(x, "fp16"), clone, None),
        ("2:4 by magnitude", lambda: prune(x, "2:4"), clone, 6),
        ("4:8 paired", lambda: prune(x, "4:8_paired"), clone, None),
        ("amax calibration", calibrate, extremes, 3),
        ("histogram calibration", lambda: RangeObserver().observe(x), extremes, None),
    ]
    print(f"{options.size} x {options.size} fp32, {options.threads} threads, {platform.machine()}")
    for name, run, reference, limit in rows:
        taken, unit = best_times((run, reference), options.repeats)
        goal = f"goal {limit:.0f}" if limit else ""
        against = "clone" if reference is clone else "min, max"
        print(f"{name:22s} {taken:7.1f} ms = {taken / unit:5.2f} x {against:9s} {goal}")


if __name__ == "__main__":
    main()
