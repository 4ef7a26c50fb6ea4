"""Bits as consumers store them: element codes, nibbles, words, scales, sparse values with metadata.

Everything here is exact and goes both ways. Bit streams are little-endian: the first element lies in the lowest bits of
the first byte, so that of two 4-bit codes in a byte the low nibble comes first (ONNX, compressed-tensors, MX v1.0).
"""

from functools import cache
from math import ceil, comb, log2

import torch
from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.formats import Format, find_format
from mpsearch.numerics.grids import as_float32
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.schemes import parse_sparsity


@cache
def _values(format: Format) -> Tensor:
    """Return the value of every code of a format of at most 8 bits, fp32 [2**bits]; NaN and Inf included."""
    codes = torch.arange(2**format.bits)
    if format.kind == "int":
        return torch.where(codes < 2 ** (format.bits - 1), codes, codes - 2**format.bits).float()
    if format.kind == "exponent":
        values = torch.exp2((codes - format.bias).double()).float()
        values[-1] = torch.nan
        return values
    magnitude = codes & (2 ** (format.bits - 1) - 1)
    exponent, mantissa = magnitude >> format.mantissa_bits, magnitude % 2**format.mantissa_bits
    fraction = mantissa.double() / 2**format.mantissa_bits
    normal = exponent > 0
    power = torch.where(normal, exponent, 1) - format.bias
    values = (fraction + normal).ldexp(power)
    beyond = values > format.max_value  # e4m3 has one NaN there; e5m2 Inf, then NaNs
    infinite = (mantissa == 0) & (format.name == "e5m2")
    values = torch.where(beyond, torch.where(infinite, torch.inf, torch.nan), values)
    return torch.where(codes == magnitude, values, -values).float()


def encode(x: Tensor, format: Format) -> Tensor:
    """Return the codes of elements.

    Args:
        x: fp32 of any shape, every element exactly one of ``format``'s (as ``round_elements`` returns them).
        format: Of at most 8 bits.

    Returns:
        uint8, same shape: integers in two's complement of the format's bits, -0.0 as the integer 0.

    Raises:
        SchemeError: An element is none of the format's, or the format has more than 8 bits.
    """
    _check_narrow(format)
    x = as_float32(x.detach())
    values = _values(format).to(x.device)
    finite = values.isfinite()
    order = values[finite].argsort(stable=True)
    ordered = values[finite][order]
    at = torch.searchsorted(ordered, x.contiguous()).clamp_(max=len(ordered) - 1)
    if not torch.equal(ordered[at], x):
        wrong = x[ordered[at] != x].reshape(-1)[0]
        raise SchemeError(f"every element must be one of {format.name}'s, got {float(wrong)}")
    codes = finite.nonzero().reshape(-1)[order][at]
    if format.kind == "float":  # both zeros compare equal
        codes = torch.where(x == 0, x.signbit().long() << (format.bits - 1), codes)
    return codes.to(torch.uint8)


def decode(codes: Tensor, format: Format) -> Tensor:
    """Return the fp32 elements of uint8 ``codes`` of a format of at most 8 bits, same shape.

    Raises:
        SchemeError: The format has more than 8 bits.
    """
    _check_narrow(format)
    return _values(format).to(codes.device)[codes.long()]


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Return codes of ``bits`` bits as bytes along the last axis.

    Args:
        codes: uint8 [..., n], each below ``2**bits``.
        bits: 1 to 8. 4 gives nibbles, low first; 6 gives four codes in three bytes.

    Returns:
        uint8 [..., ceil(n * bits / 8)]; bits that are left over are zero.
    """
    places = torch.arange(bits, device=codes.device)
    flags = ((codes.unsqueeze(-1) >> places) & 1).flatten(-2)
    flags = torch.nn.functional.pad(flags, (0, -flags.shape[-1] % 8))
    weights = 1 << torch.arange(8, device=codes.device)
    return (flags.unflatten(-1, (-1, 8)).long() * weights).sum(-1).to(torch.uint8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the ``count`` codes [..., count] that :func:`pack_bits` packed along the last axis."""
    places = torch.arange(8, device=packed.device)
    flags = ((packed.unsqueeze(-1) >> places) & 1).flatten(-2)[..., : count * bits]
    weights = 1 << torch.arange(bits, device=packed.device)
    return (flags.unflatten(-1, (count, bits)).long() * weights).sum(-1).to(torch.uint8)


def pack_parts(weight: QuantizedTensor) -> dict[str, Tensor]:
    """Return the parts of a quantised weight as bytes, uint8 [n]: what it takes to store it, and no more.

    Keys: ``codes`` of the kept elements, row by row, and where there are such: ``scales``, ``zero_points``,
    ``tensor_scale``, and ``indices`` of the kept units of a sparse weight.

    Raises:
        SchemeError: The elements are none of a format that has codes (tf32).
    """
    codes, parts = weight.codes, {}
    if weight.sparsity is not None and weight.mask is not None:
        places = kept_places(weight.mask, weight.sparsity)
        codes = codes[weight.mask]
        parts["indices"] = pack_bits(places, index_bits(weight.sparsity))
    parts["codes"] = _pack_elements(codes, weight.spec.element)
    if weight.scales is not None:
        parts["scales"] = _pack_elements(weight.scales, find_format(str(weight.spec.scale_format)))
    if weight.zeros is not None:
        parts["zero_points"] = _pack_elements(weight.zeros, weight.spec.element)
    if weight.spec.tensor_scale:
        parts["tensor_scale"] = _pack_elements(
            torch.tensor(weight.tensor_scale), find_format("fp32")
        )
    return parts


