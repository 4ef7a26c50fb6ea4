"""A device's measurements made into its file: every group fitted, the rest borrowed."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tomli_w

from mpsearch.cost.curve import decode
from mpsearch.cost.device import Device, operand_format, refusal
from mpsearch.cost.fit.borrow import MANY, Key, borrowed_prior, well_measured
from mpsearch.cost.fit.curves import default_prior
from mpsearch.cost.fit.groups import Predicted, fit_group, fitted_kernels
from mpsearch.cost.fit.measurements import Measurements
from mpsearch.cost.fitted import FittedKernels, QuantizationKernel
from mpsearch.cost.measured import theta_of
from mpsearch.schemes import SCHEMES
from mpsearch.stats.estimates import Floats

Progress = Callable[[int, int, str], None]
FEW = 50
"""Kernels below which a group is fitted from what other devices say."""
_BORROWED_ERROR = 0.3


@dataclass(frozen=True, slots=True)
class FittedGroup:
    """What became of one format and sparsity: parameters, and its kernels predicted when left out."""

    kernels: FittedKernels
    predicted: Predicted | None


def fit_device(
    device: Device,
    measurements: Measurements,
    *,
    references: Sequence[Device] = (),
    source: str = "",
    library: str = "",
    progress: Progress | None = None,
) -> list[FittedGroup]:
    """Fit every measured group of ``device``, those with many kernels first.

    Args:
        device: What is known of it.
        measurements: Its kernels.
        references: Devices with fitted kernels, from which groups with few are helped.
        source: Where the measurements come from, for the file.
        library: Whose kernels they are, for the file.
        progress: Told after each group.
    """
    told = progress or (lambda done, total, said: None)
    others = [other for other in references if other.name != device.name and other.kernels]
    groups = sorted(measurements.groups.values(), key=lambda group: -len(group.us))
    own: dict[Key, Floats] = {}
    fitted = []
    for i, measured in enumerate(groups):
        key = (measured.format, measured.sparsity)
        told(i, len(groups), " ".join(key))
        prior, lender = default_prior(measured.sparsity), ""
        if len(measured.us) < FEW:
            prior, lender = borrowed_prior(device, key, others, own)
        group, predicted = fit_group(device, measured, prior)
        if len(measured.us) >= MANY:
            own[key] = group.theta
        kernels = fitted_kernels(measured, group, predicted, library=library, source=source)
        fitted.append(FittedGroup(kernels.model_copy(update={"borrowed_from": lender}), predicted))
    told(len(groups), len(groups), "")
    return fitted


def borrowed_kernels(
    device: Device, fitted: Sequence[FittedKernels], references: Sequence[Device]
) -> list[FittedKernels]:
    """Return parameters of the formats that ``device`` runs and nobody measured on it."""
    others = [other for other in references if other.name != device.name and other.kernels]
    own = {key: theta_of(kernels) for key, kernels in well_measured(fitted).items()}
    there = {(kernels.format, kernels.sparsity) for kernels in fitted}
    borrowed = []
    for key in sorted(_runnable(device) - there):
        prior, lender = borrowed_prior(device, key, others, own)
        if lender:
            parameters = {name: float(f"{v:.4g}") for name, v in decode(prior.theta).items()}
            facts = {
                "format": key[0],
                "sparsity": key[1],
                "relative_error": _BORROWED_ERROR,
                "borrowed_from": lender,
            }
            borrowed.append(FittedKernels.model_validate(facts | parameters))
    return borrowed


def _runnable(device: Device) -> set[Key]:
    """(Format, sparsity) of the schemes of one format that the device runs."""
    return {
        (operand_format(scheme.activation), scheme.sparsity or "dense")
        for scheme in SCHEMES.values()
        if operand_format(scheme.activation) == operand_format(scheme.weight)
        and not refusal(device, scheme)
    }


def device_text(
    base: str,
    kernels: Sequence[FittedKernels],
    quantization: Sequence[QuantizationKernel] | None = None,
) -> str:
    """Return the text of a device file: ``base`` with ``kernels`` in place of those that it had.

    Kernels that round activations are replaced where some are given, else kept.
    """
    facts, *tables = re.split(r"(?m)^(?=\[\[(?:kernels|quantization)\]\])", base)
    kept = "".join(table for table in tables if table.startswith("[[quantization]]"))
    if quantization is not None:
        kept = tomli_w.dumps(
            {"quantization": [k.model_dump(exclude_defaults=True) for k in quantization]}
        )
    written = tomli_w.dumps({"kernels": [k.model_dump(exclude_defaults=True) for k in kernels]})
    return "\n\n".join(part.strip() for part in (facts, kept, written) if part.strip()) + "\n"
