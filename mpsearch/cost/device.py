"""Devices: what an accelerator computes, stores and moves, read from a TOML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from mpsearch.artifacts import Content, read_toml
from mpsearch.cost.executed.table import MeasuredTable
from mpsearch.cost.fitted import FittedKernels, QuantizationKernel
from mpsearch.cost.npu_device import Fraction, NotNegative, Npu, Positive, at_point
from mpsearch.errors import DeviceError, UnknownNameError
from mpsearch.registry import data_file
from mpsearch.schemes import Scheme, Spec


class Device(Content):
    """An accelerator as the cost model sees it.

    Attributes:
        name: The key it is asked for by.
        title: Its full name.
        model: The cost model that reads the file: ``roofline``, ``npu`` or ``measured``.
        bandwidth_gb_s: Memory bandwidth.
        peak_tflops: Dense peak by rate (``fp16``, ``fp8``, ``fp4``, ``int8``, …).
        formats: Operand formats that its multipliers take (``nvfp4`` and ``mxfp4`` share a rate).
        weight_only: Formats that weights may be stored in beside activations of 16 bits, which set the rate.
        mixed_weights: Format of narrower activations to those that weights may be stored in beside it; the
            product runs at the activations' rate.
        sparsity: Pattern to the operand formats that have sparse kernels.
        sparse_gain: Gain of a sparse kernel over the dense one, compute-bound.
        efficiency: Share of the peak that kernels of a rate reach; 1 where it says nothing. Sparse kernels
            have their own under ``RATE_sparse``, since they come from another library.
        memory_efficiency: Share of the bandwidth that kernels reach.
        launch_us: Time of an empty kernel, ``c``.
        roofline_power: ``p`` of (tc^p + tm^p)^(1/p); None is the plain maximum.
        half_m: Rows at which half of the peak is reached, ``m0``; so ``half_n``, ``half_k``.
        half_n: See ``half_m``.
        half_k: See ``half_m``.
        on_chip_mb: MiB of on-chip memory: activations of a layer that fit do not move.
        quantize_ns: Time to convert one element into a narrow format, beside moving it.
        dequantize_ns: The same on the way back.
        dram_picojoule_per_byte: Energy of a byte from or to memory; absent, it is left out.
        relative_error: Relative standard error of a predicted latency.
        npu: What an NPU adds.
        measured: Kernels that were measured one by one (``mpsearch profile``); of model ``measured``.
        sparse_peak_tflops: Published sparse peaks, for people.
        kernels: Parameters of measured kernels (``mpsearch fit``); they take the place of the roofline.
        quantization: Measured kernels that round activations; others take ``launch_us`` and the bandwidth.
        aliases: What measurements call the device.
        sources: Where the facts come from.
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    model: str = "roofline"
    architecture: str = ""
    compute_capability: str = ""
    memory_gb: Positive | None = None
    bandwidth_gb_s: Positive
    l2_mb: Positive | None = None
    l3_mb: Positive | None = None
    multiprocessors: int | None = None
    max_power_w: Positive | None = None
    peak_tflops: Mapping[str, Positive]
    sparse_peak_tflops: Mapping[str, Positive] = Field(default_factory=dict)
    formats: tuple[str, ...]
    weight_only: tuple[str, ...] = ()
    mixed_weights: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    sparsity: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    sparse_gain: Annotated[float, Field(ge=0.5, lt=2)] = 1.6
    efficiency: Mapping[str, Fraction] = Field(default_factory=dict)
    memory_efficiency: Annotated[float, Field(gt=0, le=3)] = 1.0
    launch_us: NotNegative = 0.0
    roofline_power: Annotated[float, Field(ge=1)] | None = None
    half_m: NotNegative = 0.0
    half_n: NotNegative = 0.0
    half_k: NotNegative = 0.0
    on_chip_mb: NotNegative = 0.0
    quantize_ns: NotNegative = 0.0
    dequantize_ns: NotNegative = 0.0
    dram_picojoule_per_byte: Positive | None = None
    relative_error: NotNegative = 0.0
    npu: Npu | None = None
    kernels: tuple[FittedKernels, ...] = ()
    measured: MeasuredTable | None = None
    quantization: tuple[QuantizationKernel, ...] = ()
    sources: tuple[str, ...] = ()
    confidence: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _has_the_table_of_its_model(self) -> "Device":
        if self.model == "npu" and self.npu is None:
            raise ValueError("model npu needs an [npu] table")
        if self.model == "measured" and self.measured is None:
            raise ValueError("model measured needs a [measured] table")
        return self