def pack_int32(codes: Tensor, bits: int = 4) -> Tensor:
    """Return integer codes as compressed-tensors' ``pack-quantized`` stores them: 8 of 4 bits in an int32.

    Args:
        codes: uint8 [..., n] in two's complement of ``bits`` bits; stored offset by ``2**(bits - 1)``.
        bits: 4 or 8.

    Returns:
        int32 [..., ceil(n * bits / 32)], the first code in the lowest bits; what is left over is zero.
    """
    offset = codes ^ (1 << (bits - 1))  # two's complement to offset binary
    packed = pack_bits(offset, bits)
    packed = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % 4))
    return packed.contiguous().view(torch.int32)


def unpack_int32(packed: Tensor, count: int, bits: int = 4) -> Tensor:
    """Return the ``count`` codes [..., count] that :func:`pack_int32` packed."""
    offset = unpack_bits(packed.contiguous().view(torch.uint8), bits, count)
    return offset ^ (1 << (bits - 1))


def compress_sparse(x: Tensor, pattern: str) -> tuple[Tensor, Tensor]:
    """Return the kept elements of a pruned tensor and where they lie.

    Args:
        x: [..., K] of any type, pruned by ``pattern`` along the last axis.
        pattern: ``2:4``, ``n:m`` or ``n:m_paired``.

    Returns:
        Values [..., K * n / m] and uint8 indices [..., K * n / m / unit]: the place of each kept unit (an element; a pair)
        in its group, ascending. A group with fewer non-zeros keeps its first zeros.

    Raises:
        SchemeError: K is not divisible by the group, or a group holds too many non-zeros.
    """
    sparsity = parse_sparsity(pattern)
    if x.ndim == 0 or x.shape[-1] % sparsity.group:
        raise SchemeError(
            f"`size % {sparsity.group} == 0` must hold along the last axis for {pattern}, got {list(x.shape)}"
        )
    places, kept = sparsity.group // sparsity.unit, sparsity.kept // sparsity.unit
    units = x.unflatten(-1, (-1, places, sparsity.unit))
    filled = (units != 0).any(-1)
    if bool((filled.sum(-1) > kept).any()):
        raise SchemeError(
            f"each group must be pruned to {pattern} first, but one holds more non-zeros"
        )
    order = filled.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    indices = order[..., :kept].sort(dim=-1).values
    spread = indices.unsqueeze(-1).expand(*indices.shape, sparsity.unit)
    values = units.gather(-2, spread)
    return values.flatten(-3), indices.flatten(-2).to(torch.uint8)


def expand_sparse(values: Tensor, indices: Tensor, pattern: str) -> Tensor:
    """Return the tensor [..., K] that :func:`compress_sparse` took apart."""
    sparsity = parse_sparsity(pattern)
    places, kept = sparsity.group // sparsity.unit, sparsity.kept // sparsity.unit
    units = values.unflatten(-1, (-1, kept, sparsity.unit))
    where = indices.long().unflatten(-1, (-1, kept)).unsqueeze(-1)
    out = values.new_zeros(*units.shape[:-2], places, sparsity.unit)
    return out.scatter_(-2, where.expand(units.shape), units).flatten(-3)


def index_bits(pattern: str) -> int:
    """Return the bits of one index of ``pattern``: 2 for 2:4 and for paired 4:8, as hardware has them."""
    sparsity = parse_sparsity(pattern)
    return ceil(log2(sparsity.group // sparsity.unit))


def pattern_bits(pattern: str) -> int:
    """Return the bits of a pattern code for a whole group: 3 for 2:4's six patterns."""
    sparsity = parse_sparsity(pattern)
    return ceil(log2(comb(sparsity.group // sparsity.unit, sparsity.kept // sparsity.unit)))


def encode_patterns(indices: Tensor, pattern: str) -> Tensor:
    """Return one code a group: the rank of its indices among all choices in lexicographic order.

    Args:
        indices: uint8 from :func:`compress_sparse`.
        pattern: ``2:4`` has codes 0 (first two kept) to 5 (last two kept).

    Returns:
        uint8 [..., groups].
    """
    choices = _choices(pattern).to(indices.device)
    grouped = indices.long().unflatten(-1, (-1, choices.shape[1]))
    same = (grouped.unsqueeze(-2) == choices).all(-1)
    return same.to(torch.uint8).argmax(-1).to(torch.uint8)


def decode_patterns(codes: Tensor, pattern: str) -> Tensor:
    """Return the indices that :func:`encode_patterns` encoded."""
    choices = _choices(pattern).to(codes.device)
    return choices[codes.long()].flatten(-2).to(torch.uint8)


def _choices(pattern: str) -> Tensor:
    """Return all choices of kept units of a group, in lexicographic order, int64 [choices, kept]."""
    sparsity = parse_sparsity(pattern)
    return torch.combinations(
        torch.arange(sparsity.group // sparsity.unit), sparsity.kept // sparsity.unit
    )


_WIDE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def _pack_elements(x: Tensor, format: Format) -> Tensor:
    flat = x.reshape(-1)
    if format.name in _WIDE:
        return flat.to(_WIDE[format.name]).view(torch.uint8)
    return pack_bits(encode(flat, format), format.bits)


def kept_places(mask: Tensor, pattern: str) -> Tensor:
    """Return uint8 [kept units]: the place of each unit that ``mask`` [..., C] keeps in its group, ascending."""
    sparsity = parse_sparsity(pattern)
    units = mask.reshape(-1, sparsity.group // sparsity.unit, sparsity.unit)[..., 0]
    return units.nonzero()[:, 1].to(torch.uint8)


def _check_narrow(format: Format) -> None:
    if format.bits > 8:
        raise SchemeError(f"codes are for formats of at most 8 bits, got {format.name!r}")
