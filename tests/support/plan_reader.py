"""A reader of plan files written from docs/plan-format.md alone: model.onnx, plan.json and the weights beside it."""

import hashlib
import json
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import load

Array = NDArray[Any]
NARROW = {  # type of the codes, largest magnitude, its exponent
    "e2m1": (ml_dtypes.float4_e2m1fn, 6.0, 2),
    "e4m3": (ml_dtypes.float8_e4m3fn, 448.0, 8),
    "e8m0": (ml_dtypes.float8_e8m0fnu, 2.0**127, 0),
}
WIDE = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def read_plan(path: Path) -> dict[str, Any]:
    envelope = json.loads(path.read_text())
    assert (envelope["schema"], envelope["version"]) == ("mpsearch.plan", 1)
    plan: dict[str, Any] = envelope["content"]
    text = json.dumps(plan, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == envelope["digest"]
    assert set(plan["requires"]) <= {"weights"}
    return plan


def read_weights(model: Path, path: Path) -> dict[tuple[str, str], Array]:
    """(node, initialiser) to the fp32 weight that the plan's layer multiplies with, in its own shape."""
    plan, graph, stored = read_plan(path), onnx.load(model).graph, dict[str, Array]()
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    if "weights" in plan:
        data = (path.parent / plan["weights"]["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == plan["weights"]["digest"]
        stored = load(data)
    constants |= {k.partition("::")[2]: v for k, v in stored.items() if k.startswith("constant::")}
    nodes = {node.name or node.output[0]: node for node in graph.node}
    found = {}
    for decision in plan["decisions"]:
        site, scheme = decision["site"], plan["schemes"][decision["scheme"]]
        for name in site["weights"]:
            weight, key = constants[name], f"{site['node']}::{name}"
            split, order, shape = view(nodes[site["node"]], name, weight.shape)
            if f"codes::{key}" in stored:
                rows = from_stored(stored, key, scheme["weight"], shape)
            else:  # the model's own, or what recovery made of it before it is rounded
                rows = stored.get(key, weight).astype(np.float32).reshape(split)
                rows = prune(rows.transpose(order).reshape(shape), scheme["sparsity"])
                rows = quantise(rows, scheme["weight"])
            rows = rows.reshape([split[i] for i in order]).transpose(np.argsort(order))
            found[site["node"], name] = rows.reshape(weight.shape)
    return found


def view(node: Any, name: str, shape: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    assert node.input[1] == name, "weights on the left, recurrent layers: as the document says"
    given, last = {a.name: a.i for a in node.attribute}, len(shape) - 1
    axis, outputs, groups = 1, [0], 1  # Conv; Gemm with transB
    if node.op_type == "ConvTranspose":
        axis, outputs, groups = 0, [1], given.get("group", 1)
    elif node.op_type == "Gemm" and not given.get("transB", 0):
        axis, outputs = 0, [1]
    elif node.op_type == "MatMul":
        axis, outputs = last - 1, [i for i in range(last - 1) if shape[i] != 1] + [last]
    rest = [i for i in range(len(shape)) if i != axis and i not in outputs]
    split = [*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]]
    order = [axis, *(i + (i > axis) for i in (*outputs, *rest)), axis + 1]
    positions, channels = prod(shape[i] for i in rest), shape[axis] // groups
    return split, order, [prod(shape) // positions // channels, positions, channels]


def prune(rows: Array, pattern: str | None) -> Array:
    """Only the n of each m consecutive channels that are largest; of equal ones the first."""
    if pattern is None:
        return rows
    unit = 2 if pattern.endswith("_paired") else 1
    kept, group = (int(n) // unit for n in pattern.removesuffix("_paired").split(":"))
    units = rows.reshape(-1, group, unit)
    worth = (units**2 if unit > 1 else np.abs(units)).sum(-1)
    mask = np.zeros(worth.shape, bool)
    np.put_along_axis(mask, np.argsort(-worth, 1, "stable")[:, :kept], True, 1)
    return np.where(mask[..., None], units, np.float32(0)).reshape(rows.shape)


def quantise(rows: Array, spec: dict[str, Any]) -> Array:
    if spec["scale_format"] is None:
        return round_to(rows, spec["format"])
    assert spec["estimator"] == spec["block_scale"] == "amax"
    amax, top = block_amax(np.abs(rows), spec), largest(spec["format"])
    g = amax.max() / np.float32(top * 448) if spec["tensor_scale"] else np.float32(1)
    if spec["scale_format"] == "e8m0":
        exponents = np.frexp(amax)[1] - 1 - NARROW[spec["format"]][2]
        scales = np.ldexp(np.float32(1), np.maximum(exponents, -127))
    else:
        scales = np.where(amax == 0, np.float32(0), amax / (np.float32(top) * g))
        scales = round_to(scales.clip(max=largest(spec["scale_format"])), spec["scale_format"])
    steps = spread(scales * g, spec, rows.shape)
    return round_to(rows / np.where(steps == 0, np.inf, steps), spec["format"]) * steps


def block_amax(sizes: Array, spec: dict[str, Any]) -> Array:
    if spec["block_shape"] is None:
        return sizes.max(None if spec["granularity"] == "tensor" else (1, 2), keepdims=True)
    tall, wide = spec["block_shape"]
    by_rows = np.maximum.reduceat(sizes, range(0, sizes.shape[0], tall), axis=0)
    return np.maximum.reduceat(by_rows, range(0, sizes.shape[2], wide), axis=2)


def spread(scales: Array, spec: dict[str, Any], shape: Any) -> Array:
    tall, wide = spec["block_shape"] or (shape[0] // scales.shape[0], shape[2])
    found = scales[np.arange(shape[0]) // tall][:, :, np.arange(shape[2]) // wide]
    return np.broadcast_to(found, shape)


def largest(name: str) -> np.float32:
    if name.startswith("int"):
        return np.float32(2 ** (int(name[3:]) - 1) - 1)
    return np.float32(NARROW[name][1] if name in NARROW else ml_dtypes.finfo(WIDE[name]).max)


def round_to(x: Array, name: str) -> Array:
    """To the nearest element, ties to even; wide floats overflow, all else saturates."""
    if name in WIDE:
        return x.astype(WIDE[name]).astype(np.float32)
    x = np.clip(x, -largest(name), largest(name))
    return np.rint(x) if name.startswith("int") else x.astype(NARROW[name][0]).astype(np.float32)


def decode(codes: Array, name: str) -> Array:
    if name.startswith("int"):
        high = 1 << (int(name[3:]) - 1)
        return ((codes.astype(np.int16) ^ high) - high).astype(np.float32)
    return codes.view(WIDE[name] if name in WIDE else NARROW[name][0]).astype(np.float32)


def from_stored(stored: dict[str, Array], key: str, spec: dict[str, Any], shape: Any) -> Array:
    codes = decode(stored[f"codes::{key}"], spec["format"]).reshape(shape)
    if f"scales::{key}" not in stored:
        return codes
    scales = decode(stored[f"scales::{key}"], spec["scale_format"])
    if f"zeros::{key}" in stored:
        codes = codes - spread(decode(stored[f"zeros::{key}"], spec["format"]), spec, shape)
    return codes * spread(scales * stored.get(f"tensor_scale::{key}", np.float32(1)), spec, shape)