def read_device(name_or_path: str | Path) -> Device:
    """Read a device that ships with mpsearch, or a file of the user's.

    Args:
        name_or_path: A name or path; ``@POINT`` behind it chooses an operating point of the device.

    Raises:
        UnknownNameError: No such device or point; the message lists those that there are.
        DeviceError: The file is malformed; the message names file and key.
    """
    text, point = split_point(str(name_or_path))
    name = Path(text) if isinstance(name_or_path, Path) else text
    device = read_toml(data_file("cost_models", name, "device"), Device, DeviceError)
    return _at_point(device, point) if point else device


def split_point(name_or_path: str) -> tuple[str, str]:
    """Return the device and the operating point behind its ``@``, "" without one."""
    name, at, point = name_or_path.rpartition("@")
    if not at or "/" in point or "\\" in point or point.endswith(".toml"):
        return name_or_path, ""
    return name, point


def _at_point(device: Device, name: str) -> Device:
    points = device.npu.points if device.npu is not None else {}
    if device.npu is None or name not in points:
        raise UnknownNameError(
            f"operating point of {device.name} must be one of {', '.join(points) or '(it has none)'}; "
            f"got {name!r}"
        )
    scale = points[name].clock_ghz / device.npu.clock_ghz
    return device.model_copy(
        update={
            "name": f"{device.name}@{name}",
            "peak_tflops": {rate: peak * scale for rate, peak in device.peak_tflops.items()},
            "npu": at_point(device.npu, points[name]),
        }
    )


def operand_format(spec: Spec) -> str:
    """Return the name that devices know an operand's encoding by: ``nvfp4``, ``fp8``, ``int8``."""
    if spec.is_cast:
        return spec.format
    if spec.element.kind == "int":
        return spec.element.rate
    microscaled = spec.granularity == "block" and spec.scale_format == "e8m0"
    if spec.element.rate == "fp4" and spec.granularity == "block":
        return "mxfp4" if microscaled else "nvfp4"
    if spec.element.rate == "fp6":
        return "mxfp6"
    return "mxfp8" if microscaled and spec.element.rate == "fp8" else spec.element.rate


def measured_quantization(device: Device, kind: str) -> QuantizationKernel | None:
    """Return the measured kernel that rounds activations to operand format ``kind``; else one of another format.

    None: the device file has none.
    """
    found = {kernel.format: kernel for kernel in reversed(device.quantization)}
    return found.get(kind) or next(iter(device.quantization), None)


def refusal(device: Device, scheme: Scheme) -> str:
    """Return why ``device`` cannot run ``scheme``, or "" if it can."""
    weight, activation = operand_format(scheme.weight), operand_format(scheme.activation)
    wide = weight if scheme.weight.element.bits > scheme.activation.element.bits else activation
    if wide not in device.formats:
        return f"{device.name} has no {wide} multipliers (it has {', '.join(device.formats)})"
    if scheme.rate not in device.peak_tflops:
        return f"{device.name} publishes no peak for {scheme.rate}"
    beside = _stored_beside(device, activation)
    if weight != activation and weight not in beside:
        stored = ", ".join(beside) or "none"
        return (
            f"{device.name} has no kernel with {weight} weights and {activation} activations "
            f"(other weights beside {activation}: {stored})"
        )
    if scheme.sparsity is not None:
        taken = device.sparsity.get(scheme.sparsity, ())
        mixed = weight != activation and activation not in device.mixed_weights
        if mixed or weight not in taken or activation not in taken:
            kinds = ", ".join(taken) or "no format"
            return f"{device.name} has {scheme.sparsity} kernels for {kinds}, not for {scheme.name}"
    return ""


def _stored_beside(device: Device, activation: str) -> tuple[str, ...]:
    """Formats other than ``activation`` that weights may be stored in beside it."""
    if activation in ("fp16", "bf16"):
        return device.weight_only
    return device.mixed_weights.get(activation, ())
