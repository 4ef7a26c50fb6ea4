"""A reader of NPU exports written from docs/plan-format.md alone: numpy, and ml_dtypes for what codes are worth."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FLOATS = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e8m0": ml_dtypes.float8_e8m0fnu,
}
WIDE = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """The layout's content, and the values of every packed tensor, fp32 in its own shape."""
    layout = json.loads((folder / "layout.json").read_text())
    assert (layout["schema"], layout["version"]) == ("mpsearch.npu_layout", 1)
    content = layout["content"]
    blobs = (folder / "weights.bin").read_bytes()
    assert len(blobs) == content["blobs"]["bytes"]
    assert hashlib.sha256(blobs).hexdigest() == content["blobs"]["digest"]
    return content, {tensor["name"]: read_tensor(tensor, blobs) for tensor in content["tensors"]}


def read_tensor(tensor: dict[str, Any], blobs: bytes) -> Array:
    spec, shape = tensor["spec"], [tensor[key] for key in ("rows", "positions", "channels")]
    codes = read_part(tensor["parts"]["codes"], blobs)
    places = read_places(tensor, blobs)
    if places is not None:
        dense = np.zeros(int(np.prod(shape)), np.float32)
        dense[places] = codes
        codes = dense
    codes = codes.reshape(shape)
    if tensor["scale_shape"] is not None:
        scales = read_part(tensor["parts"]["scales"], blobs).reshape(tensor["scale_shape"])
        steps = scales * np.float32(tensor["tensor_scale"])
        if "zero_points" in tensor["parts"]:
            zeros = read_part(tensor["parts"]["zero_points"], blobs)
            codes = codes - spread(zeros.reshape(tensor["scale_shape"]), spec, shape)
        codes = codes * spread(steps, spec, shape)
    split, order = tensor["split"], tensor["order"]
    cut = codes.reshape([split[axis] for axis in order])
    return cut.transpose(np.argsort(order)).reshape(tensor["shape"])


def spread(scales: Array, spec: dict[str, Any], shape: list[int]) -> Array:
    """One scale an element: [row blocks, positions, channel blocks] to [rows, positions, channels]."""
    tall, wide = spec["block_shape"] or (1, shape[2])
    if spec["block_shape"] is None and spec["granularity"] == "tensor":
        tall = shape[0]
    rows, channels = np.arange(shape[0]) // tall, np.arange(shape[2]) // wide
    found = scales[rows][:, :, channels]
    return np.broadcast_to(found, shape)


def read_part(part: dict[str, Any], blobs: bytes) -> Array:
    """fp32 values of a blob's codes."""
    numbers = read_numbers(part, blobs)
    name, bits = part["format"], part["bits"]
    if name in WIDE:
        return numbers.astype(f"<u{bits // 8}").view(WIDE[name]).astype(np.float32)
    if name.startswith("int"):
        signed = numbers.astype(np.int64)
        return np.where(signed >= 1 << (bits - 1), signed - (1 << bits), signed).astype(np.float32)
    return numbers.astype(np.uint8).view(FLOATS[name]).astype(np.float32)


def read_numbers(part: dict[str, Any], blobs: bytes) -> Array:
    """The whole numbers of ``bits`` bits that a blob holds, lowest bits first."""
    data = blobs[part["offset"] : part["offset"] + part["bytes"]]
    assert hashlib.sha256(data).hexdigest() == part["digest"]
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    bits = bits[: part["count"] * part["bits"]].reshape(part["count"], part["bits"])
    return (bits.astype(np.uint64) << np.arange(part["bits"], dtype=np.uint64)).sum(1)


def read_places(tensor: dict[str, Any], blobs: bytes) -> Array | None:
    """Where the stored elements lie, in order; None where all are stored."""
    parts = tensor["parts"]
    if "indices" not in parts and "patterns" not in parts:
        return None
    pattern = tensor["sparsity"]
    unit = 2 if pattern.endswith("_paired") else 1
    kept, group = (int(n) // unit for n in pattern.removesuffix("_paired").split(":"))
    if "indices" in parts:
        units = read_numbers(parts["indices"], blobs).astype(int).reshape(-1, kept)
    else:
        choices = np.array(list(combinations(range(group), kept)))
        units = choices[read_numbers(parts["patterns"], blobs).astype(int)]
    units = units + group * np.arange(len(units))[:, None]
    return (units.reshape(-1, 1) * unit + np.arange(unit)).reshape(-1)
