"""Packed bits are those of ml_dtypes and of the consumers, and unpack to the same tensor."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.formats import find_format
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.packing import (
    compress_sparse,
    decode,
    decode_patterns,
    encode,
    encode_patterns,
    expand_sparse,
    index_bits,
    pack_bits,
    pack_int32,
    pattern_bits,
    unpack_bits,
    unpack_int32,
)
from mpsearch.numerics.quantize import fake_quantize
from mpsearch.numerics.scales import choose_scales, tensor_scale
from mpsearch.numerics.sparsity import prune
from mpsearch.schemes import SCHEMES, stored_bits

DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "int8": np.int8,
    "int4": ml_dtypes.int4,
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", DTYPES)
def test_every_code_decodes_as_ml_dtypes_and_encodes_back(name: str) -> None:
    fmt = find_format(name)
    codes = np.arange(2**fmt.bits, dtype=np.uint8)
    want = codes.view(DTYPES[name]).astype(np.float32)
    got = decode(torch.from_numpy(codes), fmt)
    np.testing.assert_array_equal(
        got.numpy().view(np.uint32)[~np.isnan(want)], want.view(np.uint32)[~np.isnan(want)]
    )
    np.testing.assert_array_equal(np.isnan(got.numpy()), np.isnan(want))
    finite = np.isfinite(want)
    back = encode(got[torch.from_numpy(finite)], fmt)
    np.testing.assert_array_equal(back.numpy(), codes[finite])


def test_what_is_no_element_cannot_be_encoded() -> None:
    with pytest.raises(SchemeError, match=r"one of e2m1's, got 0\.75"):
        encode(torch.tensor([1.0, 0.75]), find_format("e2m1"))
    with pytest.raises(SchemeError, match="one of e4m3's, got nan"):
        encode(torch.tensor([torch.nan]), find_format("e4m3"))
    with pytest.raises(SchemeError, match="at most 8 bits, got 'fp16'"):
        encode(torch.tensor([1.0]), find_format("fp16"))
    assert encode(torch.tensor([-0.0]), find_format("int4")).tolist() == [0]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 32])
def test_bit_streams_equal_one_big_little_endian_number(bits: int, count: int) -> None:
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 2**bits, (3, count))).to(
        torch.uint8
    )
    packed = pack_bits(codes, bits)
    for row, data in zip(codes.tolist(), packed.tolist(), strict=True):
        number = sum(code << (bits * i) for i, code in enumerate(row))
        assert bytes(data) == number.to_bytes((bits * count + 7) // 8, "little")
    assert torch.equal(unpack_bits(packed, bits, count), codes)


def test_nibbles_are_those_of_onnx() -> None:
    """ONNX packs two 4-bit elements a byte, the first in the low nibble."""
    codes = torch.tensor([[0x1, 0xA, 0xF]], dtype=torch.uint8)
    assert pack_bits(codes, 4).tolist() == [[0xA1, 0x0F]]


def test_int32_words_are_those_of_compressed_tensors() -> None:
    """Offset binary, the first of eight in the lowest bits."""
    values = torch.tensor([[-8, -1, 0, 7, 1, 2, 3, -3, 5]])
    codes = encode(values.float(), find_format("int4"))
    packed = pack_int32(codes)
    assert packed.dtype == torch.int32
    assert packed.shape == (1, 2)
    for word, part in zip(packed[0].tolist(), values[0].split(8), strict=True):
        for i, value in enumerate(part.tolist()):
            assert ((word & 0xFFFFFFFF) >> (4 * i)) & 0xF == value + 8
    assert torch.equal(unpack_int32(packed, 9), codes)
    eight = encode(torch.tensor([[-127.0, 5, 0]]), find_format("int8"))
    assert torch.equal(unpack_int32(pack_int32(eight, 8), 3, 8), eight)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "mxfp6", "mxfp8", "w4a16_g32"])
@pytest.mark.parametrize("K", [64, 72])
@pytest.mark.parametrize("sparse", [None, "2:4", "4:8_paired"])
def test_blocks_survive_packing_to_the_bit_and_take_the_bits_that_are_counted(
    name: str, K: int, sparse: str | None
) -> None:
    x = randn(6, K)
    if sparse:
        x = prune(x, sparse)
    spec = SCHEMES[name].weight
    assert spec.block_shape is not None
    block, fmt = spec.block_shape[1], spec.element
    g = tensor_scale(float(x.abs().max()), spec) if spec.tensor_scale else 1.0
    padded = torch.nn.functional.pad(x, (0, -K % block)).unflatten(-1, (-1, block))
    scales = choose_scales(padded.abs().amax(-1), spec, g)
    steps = (scales * g).unsqueeze(-1).expand(padded.shape).flatten(-2)[:, :K]
    elements = round_elements(torch.where(steps > 0, x / steps, 0.0), fmt)

    indices = None
    kept = elements
    if sparse:
        kept, indices = compress_sparse(elements, sparse)
    packed = pack_bits(encode(kept, fmt), fmt.bits)
    scale_format = find_format(str(spec.scale_format))
    stored = 8 * packed.numel() + scales.numel() * scale_format.bits
    if indices is not None and sparse:
        metadata = pack_bits(indices.flatten(), index_bits(sparse))  # rows follow without gaps
        stored += 8 * metadata.numel()
        indices = unpack_bits(metadata, index_bits(sparse), indices.numel()).view(indices.shape)
    if spec.tensor_scale:
        stored += 32
    assert stored == stored_bits(spec, 6, 1, K, sparsity=sparse)

    unpacked = decode(unpack_bits(packed, fmt.bits, kept.shape[-1]), fmt)
    if indices is not None and sparse:
        unpacked = expand_sparse(unpacked, indices, sparse)
    if scale_format.bits == 8:
        assert torch.equal(decode(encode(scales, scale_format), scale_format), scales)
    assert torch.equal(unpacked * steps, fake_quantize(x, spec))


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "2:8", "4:8_paired", "3:5"])
def test_sparse_tensors_survive_compression(pattern: str) -> None:
    x = prune(randn(3, 2, 120, seed=1), pattern)
    x[0, 0, :24] = 0
    values, indices = compress_sparse(x, pattern)
    numbers = pattern.removesuffix("_paired").split(":")
    assert values.shape[-1] * int(numbers[1]) == 120 * int(numbers[0])
    assert torch.equal(expand_sparse(values, indices, pattern), x)
    codes = encode_patterns(indices, pattern)
    assert int(codes.max()) < 2 ** pattern_bits(pattern)
    assert torch.equal(decode_patterns(codes, pattern), indices)


def test_2_of_4_metadata_are_hardwares_and_the_six_patterns() -> None:
    rows = torch.zeros(6, 4)
    for row, pair in zip(rows, itertools.combinations(range(4), 2), strict=True):
        row[list(pair)] = torch.tensor([1.0, 2.0])
    values, indices = compress_sparse(rows, "2:4")
    assert values.tolist() == [[1.0, 2.0]] * 6
    assert indices.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert encode_patterns(indices, "2:4").reshape(-1).tolist() == [0, 1, 2, 3, 4, 5]
    assert pack_bits(indices, index_bits("2:4")).reshape(-1).tolist() == [4, 8, 12, 9, 13, 14]
    assert (index_bits("2:4"), pattern_bits("2:4"), index_bits("4:8_paired")) == (2, 3, 2)


def test_eight_groups_of_2_of_4_take_11_bytes_at_4_bits_with_pattern_codes() -> None:
    x = prune(fake_quantize(randn(1, 32), "e2m1", range=None), "2:4")
    values, indices = compress_sparse(x, "2:4")
    data = pack_bits(encode(values, find_format("e2m1")), 4)
    codes = pack_bits(encode_patterns(indices, "2:4"), pattern_bits("2:4"))
    assert (data.numel(), codes.numel()) == (8, 3)


def test_what_is_not_pruned_is_refused() -> None:
    with pytest.raises(SchemeError, match="pruned to 2:4 first"):
        compress_sparse(torch.ones(2, 8), "2:4")
    with pytest.raises(SchemeError, match="`size % 4 == 0` must hold"):
        compress_sparse(torch.zeros(2, 6), "2:4")
