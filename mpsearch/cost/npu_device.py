"""The [npu] table of a device file: arrays, memories, energies, operating points and area.

A key without default stands for a constant that not every source gives: where it is absent its term is
left out, and :func:`left_out` says so.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from mpsearch.artifacts import Content

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Arrays(Content):
    """The multipliers: equal arrays that share the work of one kernel.

    Attributes:
        count: Arrays (tiles) on the chip.
        rows: Depth of an array: elements of the reduction that it holds.
        columns: Width of an array: output channels that it holds.
        macs_per_unit: Rate key to the multiply-accumulates that a unit does in a cycle.
    """

    count: Count
    rows: Count
    columns: Count
    macs_per_unit: Mapping[str, Positive]

    @property
    def multipliers(self) -> int:
        """Units of all arrays together."""
        return self.count * self.rows * self.columns


class Memory(Content):
    """One level of memory on the chip, from the arrays outwards.

    Attributes:
        name: What it is called: ``tile``, ``cluster``, ``chip``.
        kb: KiB of each.
        count: How many there are.
        bandwidth_gb_s: Of all together; absent, it never limits.
        picojoule_per_byte: Energy of a byte that passes it; absent, it is left out.
    """

    name: str
    kb: Positive
    count: Count = 1
    bandwidth_gb_s: Positive | None = None
    picojoule_per_byte: Positive | None = None


class OperatingPoint(Content):
    """A voltage and the clock that it allows."""

    volts: Positive
    clock_ghz: Positive


class Area(Content):
    """Area of the parts, in mm²; the control overhead is a share of the rest."""

    mm2_per_multiplier: Positive | None = None
    mm2_per_sram_mb: Positive | None = None
    control_overhead: NotNegative | None = None


class Npu(Content):
    """What an NPU adds to the roofline.

    Attributes:
        clock_ghz: Clock of its arrays.
        volts: Voltage at that clock.
        switch_cycles: Cycles that a change of the compute format takes between two kernels.
        convert_up_cycles: Latency of converting a tensor to a wider format, where no switch hides it.
        convert_down_cycles: The same to a format that is no wider.
        arrays: The arrays; absent, every kernel runs at the peak.
        sparse_utilisation: Share of the multipliers that a sparse kernel keeps busy.
        mapping: How block formats run a depthwise layer, whose reduction has one channel: ``padding``
            fills a block for each kernel position, ``channels`` lets blocks run over neighbouring channels.
            Either way channels lie across an array's columns, in every format.
        pattern_bits: Bits of the code that says which elements of a sparse group are kept; absent, an
            index for each kept element, as files store it.
        picojoule_per_op: Rate key to the energy of one operation (a MAC is two).
        sparse_energy: Share of a dense kernel's energy that a sparse one takes.
        static_w: Power that is drawn whatever runs.
        dram_picojoule_per_byte: Energy of a byte from or to the memory outside the chip.
        memories: Levels on the chip, from the arrays outwards.
        points: Name to voltage and clock that the chip may run at; ``DEVICE@NAME`` chooses one.
        area: Area of its parts.
    """

    clock_ghz: Positive
    volts: Positive | None = None
    switch_cycles: NotNegative
    convert_up_cycles: NotNegative | None = None
    convert_down_cycles: NotNegative | None = None
    arrays: Arrays | None = None
    sparse_utilisation: Fraction = 1.0
    mapping: Literal["padding", "channels"] = "padding"
    pattern_bits: Positive | None = None
    picojoule_per_op: Mapping[str, Positive]
    sparse_energy: Fraction = 1.0
    static_w: NotNegative | None = None
    dram_picojoule_per_byte: Positive | None = None
    memories: tuple[Memory, ...] = ()
    points: Mapping[str, OperatingPoint] = Field(default_factory=dict)
    area: Area = Area()

    @property
    def sram_mb(self) -> float:
        """MiB of memory on the chip, all levels together."""
        return sum(memory.kb * memory.count for memory in self.memories) / 1024


def at_point(npu: Npu, point: OperatingPoint) -> Npu:
    """Return ``npu`` at another voltage and clock: dynamic energy goes with the square of the voltage."""
    scale = (point.volts / (npu.volts or point.volts)) ** 2
    return npu.model_copy(
        update={
            "clock_ghz": point.clock_ghz,
            "volts": point.volts,
            "picojoule_per_op": {k: v * scale for k, v in npu.picojoule_per_op.items()},
            "memories": tuple(
                memory.model_copy(
                    update={
                        "picojoule_per_byte": memory.picojoule_per_byte
                        and memory.picojoule_per_byte * scale
                    }
                )
                for memory in npu.memories
            ),
        }
    )


def area(npu: Npu) -> dict[str, float | int | None]:
    """Return multipliers, MiB of SRAM, control overhead and mm²; None where no source gives a constant."""
    known = npu.area
    parts = None
    if npu.arrays and known.mm2_per_multiplier and known.mm2_per_sram_mb:
        parts = known.mm2_per_multiplier * npu.arrays.multipliers
        parts += known.mm2_per_sram_mb * npu.sram_mb
    return {
        "multipliers": npu.arrays.multipliers if npu.arrays else None,
        "sram_mb": npu.sram_mb or None,
        "control_overhead": known.control_overhead,
        "mm2": None if parts is None else parts * (1 + (known.control_overhead or 0.0)),
    }


def left_out(npu: Npu) -> Iterator[str]:
    """Yield what the model leaves out because the device file gives no constant for it."""
    yield "operators that are no layers (no unit for them is described)"
    if npu.arrays is None:
        yield "remainders of tiles (no `arrays`)"
    if npu.convert_up_cycles is None or npu.convert_down_cycles is None:
        yield "latency of conversions (no `convert_up_cycles`, `convert_down_cycles`)"
    if npu.static_w is None:
        yield "static power (no `static_w`)"
    if npu.dram_picojoule_per_byte is None:
        yield "energy of DRAM traffic (no `dram_picojoule_per_byte`)"
    free = [memory.name for memory in npu.memories if memory.picojoule_per_byte is None]
    if free:
        yield f"energy of traffic of {', '.join(free)} (no `picojoule_per_byte`)"
    unlimited = [memory.name for memory in npu.memories if memory.bandwidth_gb_s is None]
    if unlimited:
        yield f"bandwidth of {', '.join(unlimited)} (no `bandwidth_gb_s`)"
    if area(npu)["mm2"] is None:
        yield "area in mm² (no `area.mm2_per_multiplier`, `area.mm2_per_sram_mb`)"
    elif npu.area.control_overhead is None:
        yield "area of control (no `area.control_overhead`)"
