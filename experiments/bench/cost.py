"""Seconds for a million kernel estimates, on a device with fitted kernels and on one without.

python -m experiments.bench.cost
"""

import time

import numpy as np

from mpsearch.cost.gemm import gemm_latency

COUNT = 10**6
CASES = (("h100_pcie_80gb", "fp8"), ("h100_pcie_80gb", "bf16_2of4"), ("h100_sxm5_80gb", "fp8"))


def main() -> None:
    rng = np.random.default_rng(0)
    m, n, k = (np.round(2 ** rng.uniform(4, 14, COUNT)).astype(np.int64) for _ in "mnk")
    for device, scheme in CASES:
        gemm_latency(device, scheme, 64, 64, 64)  # the file is read, the residual tabled
        wall, cpu = time.perf_counter(), time.process_time()
        gemm_latency(device, scheme, m, n, k)
        print(
            f"{device} {scheme}: {time.perf_counter() - wall:.2f} s, "
            f"{time.process_time() - cpu:.2f} s of the processor"
        )


if __name__ == "__main__":
    main()
