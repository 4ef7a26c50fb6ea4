"""Quantised weights as blobs of one file, each at an aligned offset, in the bits that the NPU reads."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal

from torch import Tensor

from mpsearch.export.npu.layout import ALIGNMENT, PackedTensor, Part, PartName, StoredFile
from mpsearch.formats import Format, find_format
from mpsearch.numerics.packing import (
    encode_patterns,
    index_bits,
    kept_places,
    pack_bits,
    pack_parts,
    pattern_bits,
)
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.schemes import thins

SparseCodes = Literal["indices", "patterns"]
"""How places of kept elements are said: an index each (2 bits for 2:4), or a code a group (3 bits for 2:4)."""


@dataclass(slots=True)
class BlobWriter:
    """Appends blobs to an open file.

    Attributes:
        file: Where they go.
        sparse: How places of kept elements are said.
        size: Bytes so far.
        digest: SHA-256 of them.
    """

    file: BinaryIO
    sparse: SparseCodes
    size: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def write(self, name: str, dtype: str, weight: QuantizedTensor) -> PackedTensor:
        """Append the parts of a weight and return where they lie.

        Args:
            name: The graph's input for it.
            dtype: Type of that input.
            weight: What is stored.

        Raises:
            SchemeError: Its elements have no codes.
        """
        layout, scales = weight.layout, weight.scales
        numbers = dict(_count(weight, self.sparse))
        parts: dict[PartName, Part] = {}
        for part, packed in _parts(weight, self.sparse).items():
            count, bits, kind = numbers[part]
            data = packed.cpu().numpy().tobytes()
            self._append(bytes(-self.size % ALIGNMENT))
            digest = hashlib.sha256(data).hexdigest()
            parts[part] = Part(self.size, len(data), count, bits, kind, digest)
            self._append(data)
        return PackedTensor(
            name,
            dtype,  # type: ignore[arg-type]  # the caller's types are those of the field
            weight.spec,
            weight.sparsity,
            layout.shape,
            layout.split,
            layout.order,
            layout.rows,
            layout.positions,
            layout.channels,
            None if scales is None else (scales.shape[0], scales.shape[1], scales.shape[2]),
            float(weight.tensor_scale),
            parts,
        )

    def finish(self) -> StoredFile:
        """Return size and digest of the file."""
        return StoredFile(self.size, self.digest.hexdigest())

    def _append(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)


def _parts(weight: QuantizedTensor, sparse: SparseCodes) -> Mapping[PartName, Tensor]:
    if not _thins(weight):
        weight = replace(weight, sparsity=None, mask=None)
    packed = pack_parts(weight)
    packed.pop("tensor_scale", None)  # the layout says it
    if "indices" in packed and sparse == "patterns":
        del packed["indices"]
        pattern, mask = str(weight.sparsity), weight.mask
        assert mask is not None  # it has indices
        codes = encode_patterns(kept_places(mask, pattern), pattern)
        packed["patterns"] = pack_bits(codes, pattern_bits(pattern))
    return packed  # type: ignore[return-value]  # its keys are names of parts


def _count(
    weight: QuantizedTensor, sparse: SparseCodes
) -> Iterator[tuple[PartName, tuple[int, int, str]]]:
    """Part to (numbers, bits of each, format)."""
    mask = weight.mask if _thins(weight) else None
    kept = weight.codes.numel() if mask is None else int(mask.sum())
    yield "codes", (kept, *_named(weight.spec.element))
    if weight.scales is not None:
        yield "scales", (weight.scales.numel(), *_named(find_format(str(weight.spec.scale_format))))
    if weight.zeros is not None:
        yield "zero_points", (weight.zeros.numel(), *_named(weight.spec.element))
    if mask is not None:
        pattern = str(weight.sparsity)
        places = len(kept_places(mask, pattern))
        if sparse == "indices":
            yield "indices", (places, index_bits(pattern), "")
        else:
            groups = len(encode_patterns(kept_places(mask, pattern), pattern))
            yield "patterns", (groups, pattern_bits(pattern), "")


def _named(format: Format) -> tuple[int, str]:
    return format.bits, format.name


def _thins(weight: QuantizedTensor) -> bool:
    """Whether only kept elements are stored."""
    if weight.sparsity is None or weight.mask is None:
        return False
    return thins(weight.spec, weight.sparsity)
