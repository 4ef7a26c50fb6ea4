"""ONNX's own operator tests: which are in scope, and what a run of one gives."""

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.support.protos import dtype_name

NEWEST_OPSET = 25


@cache
def load_cases() -> tuple[Any, ...]:
    """Every node test in scope: no training, strings, sequences or optional types, operators of opset ≤ 25.

    A case may state a newer opset if its operators mean there what they meant in opset 25.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests' own generators overflow on purpose
        from onnx.backend.test import loader

        cases = loader.load_model_tests(kind="node")
    return tuple(case for case in cases if in_scope(case.model))


def in_scope(model: onnx.ModelProto) -> bool:
    for opset in model.opset_import:
        if "training" in opset.domain:
            return False
        is_newer = opset.domain in ("", "ai.onnx") and opset.version > NEWEST_OPSET
        if is_newer and any(since(n, opset.version) > NEWEST_OPSET for n in all_nodes(model)):
            return False
    return all(is_tensor(info) for info in (*model.graph.input, *model.graph.output))


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the graph, its subgraphs and its functions."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            waiting.extend(attribute.g.node)


def since(node: onnx.NodeProto, version: int) -> int:
    """Return the opset that gave the operator its meaning; 0 for what is not ONNX's own."""
    if node.domain not in ("", "ai.onnx"):
        return 0
    try:
        return int(onnx.defs.get_schema(node.op_type, version, "").since_version)
    except onnx.defs.SchemaError:
        return version


def is_tensor(info: onnx.ValueInfoProto) -> bool:
    kind = info.type
    return kind.HasField("tensor_type") and kind.tensor_type.elem_type != onnx.TensorProto.STRING


def arrays_of(values: list[Any]) -> list[Any]:
    return [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def output_types(model: onnx.ModelProto) -> list[str | None]:
    return [dtype_name(info) for info in model.graph.output]


def check_equal(found: list[Any], expected: list[Any], case: Any) -> None:
    """The comparison of ONNX's own runner, at the case's own tolerance."""
    assert len(found) == len(expected)
    for got, want in zip(found, map(np.asarray, arrays_of(expected)), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        if want.dtype.kind not in "biufc":  # ml_dtypes
            got, want = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol)
