"""An NPU export put together again: its blobs back into the graph, so that runtimes can run what lies on disk."""

import hashlib
from collections.abc import Iterator
from math import ceil, prod
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from mpsearch.artifacts import digest_file
from mpsearch.errors import MpsearchError, PlanError
from mpsearch.export.npu.layout import (
    BLOBS,
    GRAPH,
    LAYOUT,
    Layout,
    PackedTensor,
    Part,
    PartName,
    StoredFile,
    read_layout,
)
from mpsearch.formats import Format, find_format
from mpsearch.numerics.layout import find_layout
from mpsearch.numerics.packing import (
    decode,
    decode_patterns,
    index_bits,
    pattern_bits,
    unpack_bits,
)
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.program.tensors import to_array
from mpsearch.schemes import parse_sparsity, thins

_WIDE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_KINDS = {"float32": 1, "float16": 10, "bfloat16": 16}  # of onnx.TensorProto


def assemble(folder: Path) -> onnx.ModelProto:
    """Return the graph of an NPU export with every weight that the blobs hold as an initialiser.

    Raises:
        MpsearchError: A file is missing, damaged or contradicts another; one line.
    """
    layout = read_layout(folder / LAYOUT)
    _check_file(folder / GRAPH, layout.graph)
    _check_file(folder / BLOBS, layout.blobs)
    try:
        model = onnx.load(folder / GRAPH)
    except Exception as error:  # protobuf, the file system, external data
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PlanError(f"{GRAPH}: must be a readable ONNX model: {reason}") from None
    inputs = {value.name: value for value in model.graph.input}
    for tensor, values in unpack(layout, folder / BLOBS):
        given = inputs.get(tensor.name)
        if given is None or given.type.tensor_type.elem_type != _KINDS[tensor.dtype]:
            raise PlanError(f"{GRAPH} must have an input {tensor.name!r} of {tensor.dtype}")
        model.graph.input.remove(given)
        model.graph.initializer.append(numpy_helper.from_array(values, tensor.name))
    return model


