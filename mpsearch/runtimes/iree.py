"""IREE on a CPU: an ahead-of-time compiler (extra ``iree``).

Local functions are expanded first and shapes are fixed. Two things it lacks are written as what they mean: it does not
saturate when it rounds to fp8, so a Clip stands in front, and it dequantises fp8 by one scale only, so others are a
Cast and a Mul. Nothing is folded here: codes and scales reach the compiler as the export stores them.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import iree.compiler
import iree.runtime
import numpy as np
import onnx
from iree.compiler.extras import onnx_importer
from iree.compiler.ir import Context
from onnx import helper, numpy_helper
from onnx.inliner import inline_local_functions

from mpsearch.errors import PlanError
from mpsearch.formats import find_format
from mpsearch.runtimes.rounding import EXACT, Rounding
from mpsearch.runtimes.session import Array, Session, bind_shapes, expose, load_model, run_error

_FP8 = {
    onnx.TensorProto.FLOAT8E4M3FN: find_format("e4m3").max_value,
    onnx.TensorProto.FLOAT8E5M2: find_format("e5m2").max_value,
}
_FLOAT = onnx.TensorProto.FLOAT
_ENTRY = "main"
_FAILED = re.compile(r"error: (?:loc\(\"(?P<node>[^\"]*)\"\): )?(?P<reason>.*)")
_OPERATOR = re.compile(r"name = \"onnx\.(\w+)\"")


@dataclass(frozen=True, slots=True)
class IreeSession:
    """An exported model in IREE, compiled once for each set of shapes and outputs."""

    model: onnx.ModelProto
    compiled: dict[object, Any] = field(default_factory=dict)
    rounding: Rounding = EXACT
    is_standard: bool = False
    note: str = (
        "compiled for this processor; rounding to fp8 is clipped first, and fp8 weights with one scale an output "
        "channel are cast and multiplied: IREE does neither itself"
    )

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named values, intermediate ones included.

        Raises:
            PlanError: IREE refuses the model, or fails while it runs.
        """
        shapes = tuple(sorted((name, x.shape) for name, x in inputs.items()))
        key = (shapes, tuple(outputs))
        if key not in self.compiled:
            shown = expose(self.model, outputs)
            bind_shapes(shown, inputs)
            self.compiled[key] = _compile(shown)
        initialised = {tensor.name for tensor in self.model.graph.initializer}
        order = [i.name for i in self.model.graph.input if i.name not in initialised]
        try:
            found = self.compiled[key][_ENTRY](*(np.ascontiguousarray(inputs[n]) for n in order))
        except Exception as error:  # whatever the virtual machine raises
            raise run_error("IREE", error) from None
        results = found if isinstance(found, list | tuple) else (found,)
        return {name: x.to_host() for name, x in zip(outputs, results, strict=True)}


def open_session(path: Path) -> Session:
    """Open an export in IREE on the processor.

    Raises:
        ModelError: It cannot be read.
    """
    model = inline_local_functions(load_model(path))
    _spell_out(model)
    return IreeSession(model)


def _spell_out(model: onnx.ModelProto) -> None:
    """Write what IREE lacks as what it means, in place."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    added: dict[str, onnx.TensorProto] = {}

    def constant(values: Array, name: str) -> str:
        added[name] = numpy_helper.from_array(values, name)
        return name

    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        stored: list[Any] = [tensors.get(name) for name in node.input]
        prefix = f"{node.output[0]}/iree"
        if node.op_type == "QuantizeLinear":
            zero = stored[2] if len(stored) > 2 else None
            kind = zero.data_type if zero is not None else attributes.get("output_dtype", 0)
            if kind in _FP8:
                ends = [f"{prefix}/{end}" for end in ("lowest", "highest")]
                for end, sign in zip(ends, (-1, 1), strict=True):
                    limit = constant(np.array(sign * _FP8[kind], np.float32), f"{end}/units")
                    nodes.append(helper.make_node("Mul", [node.input[1], limit], [end], end))
                nodes.append(helper.make_node("Clip", [node.input[0], *ends], [prefix], prefix))
                node.input[0] = prefix
        elif node.op_type == "DequantizeLinear" and _is_fp8_by_channel(stored, attributes):
            codes, scales = stored[:2]
            shape = [1] * len(codes.dims)
            shape[attributes.get("axis", 1)] = scales.dims[0]
            parts = [f"{prefix}/codes", f"{prefix}/scales"]
            along = constant(np.array(shape, np.int64), f"{prefix}/shape")
            nodes += [
                helper.make_node("Cast", [codes.name], parts[:1], parts[0], to=_FLOAT),
                helper.make_node("Reshape", [scales.name, along], parts[1:], parts[1]),
                helper.make_node("Mul", parts, list(node.output), node.name),
            ]
            continue
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(added.values())


def _is_fp8_by_channel(stored: Sequence[Any], attributes: Mapping[str, Any]) -> bool:
    """Whether these inputs of a DequantizeLinear are fp8 codes with one scale for each of several channels."""
    if attributes.get("block_size", 0) or any(tensor is None for tensor in stored[:2]):
        return False
    return stored[0].data_type in _FP8 and len(stored[1].dims) == 1


def _compile(model: onnx.ModelProto) -> Any:
    """The model as a module of IREE's virtual machine, its entry point named ``main``.

    Raises:
        PlanError: IREE cannot compile it; the message names the first node that fails.
    """
    model.graph.name = _ENTRY
    for node in model.graph.node:
        node.name = node.name or node.output[0]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        info = onnx_importer.ModelInfo(inferred)
        module = info.create_module(context=Context()).operation
        importer = onnx_importer.NodeImporter.define_function(info.main_graph, module)
        importer.import_all()
        code = io.BytesIO()
        module.write_bytecode(code)
        made = iree.compiler.tools.compile_str(
            code.getvalue(),
            target_backends=["llvm-cpu"],
            input_type="onnx",
            extra_args=["--iree-llvmcpu-target-cpu=host"],
        )
    except Exception as error:  # the importer's and the compiler's own have no common base
        raise PlanError(f"IREE cannot run the exported model: {_reason(error)}") from None
    config = iree.runtime.Config("local-sync")
    return iree.runtime.load_vm_module(
        iree.runtime.VmModule.copy_buffer(config.vm_instance, made), config
    )


def _reason(error: Exception) -> str:
    """Why the compiler failed, in one line, with the node where it says one."""
    text = str(error).strip() or type(error).__name__
    found = _FAILED.search(text)
    if found is None:
        return text.splitlines()[0]
    operator = _OPERATOR.search(found["reason"])
    what = f"no lowering of {operator[1]}" if operator else found["reason"].partition(": %")[0]
    return f"node {found['node']!r}: {what}" if found["node"] else what
