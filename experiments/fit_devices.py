"""Write the fitted kernels of the measured GPUs into their device files.

    python -m experiments.fit_devices

Every group of a GPU is fitted to all its accepted kernels, without other devices; what a GPU runs and nobody
measured is then borrowed; nvfp4 on a B200 is experiments.b200_nvfp4's, whose table also lends the residual seven kernels in bf16. Of experiments/data/gemm_latency.csv (source and licence beside it).
"""

from pathlib import Path

import numpy as np

from experiments.b200_nvfp4 import fit_nvfp4, read_table
from mpsearch.cost.curve import curve_us
from mpsearch.cost.device import Device, read_device
from mpsearch.cost.fit.curves import machine_for, shapes_of
from mpsearch.cost.fit.fit_device import borrowed_kernels, device_text, fit_device
from mpsearch.cost.fit.measurements import Measured, read_rows, select
from mpsearch.cost.fitted import FittedKernels, residual_lines, residual_points
from mpsearch.cost.measured import theta_of
from mpsearch.registry import data_folder

MEASURED = Path(__file__).parent / "data" / "gemm_latency.csv"
GPUS = {
    "A100": "a100_pcie_80gb",
    "H100": "h100_pcie_80gb",
    "B200": "b200_hgx",
    "RTX4090": "rtx4090",
    "RTX5080": "rtx5080",
}
SOURCE = "bcacdwk/vllmbench @92a8ca4, Apache-2.0 (SlideSparse, arXiv 2603.05232)"


def main() -> None:
    rows, _ = read_rows(MEASURED)
    devices = []
    for gpu, name in GPUS.items():
        device = read_device(name).model_copy(update={"kernels": ()})
        own = select(rows, device, names=[gpu], where=MEASURED.name)
        fitted = [_named(group.kernels) for group in fit_device(device, own, source=SOURCE)]
        if gpu == "B200":
            fitted = [_with_few_rows(device, kernels) for kernels in fitted]
        devices.append(device.model_copy(update={"kernels": tuple(fitted)}))
        print(name, len(fitted))
    for device in devices:
        kernels, quantization = list(device.kernels), None
        if device.name == GPUS["B200"]:
            nvfp4 = fit_nvfp4(device)
            kernels = [k for k in kernels if (k.format, k.sparsity) != ("nvfp4", "dense")]
            kernels, quantization = [*kernels, nvfp4.kernels], [nvfp4.quantization]
        kernels += borrowed_kernels(device, kernels, devices)
        path = data_folder("cost_models") / f"{device.name}.toml"
        path.write_text(device_text(path.read_text(), kernels, quantization))


def _with_few_rows(device: Device, kernels: FittedKernels) -> FittedKernels:
    """Add to the residual what the curve leaves at the published bf16 kernels, from M = 1: the sweep begins at 64.

    They are of one (N, K): the curve stays that of the sweep, which others borrow.
    """
    if (kernels.format, kernels.sparsity) != ("bf16", "dense"):
        return kernels
    table = read_table("bf16")
    few = Measured("bf16", "dense", table.sizes, table.us)
    said = curve_us(theta_of(kernels), machine_for(device, "bf16", "dense"), shapes_of(few))
    left = np.round(1000 * np.log(few.us / said)).astype(np.int64)
    points = np.column_stack([few.sizes.astype(np.int64), left])
    every = [*residual_points(kernels.residual), *(tuple(row) for row in points.tolist())]
    return kernels.model_copy(update={"residual": residual_lines(every)})


def _named(kernels: FittedKernels) -> FittedKernels:
    library = "cuBLASLt" if kernels.sparsity == "dense" else "cuSPARSELt"
    return kernels.model_copy(update={"library": library})


if __name__ == "__main__":
    main()