def unpack(layout: Layout, blobs: Path) -> Iterator[tuple[PackedTensor, NDArray[np.generic]]]:
    """Yield each packed tensor with its values, in its own shape and type.

    Raises:
        PlanError: A blob lies outside of the file, is not what its digest says, or does not fit its tensor.
    """
    size = blobs.stat().st_size
    with blobs.open("rb") as file:
        for tensor in layout.tensors:
            _check_sizes(tensor)
            parts: dict[PartName, Tensor] = {}
            for name, part in tensor.parts.items():
                where = f"{LAYOUT}: {name} of {tensor.name!r}"
                if part.offset + part.bytes > size or part.bytes != ceil(
                    part.count * part.bits / 8
                ):
                    raise PlanError(f"{where} must be whole numbers that lie within {blobs.name}")
                if part.offset % layout.alignment:
                    raise PlanError(f"{where} must lie at a multiple of {layout.alignment} bytes")
                file.seek(part.offset)
                data = file.read(part.bytes)
                if hashlib.sha256(data).hexdigest() != part.digest:
                    raise PlanError(f"{where} must have the digest that is said")
                parts[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            try:
                values = _values(tensor, parts)
            except PlanError:
                raise
            except (MpsearchError, RuntimeError, ValueError, IndexError) as error:
                reason = str(error).splitlines()[0]
                raise PlanError(f"{LAYOUT}: {tensor.name!r} contradicts itself: {reason}") from None
            yield tensor, to_array(values.to(_TYPES[tensor.dtype]))


def _values(tensor: PackedTensor, parts: dict[PartName, Tensor]) -> Tensor:
    spec, shape = tensor.spec, (tensor.rows, tensor.positions, tensor.channels)
    codes = _decode(tensor, parts, "codes", spec.element)
    scales = zeros = None
    if tensor.scale_shape is not None:
        kind = find_format(str(spec.scale_format))
        scales = _decode(tensor, parts, "scales", kind).reshape(tensor.scale_shape)
        if not spec.symmetric:
            zeros = _decode(tensor, parts, "zero_points", spec.element).reshape(tensor.scale_shape)
    mask = _mask(tensor, parts)
    if mask is not None:
        spread = torch.zeros(shape)
        spread[mask] = codes
        codes = spread
    rows = QuantizedTensor(
        spec,
        find_layout(shape, reduction_axis=2, channel_axes=(0,)),
        codes.reshape(shape),
        scales,
        zeros,
        tensor.tensor_scale,
    ).dequantize()
    cut = rows.reshape([tensor.split[axis] for axis in tensor.order])
    back = sorted(range(len(tensor.order)), key=tensor.order.__getitem__)
    return cut.permute(back).reshape(tensor.shape).contiguous()


def _decode(
    tensor: PackedTensor, parts: dict[PartName, Tensor], name: PartName, format: Format
) -> Tensor:
    """fp32 [count] elements of a part."""
    part = _part(tensor, name)
    if (part.format, part.bits) != (format.name, format.bits):
        raise PlanError(
            f"{LAYOUT}: {name} of {tensor.name!r} must be {format.name}, got {part.format!r}"
        )
    if format.name in _WIDE:
        found = parts[name].view(_WIDE[format.name]).float()
    else:
        found = decode(unpack_bits(parts[name], format.bits, part.count), format)
    if not bool(found.isfinite().all()):
        raise PlanError(f"{LAYOUT}: {name} of {tensor.name!r} must be finite")
    return found


def _mask(tensor: PackedTensor, parts: dict[PartName, Tensor]) -> Tensor | None:
    """Bool [rows, positions, channels] of kept elements; None where all are stored."""
    if tensor.sparsity is None or not thins(tensor.spec, tensor.sparsity):
        return None
    pattern = parse_sparsity(tensor.sparsity)
    if "patterns" in tensor.parts:
        bits, part = pattern_bits(tensor.sparsity), _part(tensor, "patterns")
        indices = decode_patterns(unpack_bits(parts["patterns"], bits, part.count), tensor.sparsity)
    else:
        bits, part = index_bits(tensor.sparsity), _part(tensor, "indices")
        indices = unpack_bits(parts["indices"], bits, part.count)
    if part.bits != bits:
        raise PlanError(f"{LAYOUT}: {tensor.name!r} must have {bits} bits for {tensor.sparsity}")
    places, kept = pattern.group // pattern.unit, pattern.kept // pattern.unit
    marks = torch.zeros(len(indices) // kept, places, dtype=torch.bool)
    marks.scatter_(1, indices.long().reshape(-1, kept), True)
    if bool((marks.sum(1) != kept).any()):
        raise PlanError(f"{LAYOUT}: {tensor.name!r} must keep {tensor.sparsity} of every group")
    each = marks[..., None].expand(*marks.shape, pattern.unit)
    return each.reshape(tensor.rows, tensor.positions, tensor.channels)


def _part(tensor: PackedTensor, name: PartName) -> Part:
    if name not in tensor.parts:
        raise PlanError(f"{LAYOUT}: {tensor.name!r} must have {name}")
    return tensor.parts[name]


def _check_sizes(tensor: PackedTensor) -> None:
    """Check that the tensor's numbers agree, before anything of their size is made.

    Raises:
        PlanError: They do not.
    """
    total = tensor.rows * tensor.positions * tensor.channels
    stored = sum(part.bytes for part in tensor.parts.values())
    sizes = {prod(tensor.shape), prod(tensor.split), total}
    is_order = sorted(tensor.order) == list(range(len(tensor.split)))
    if len(sizes) > 1 or not is_order:
        raise PlanError(f"{LAYOUT}: sizes of {tensor.name!r} must agree, got {list(tensor.shape)}")
    share = 1.0
    if tensor.sparsity is not None:
        pattern = parse_sparsity(tensor.sparsity)
        share = pattern.kept / pattern.group
        if tensor.channels % pattern.group:
            raise PlanError(f"{LAYOUT}: {tensor.name!r} must have whole groups of the pattern")
    if total * share * tensor.spec.element.bits / 8 > stored + 1:
        raise PlanError(f"{LAYOUT}: {tensor.name!r} must be as large as its blobs")


def _check_file(path: Path, stored: StoredFile) -> None:
    """Check size and digest of a file.

    Raises:
        PlanError: It is missing or another one.
    """
    if not path.is_file():
        raise PlanError(f"{path.name}: must lie beside {LAYOUT}, but is missing")
    if path.stat().st_size != stored.bytes or digest_file(path) != stored.digest:
        raise PlanError(f"{path.name}: must be the file that {LAYOUT} names, got another one")
