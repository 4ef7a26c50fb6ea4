"""Specs and schemes: what one layer runs in. Facts and counting; standard library only.

A spec is an element format with a granularity, scales and a range; a scheme is a weight spec with an
activation spec, a sparsity pattern and a recovery. A new scheme is data: build it from specs.
"""

import re
from dataclasses import dataclass, replace
from math import ceil, lcm, log2
from types import MappingProxyType
from typing import Any, Literal, get_args

from mpsearch.errors import SchemeError, UnknownNameError
from mpsearch.formats import Format, find_format
from mpsearch.notations import parse_accumulator, parse_estimator

Granularity = Literal["tensor", "channel", "token", "group", "block"]
BlockScale = Literal["amax", "four_over_six", "mse"]


@dataclass(frozen=True, slots=True)
class Spec:
    """How one tensor is stored: element format, granularity, scales and range.

    Attributes:
        format: Name of the element format.
        granularity: What shares a scale: the ``tensor``, an output ``channel`` (weights), a ``token``
            (activations: all elements along the reduction), a ``group`` (elements along the
            reduction, scale in ``scale_format``) or a ``block`` (the same with block formats'
            scales, or rows × reduction tiles such as 128×128).
        range: ``static`` (weights; activations calibrated once) or ``dynamic`` (from the live tensor).
            Block scales of activations are live in any case; ``range`` then speaks of the tensor scale.
        block_shape: (rows, elements along the reduction) under one scale of a group or block.
        scale_format: Format of the scales; None is a plain cast without any scale.
        tensor_scale: Whether block scales are themselves relative to one fp32 scale a tensor (nvfp4).
        symmetric: Whether integers have their zero point at 0.
        estimator: How the range is chosen from the data: ``amax``, ``mse``, ``entropy``, ``percentile:99.99`` of the
            magnitudes, or, of the batches that calibrate a static range, ``moving:0.9`` (minima and maxima averaged
            with this momentum) or ``history:16`` (amax of the last ones). The number may be left out.
        block_scale: How a block's scale is chosen: from its ``amax``, by ``four_over_six``
            (arXiv 2512.02010) or by an ``mse`` sweep.
        subnormals: False flushes subnormal elements to zero.
    """

    format: str
    granularity: Granularity = "tensor"
    range: Literal["static", "dynamic"] = "static"
    block_shape: tuple[int, int] | None = None
    scale_format: str | None = "fp32"
    tensor_scale: bool = False
    symmetric: bool = True
    estimator: str = "amax"
    block_scale: BlockScale = "amax"
    subnormals: bool = True

    def __post_init__(self) -> None:
        _check_choice("granularity", self.granularity, get_args(Granularity))
        _check_choice("range", self.range, ("static", "dynamic"))
        estimator = parse_estimator(self.estimator)
        _check_choice("block_scale", self.block_scale, get_args(BlockScale))
        if estimator.needs_batches and not self.is_calibrated:
            raise SchemeError(
                f"estimator {estimator.name!r} follows batches and needs a static range of the whole tensor, "
                f"got a {self.range} one per {self.granularity}"
            )
        element = find_format(self.format)
        blocked = self.granularity in ("group", "block")
        if blocked != (self.block_shape is not None):
            raise SchemeError(
                "`block_shape` must be given exactly for granularity group or block, "
                f"got granularity={self.granularity!r} with block_shape={self.block_shape}"
            )
        if self.block_shape is not None and min(self.block_shape) < 1:
            raise SchemeError(f"`block_shape` must hold positive sizes, got {self.block_shape}")
        if self.scale_format is None and (element.kind == "int" or self.granularity != "tensor"):
            raise SchemeError(
                f"`scale_format` must be given for {self.format} per {self.granularity}; "
                "only a float format per tensor can be a plain cast"
            )
        if self.scale_format is not None:
            scale = find_format(self.scale_format)
            if scale.kind == "int" or element.kind == "exponent" or element.overflow == "inf":
                raise SchemeError(
                    "a narrow float or an integer can have scales, in a float format or e8m0, got "
                    f"format={self.format!r} with scale_format={self.scale_format!r}; fp32, tf32, bf16 and "
                    "fp16 are plain casts with scale_format=None"
                )
        if self.tensor_scale and not (blocked and self.scale_format == "e4m3"):
            raise SchemeError(
                "`tensor_scale` needs blocks with e4m3 scales, got "
                f"granularity={self.granularity!r} with scale_format={self.scale_format!r}"
            )
        if not self.symmetric and (element.kind != "int" or self.scale_format == "e8m0"):
            raise SchemeError(
                "only integers with float scales can be asymmetric, got "
                f"format={self.format!r} with scale_format={self.scale_format!r}"
            )
        if self.block_scale != "amax" and not (blocked and element.kind == "float"):
            raise SchemeError(
                f"`block_scale` {self.block_scale!r} needs blocks of a float format, got "
                f"{self.format} per {self.granularity}"
            )

    @property
    def element(self) -> Format:
        """The element format."""
        return find_format(self.format)

    @property
    def is_calibrated(self) -> bool:
        """Whether calibration data set a scale of the whole tensor, where the spec is an activation's."""
        whole = self.tensor_scale or (self.granularity == "tensor" and not self.is_cast)
        return whole and self.range == "static"

    @property
    def is_cast(self) -> bool:
        """Whether the spec is a plain cast without scales."""
        return self.scale_format is None


