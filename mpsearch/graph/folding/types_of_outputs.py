"""Types and shapes of one node's outputs, in every probe."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from mpsearch.graph.onnx_file.constants import Array, Constant

Types = tuple[onnx.TypeProto | None, ...]  # one a probe

# Operators outside ONNX: which of their outputs look like which of their inputs.
_LIKE_INPUT: Mapping[str, Mapping[int, int]] = {
    "BiasGelu": {0: 0},
    "FastGelu": {0: 0},
    "FusedGelu": {0: 0},
    "Gelu": {0: 0},
    "GroupQueryAttention": {0: 0},
    "MultiHeadAttention": {0: 0},
    "QuickGelu": {0: 0},
    "RotaryEmbedding": {0: 0},
    "SimplifiedLayerNormalization": {0: 0},
    "SkipLayerNormalization": {0: 0, 3: 0},
    "SkipSimplifiedLayerNormalization": {0: 0, 3: 0},
}
# Operators outside ONNX that infer as one of ONNX's does.
_LIKE_ONNX = {"FusedConv": ("Conv", 11), "FusedMatMul": ("MatMul", 13), "FusedGemm": ("Gemm", 13)}


@lru_cache(maxsize=4096)
def schema(op_type: str, version: int, domain: str) -> "onnx.defs.OpSchema | None":
    """Return ONNX's definition of an operator, None if it knows none."""
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except Exception:
        return None


def tensor_type(elem_type: int, shape: Sequence[int | None] | None) -> onnx.TypeProto:
    """Return a tensor type; ``shape`` None leaves the rank open."""
    return onnx.helper.make_tensor_type_proto(elem_type, shape)


def constant_type(constant: Constant) -> onnx.TypeProto:
    """Return the type of ``constant``."""
    return tensor_type(onnx.helper.np_dtype_to_tensor_dtype(constant.dtype), constant.shape)


def sizes(kind: onnx.TypeProto | None) -> tuple[int | None, ...] | None:
    """Return the shape that a type states; None without a rank."""
    if kind is None or kind.WhichOneof("value") != "tensor_type":
        return None
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
        for dim in kind.tensor_type.shape.dim
    )


def infer_outputs(
    node: onnx.NodeProto,
    version: int,
    input_types: Mapping[str, onnx.TypeProto],
    input_data: Mapping[str, Array],
) -> list[onnx.TypeProto | None]:
    """Return the types of ``node``'s outputs in one probe; None where unknown.

    Raises:
        ValueError: The input types contradict the operator's definition.
    """
    unknown: list[onnx.TypeProto | None] = [None] * len(node.output)
    domain = "" if node.domain == "ai.onnx" else node.domain
    definition = schema(node.op_type, version, domain)
    if definition is None and node.op_type in _LIKE_ONNX:
        return _as_onnx(node, input_types)
    if definition is None:
        return _outside_onnx(node, input_types)
    if any(name and name not in input_types for name in node.input):
        return unknown
    data = {name: numpy_helper.from_array(np.asarray(x)) for name, x in input_data.items()}
    try:
        found = shape_inference.infer_node_outputs(
            definition,
            node,
            {name: input_types[name] for name in node.input if name},
            data,
            opset_imports=[onnx.helper.make_opsetid(domain, version)],
        )
    except Exception as error:
        raise ValueError(str(error).strip().splitlines()[-1] if str(error) else "") from error
    result = [found.get(name) if name else None for name in node.output]
    if node.op_type == "Reshape" and domain == "":
        _check_reshape(input_types.get(node.input[0]), result[0])
    return [kind if _is_sound(kind) else None for kind in result]


def _outside_onnx(
    node: onnx.NodeProto, input_types: Mapping[str, onnx.TypeProto]
) -> list[onnx.TypeProto | None]:
    """Return what is known of operators that ONNX does not define."""
    result: list[onnx.TypeProto | None] = [None] * len(node.output)
    for output, source in _LIKE_INPUT.get(node.op_type, {}).items():
        if output < len(result) and source < len(node.input):
            result[output] = input_types.get(node.input[source])
    x = input_types.get(node.input[0]) if node.input else None
    shape = sizes(x)
    if node.op_type == "EmbedLayerNormalization" and len(node.input) > 2:
        return _embedded(input_types, node, shape)
    if x is None or shape is None or not shape:
        return result
    width: int | None = None
    if node.op_type == "MatMulNBits":
        width = next((a.i for a in node.attribute if a.name == "N"), None)
    elif node.op_type == "Attention" and len(node.input) > 1:
        weight = sizes(input_types.get(node.input[1]))
        width = weight[1] // 3 if weight and len(weight) == 2 and weight[1] else None
    if width:
        result[0] = tensor_type(x.tensor_type.elem_type, (*shape[:-1], width))
    return result


def _embedded(
    input_types: Mapping[str, onnx.TypeProto],
    node: onnx.NodeProto,
    ids: tuple[int | None, ...] | None,
) -> list[onnx.TypeProto | None]:
    """Return embedding, mask index and sum of ids [B, T] looked up in the table of the third input."""
    table = input_types.get(node.input[2])
    width = sizes(table)
    if table is None or ids is None or len(ids) != 2 or width is None or len(width) != 2:
        return [None] * len(node.output)
    wide = tensor_type(table.tensor_type.elem_type, (*ids, width[1]))
    return [wide, tensor_type(onnx.TensorProto.INT32, ids[:1]), wide][: len(node.output)]


def _check_reshape(before: onnx.TypeProto | None, after: onnx.TypeProto | None) -> None:
    """Hold that a Reshape keeps the number of elements, which onnx checks only where it infers -1."""
    old, new = sizes(before), sizes(after)
    if old is None or new is None or None in old or None in new:
        return
    if prod(size or 0 for size in old) != prod(size or 0 for size in new):
        raise ValueError(f"{old} cannot be reshaped to {new}")


def _as_onnx(
    node: onnx.NodeProto, input_types: Mapping[str, onnx.TypeProto]
) -> list[onnx.TypeProto | None]:
    op_type, version = _LIKE_ONNX[node.op_type]
    definition = schema(op_type, version, "")
    known = {} if definition is None else definition.attributes
    twin = onnx.NodeProto(op_type=op_type, input=node.input[:2], output=node.output)
    twin.attribute.extend(a for a in node.attribute if a.name in known)
    if any(a.name in ("transA", "transB") and a.i for a in node.attribute) and op_type == "MatMul":
        return [None] * len(node.output)
    return infer_outputs(twin, version, input_types, {})


def _is_sound(kind: onnx.TypeProto | None) -> bool:
    if kind is None or kind.WhichOneof("value") is None:
        return False
    return kind.WhichOneof("value") != "tensor_type" or bool(kind.tensor_type.elem_type)
