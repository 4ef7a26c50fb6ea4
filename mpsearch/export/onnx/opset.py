"""A model raised to the opset that low-precision types need, large weights kept out of the converter."""

from collections.abc import Collection

import onnx
from onnx import helper, version_converter

from mpsearch.errors import PlanError

IR_OF_OPSET = {23: 11, 24: 12, 25: 13}
"""Opset of the default domain to the IR version that came with it; later ones take the last."""


def upgrade_model(model: onnx.ModelProto, opset: int, keep: Collection[str]) -> onnx.ModelProto:
    """Return ``model`` at ``opset`` or later, without the initialisers named in ``keep``.

    Those must be added again by the caller: the converter reads and writes every byte of the others.

    Raises:
        PlanError: The converter cannot raise one of the model's operators.
    """
    lean = onnx.ModelProto()
    lean.CopyFrom(_without_initializers(model))
    kept = [t for t in model.graph.initializer if t.name not in keep]
    lean.graph.initializer.extend(kept)
    declared = {i.name for i in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name in keep and tensor.name not in declared:
            lean.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    version = next(o.version for o in lean.opset_import if o.domain in ("", "ai.onnx"))
    if version < opset:
        try:
            lean = version_converter.convert_version(lean, opset)
        except Exception as error:  # the converter raises RuntimeError and its own types
            reason = str(error).strip().splitlines()[-1]
            raise PlanError(
                f"the model must be convertible from opset {version} to {opset}: {reason}"
            ) from None
    weights = [i for i in lean.graph.input if i.name in keep and i.name not in declared]
    for info in weights:
        lean.graph.input.remove(info)
    final = max(version, opset)
    lean.ir_version = max(model.ir_version, IR_OF_OPSET.get(final, max(IR_OF_OPSET.values())))
    return lean


def _without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A shallow rebuild: fields are copied one by one so that weights never are."""
    graph = onnx.GraphProto(name=model.graph.name, doc_string=model.graph.doc_string)
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    bare = onnx.ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        graph=graph,
    )
    for name in ("opset_import", "metadata_props", "functions"):
        getattr(bare, name).extend(getattr(model, name))
    return bare
