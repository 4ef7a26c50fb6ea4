"""nvfp4 on a B200, with and without quantising activations: three parameters on its fp8 curve, two of a kernel.

    python -m experiments.b200_nvfp4

The kernels of experiments/data/b200_nvfp4.csv run as the fitted fp8 kernels do, at the fp4 peak and with fewer
bytes; launch, efficiency and least time are fitted. What quantising adds is a kernel that reads 16 bits
and writes nvfp4: a launch and a share of the bandwidth. Results: experiments/results/b200_nvfp4.json; the device file takes the
parameters when experiments.fit_devices is run.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from mpsearch.cost.curve import curve_us, decode
from mpsearch.cost.device import Device, read_device
from mpsearch.cost.fit.curves import machine_for, shapes_of
from mpsearch.cost.fit.measurements import Measured
from mpsearch.cost.fitted import FittedKernels, QuantizationKernel
from mpsearch.cost.measured import at_least, theta_of
from mpsearch.cost.products import element_bytes
from mpsearch.schemes import find_scheme
from mpsearch.stats.estimates import Floats

TABLE = Path(__file__).parent / "data" / "b200_nvfp4.csv"
RESULTS = Path(__file__).parent / "results" / "b200_nvfp4.json"
SOURCE = "vllm-project/vllm pull request 20646, N = 6144, K = 4096"
RELATIVE_ERROR = 0.15
"""Of other shapes than the table's; cuBLASLt's own nvfp4 kernels at seven square sizes are the check."""


@dataclass(frozen=True, slots=True)
class Nvfp4:
    """Fitted kernels, and relative errors at the table's M: alone, and with quantisation."""

    kernels: FittedKernels
    quantization: QuantizationKernel
    m: Floats
    measured_us: Floats
    alone: Floats
    together: Floats


def read_table(kernel: str) -> Measured:
    with TABLE.open() as file:
        rows = [row for row in csv.DictReader(file) if row["kernel"] == kernel]
    sizes = np.array([[float(row[name]) for name in "mnk"] for row in rows])
    tflops = np.array([float(row["tflops"]) for row in rows])
    return Measured("nvfp4", "dense", sizes, 2e-6 * sizes.prod(axis=1) / tflops)


def fit_nvfp4(device: Device) -> Nvfp4:
    fp8 = next(k for k in device.kernels if (k.format, k.sparsity) == ("fp8", "dense"))
    table, whole = read_table("nvfp4"), read_table("nvfp4 with quantisation")
    machine, shapes = machine_for(device, "nvfp4", "dense"), shapes_of(table)
    theta = theta_of(fp8)

    def kernels(three: Floats) -> FittedKernels:
        launch, efficiency, least = np.exp(three)
        facts = decode(theta) | {"launch_us": launch, "efficiency": efficiency, "least_us": least}
        rounded = {name: float(f"{value:.4g}") for name, value in facts.items()}
        said = {"format": "nvfp4", "library": "CUTLASS", "source": SOURCE, "points": len(table.us)}
        return FittedKernels.model_validate({**rounded, **said, "relative_error": RELATIVE_ERROR})

    def alone(three: Floats) -> Floats:
        moved = theta.copy()
        moved[[0, 2]] = three[:2]
        own = curve_us(moved, machine, shapes) - np.exp(three[0])
        return np.asarray(np.exp(three[0]) + (own**8 + np.exp(8 * three[2])) ** 0.125)

    start = np.array([np.log(4.0), theta[2] - 0.3, np.log(7.0)])

    def off_alone(three: Floats) -> Floats:
        return np.asarray(np.log(alone(three) / table.us))

    three = least_squares(off_alone, start).x
    fitted = kernels(three)
    said = at_least(fitted, curve_us(theta_of(fitted), machine, shapes))
    elements = table.sizes[:, 0] * table.sizes[:, 2]
    moved = elements * (2 + element_bytes(find_scheme("nvfp4").activation)) / machine.bytes_per_us

    def whole_us(two: Floats) -> Floats:
        result: Floats = said + np.exp(two[0]) + moved / np.exp(two[1])
        return result

    def off_whole(two: Floats) -> Floats:
        return np.asarray(np.log(whole_us(two) / whole.us))

    two = least_squares(off_whole, np.log([2.0, 0.5])).x
    kernel = QuantizationKernel(
        format="nvfp4",
        launch_us=round(float(np.exp(two[0])), 3),
        memory_efficiency=round(float(np.exp(two[1])), 3),
        source=SOURCE,
    )
    return Nvfp4(
        fitted,
        kernel,
        table.sizes[:, 0],
        table.us,
        said / table.us - 1,
        whole_us(two) / whole.us - 1,
    )


def main() -> None:
    device = read_device("b200_hgx")
    found = fit_nvfp4(device)
    result = {
        "m": found.m.tolist(),
        "error of the product alone": np.round(found.alone, 4).tolist(),
        "error with quantisation": np.round(found.together, 4).tolist(),
        "largest": round(float(np.abs([found.alone, found.together]).max()), 4),
        "launch_us, efficiency, least_us": [
            found.kernels.launch_us,
            found.kernels.efficiency,
            found.kernels.least_us,
        ],
        "quantization": found.quantization.model_dump(exclude={"extensions", "source"}),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
