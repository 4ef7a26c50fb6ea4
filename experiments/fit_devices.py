"""Write the fitted kernels of the measured GPUs into their device files.

    python -m experiments.fit_devices

Every group of a GPU is fitted to all its accepted kernels, without other devices; what a GPU runs and nobody
measured is then borrowed; nvfp4 on a B200 is experiments.b200_nvfp4's, whose table also lends seven kernels in bf16. Of experiments/data/gemm_latency.csv (source and licence beside it).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.b200_nvfp4 import fit_nvfp4, read_table
from mpsearch.cost.device import read_device
from mpsearch.cost.fit.fit_device import borrowed_kernels, device_text, fit_device
from mpsearch.cost.fit.measurements import Measured, Measurements, read_rows, select
from mpsearch.cost.fitted import FittedKernels
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
        if gpu == "B200":
            own = _with_few_rows(own)
        fitted = [_named(group.kernels) for group in fit_device(device, own, source=SOURCE)]
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


def _with_few_rows(own: Measurements) -> Measurements:
    """Add the published bf16 kernels, from M = 1, to those of the sweep, which begins at 64."""
    few, key = read_table("bf16"), ("bf16", "dense")
    many = own.groups[key]
    sizes, us = np.concatenate([many.sizes, few.sizes]), np.concatenate([many.us, few.us])
    return replace(own, groups={**own.groups, key: Measured(*key, sizes, us)})


def _named(kernels: FittedKernels) -> FittedKernels:
    library = "cuBLASLt" if kernels.sparsity == "dense" else "cuSPARSELt"
    return kernels.model_copy(update={"library": library})


if __name__ == "__main__":
    main()