@dataclass(frozen=True, slots=True)
class Scheme:
    """What one layer runs in.

    Attributes:
        name: The field's name: ``fp8``, ``nvfp4_2of4``.
        weight: Spec of the weights.
        activation: Spec of the activations that the weights are multiplied with.
        sparsity: None, ``n:m`` or ``n:m_paired``: kept weights in each aligned group along the reduction.
        recovery: ``none``, or ``obs``: kept weights are updated from the layer's input Gram matrix.
        accumulate: What sums are kept in: ``fp32``, or ``fp16:64`` (``bf16:64``): the products of each chunk of 64
            are summed exactly, and these sums added in that format.
    """

    name: str
    weight: Spec
    activation: Spec
    sparsity: str | None = None
    recovery: Literal["none", "obs"] = "none"
    accumulate: str = "fp32"

    def __post_init__(self) -> None:
        parse_accumulator(self.accumulate)
        _check_choice("recovery", self.recovery, ("none", "obs"))
        if self.sparsity is not None:
            parse_sparsity(self.sparsity)
        elif self.recovery != "none":
            raise SchemeError(
                f"`recovery` is for sparse schemes, but {self.name!r} is dense with recovery={self.recovery!r}"
            )
        if self.activation.granularity == "channel":
            raise SchemeError(
                f"activations of {self.name!r} must be per tensor, token, group or block; got channel"
            )
        if self.weight.granularity == "token":
            raise SchemeError(
                f"weights of {self.name!r} must be per tensor, channel, group or block; got token"
            )

    @property
    def is_weight_only(self) -> bool:
        """Whether activations stay a plain cast while weights carry scales."""
        return self.activation.is_cast and not self.weight.is_cast

    @property
    def rate(self) -> str:
        """Format that the multipliers run in, as a key of a device's rates: its wider operand's."""
        return max(self.weight.element, self.activation.element, key=lambda f: f.bits).rate


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Structured sparsity: ``kept`` of each aligned ``group`` elements, in ``unit``-element units."""

    kept: int
    group: int
    unit: int

    @property
    def index_bits(self) -> int:
        """Bits of the indices of one group's kept units, as the hardware stores them."""
        return self.kept // self.unit * self.unit_bits

    @property
    def unit_bits(self) -> int:
        """Bits of the index of one kept unit."""
        return ceil(log2(self.group // self.unit))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SchemeError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}")


def parse_sparsity(pattern: str) -> Sparsity:
    """Return the numbers of ``n:m`` or ``n:m_paired``.

    Raises:
        SchemeError: The pattern is not of that kind.
    """
    match = re.fullmatch(r"(\d+):(\d+)(_paired)?", pattern)
    if match is None or not 0 < int(match[1]) < int(match[2]):
        raise SchemeError(
            "sparsity must be n:m or n:m_paired with 0 < n < m, such as 2:4 or 4:8_paired; "
            f"got {pattern!r}"
        )
    kept, group, unit = int(match[1]), int(match[2]), 2 if match[3] else 1
    if kept % unit or group % unit:
        raise SchemeError(f"a paired pattern needs even n and m, got {pattern!r}")
    return Sparsity(kept, group, unit)


def stored_bits(
    spec: Spec, rows: int, positions: int, channels: int, *, sparsity: str | None = None
) -> int:
    """Return the bits that a tensor of ``rows`` × ``positions`` × ``channels`` elements takes, in whole bytes.

    Rows are output channels; the reduction runs over kernel positions and, inside each, over
    channels: blocks and sparse groups never cross a position. Scales, zero points, the tensor scale
    and the hardware's sparsity metadata (one index a kept unit) are counted; scales are not thinned. What is
    packed ends with a whole byte: codes of whole blocks, those of short ones, indices.

    Raises:
        SchemeError: ``channels`` is not divisible by the sparsity group.
    """
    if sparsity is not None and channels % parse_sparsity(sparsity).group:
        raise SchemeError(
            f"`channels % {parse_sparsity(sparsity).group} == 0` must hold for {sparsity}, got {channels}"
        )
    return int(stored_bits_of_many(spec, rows, positions, channels, sparsity=sparsity))


def stored_bits_of_many(
    spec: Spec, rows: Any, positions: Any, channels: Any, *, sparsity: str | None = None
) -> Any:
    """Return :func:`stored_bits` of whole numbers, or of arrays of them at once, without its check."""
    bits = spec.element.bits
    kept, of, total = 1, 1, 0
    if sparsity is not None and thins(spec, sparsity):
        pattern = parse_sparsity(sparsity)
        kept, of = pattern.kept, pattern.group
        total = _packed(rows * positions * channels // of * kept // pattern.unit, pattern.unit_bits)
    wide = spec.block_shape[1] if spec.block_shape is not None else 1
    tall = -(-rows // spec.block_shape[0]) if spec.block_shape is not None else 0
    for part in (channels // wide * wide, channels % wide):
        total = total + _packed(rows * positions * part // of * kept, bits)
        if not spec.symmetric and spec.block_shape is not None:
            total = total + _packed(tall * positions * -(-part // wide), bits)
    scales = _scales(spec, rows, positions, channels)
    if not spec.symmetric and spec.block_shape is None:
        total = total + _packed(scales, bits)
    if spec.scale_format is not None:
        total = total + scales * find_format(spec.scale_format).bits
    return total + (32 if spec.tensor_scale else 0)


def thins(spec: Spec, sparsity: str) -> bool:
    """Return whether only kept elements are stored: each block must hold whole groups of the pattern."""
    return spec.block_shape is None or spec.block_shape[1] % parse_sparsity(sparsity).group == 0


def _packed(codes: Any, bits: int) -> Any:
    """Bits of ``codes`` in a row, in words that hold whole codes and whole bytes."""
    word = lcm(bits, 8)
    return -(-codes * bits // word) * word


def count_scales(spec: Spec, rows: int, positions: int, channels: int) -> int:
    """Return how many scales a tensor of ``rows`` × ``positions`` × ``channels`` has."""
    return int(_scales(spec, rows, positions, channels))


def _scales(spec: Spec, rows: Any, positions: Any, channels: Any) -> Any:
    if spec.is_cast:
        return 0
    if spec.block_shape is not None:
        tall, wide = spec.block_shape
        return -(-rows // tall) * positions * -(-channels // wide)
    return 1 if spec.granularity == "tensor" else rows


def _cast(fmt: str) -> Spec:
    return Spec(fmt, scale_format=None)


def _block(fmt: str, size: int, scale: str, **more: bool) -> Spec:
    return Spec(fmt, "block", block_shape=(1, size), scale_format=scale, **more)  # type: ignore[arg-type]  # bools only


_NVFP4 = _block("e2m1", 16, "e4m3", tensor_scale=True)
_MXFP4 = _block("e2m1", 32, "e8m0")
_FP4 = Spec("e2m1", scale_format="e8m0", estimator="mse")
_FP8_CHANNEL = Spec("e4m3", "channel")
_INT8_CHANNEL = Spec("int8", "channel")


def _mx(name: str, fmt: str) -> Scheme:
    return Scheme(name, _block(fmt, 32, "e8m0"), _block(fmt, 32, "e8m0"))


def _weight_only_integer(bits: int, group: int, name: str) -> Scheme:
    weight = Spec(f"int{bits}", "group", block_shape=(1, group), scale_format="fp16")
    return Scheme(name, weight, _cast("fp16"))


_DENSE = (
    *(Scheme(name, _cast(name), _cast(name)) for name in ("fp32", "tf32", "bf16", "fp16")),
    Scheme("fp8", _FP8_CHANNEL, Spec("e4m3")),
    Scheme("fp8_tensor", Spec("e4m3"), Spec("e4m3")),
    Scheme("fp8_dynamic", _FP8_CHANNEL, Spec("e4m3", "token", "dynamic")),
    Scheme(
        "fp8_block",
        Spec("e4m3", "block", block_shape=(128, 128)),
        Spec("e4m3", "block", "dynamic", block_shape=(1, 128)),
    ),
    Scheme("int8", _INT8_CHANNEL, Spec("int8")),
    Scheme("int8_dynamic", _INT8_CHANNEL, Spec("int8", "token", "dynamic")),
    _weight_only_integer(4, 128, "w4a16"),
    _weight_only_integer(4, 64, "w4a16_g64"),
    _weight_only_integer(4, 32, "w4a16_g32"),
    _weight_only_integer(8, 128, "w8a16"),
    Scheme("nvfp4", _NVFP4, _NVFP4),
    Scheme("nvfp4a16", _NVFP4, _cast("fp16")),
    Scheme(
        "nvfp4_four_over_six",
        replace(_NVFP4, block_scale="four_over_six"),
        replace(_NVFP4, block_scale="four_over_six"),
    ),
    Scheme("nvfp4_mse", replace(_NVFP4, block_scale="mse"), _NVFP4),
    _mx("mxfp4", "e2m1"),
    Scheme("mxfp4a16", _MXFP4, _cast("fp16")),
    _mx("mxfp6", "e2m3"),
    _mx("mxfp6_e3m2", "e3m2"),
    _mx("mxfp8", "e4m3"),
    _mx("mxfp8_e5m2", "e5m2"),
    Scheme("fp4", _FP4, _FP4),
)
_SUFFIXES = MappingProxyType({"_2of4": "2:4", "_4of8": "4:8_paired"})

SCHEMES = MappingProxyType(
    {scheme.name: scheme for scheme in _DENSE}
    | {
        scheme.name + suffix: replace(scheme, name=scheme.name + suffix, sparsity=pattern)
        for scheme in _DENSE
        for suffix, pattern in _SUFFIXES.items()
    }
)


def find_scheme(name: str) -> Scheme:
    """Return the built-in scheme called ``name``; append ``_2of4`` or ``_4of8`` for a sparse one.

    Raises:
        UnknownNameError: No scheme has this name; the message lists those there are.
    """
    try:
        return SCHEMES[name]
    except KeyError:
        choices = ", ".join(scheme.name for scheme in _DENSE)
        raise UnknownNameError(
            f"scheme must be one of {choices}, or one of them with _2of4 or _4of8; got {name!r}"
        ) from None
