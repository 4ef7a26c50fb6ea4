"""A model raised to the opset that low-precision types need, large weights kept out of the converter."""

from collections.abc import Collection, Set

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from mpsearch.errors import PlanError
from mpsearch.graph.onnx_file.read import walk_nodes

IR_OF_OPSET = {23: 11, 24: 12, 25: 13}
"""Opset of the default domain to the IR version that came with it; later ones take the last."""

_HIDDEN = "mpsearch.hidden"
_NORM_OPSET = 23


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
    norms = _hide_norms(lean)
    if version < opset:
        if version < 13:
            _spell_out_hardmax(lean.graph)
        try:
            if version < 11:
                meant = _meant_by_resizes(lean.graph, _part_resizes(lean.graph))
                lean = version_converter.convert_version(lean, 11)
                resizes = [n for n in walk_nodes(lean.graph) if n.op_type == "Resize"]
                for node, attributes in zip(resizes, meant, strict=True):
                    node.attribute.extend(attributes)
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
    _name_norms(lean, norms, final)
    lean.ir_version = max(model.ir_version, IR_OF_OPSET.get(final, max(IR_OF_OPSET.values())))
    return lean


def _hide_norms(model: onnx.ModelProto) -> list[str]:
    """Put root-mean-square norms of onnxruntime's, which the default domain never had, where the converter leaves them be.

    Returns:
        First outputs of these nodes.
    """
    found = []
    for node in walk_nodes(model.graph):
        if node.op_type == "SimplifiedLayerNormalization" and node.domain in ("", "ai.onnx"):
            node.domain = _HIDDEN
            found.append(node.output[0])
    if found and _HIDDEN not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(_HIDDEN, 1))
    return found


def _name_norms(model: onnx.ModelProto, norms: Collection[str], version: int) -> None:
    """Name the norms of :func:`_hide_norms` as the standard does from opset 23 on, in place; before, as onnxruntime does."""
    for node in walk_nodes(model.graph):
        if node.domain == _HIDDEN and node.output[0] in norms:
            node.domain = ""
            if version >= _NORM_OPSET and len(node.output) == 1:
                node.op_type = "RMSNormalization"
    kept = [o for o in model.opset_import if o.domain != _HIDDEN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _part_resizes(graph: onnx.GraphProto) -> set[str]:
    """Let what may make some axes larger and others smaller do first the one, then the other, in place.

    To the nearest element the two round in different directions, and a later Resize knows one.

    Returns:
        Names of scales of which none is above 1, whatever they are in a run.
    """
    scales = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    smaller = set()
    for node in graph.node:
        if node.op_type != "Resize":
            nodes.append(node)
            continue
        given = scales.get(node.input[1])
        if given is not None and not ((given < 1).any() and (given > 1).any()):
            nodes.append(node)
            continue
        names = [f"{node.output[0]}/{part}" for part in ("larger", "smaller")]
        smaller.add(names[1])
        if given is None:
            one = f"{node.output[0]}/one"
            graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), one))
            for name, op_type in zip(names, ("Max", "Min"), strict=True):
                inputs = [node.input[1], one]
                nodes.append(helper.make_node(op_type, inputs, [name], f"{name}/scales"))
        else:
            for name, part in zip(names, (np.maximum(given, 1), np.minimum(given, 1)), strict=True):
                graph.initializer.append(numpy_helper.from_array(part, name))
        first, second = onnx.NodeProto(), onnx.NodeProto()
        first.CopyFrom(node)
        second.CopyFrom(node)
        first.name, first.input[1], first.output[0] = (
            f"{names[0]}/node",
            names[0],
            f"{names[0]}/value",
        )
        second.input[0], second.input[1] = first.output[0], names[1]
        nodes += [first, second]
    del graph.node[:]
    graph.node.extend(nodes)
    return smaller


def _meant_by_resizes(graph: onnx.GraphProto, smaller: Set[str]) -> list[list[onnx.AttributeProto]]:
    """What each Upsample and Resize before opset 11 meant, in order, which the converter forgets.

    Args:
        graph: The model, in which each makes axes only larger or only smaller.
        smaller: Names of scales that are not above 1.
    """
    scales = {t.name: t for t in graph.initializer}
    meant = []
    for node in walk_nodes(graph):
        if node.op_type not in ("Upsample", "Resize"):
            continue
        given = scales.get(node.input[1]) if len(node.input) > 1 else None
        factors = [] if given is None else numpy_helper.to_array(given).tolist()
        makes_less = any(f < 1 for f in factors) or bool(smaller & set(node.input[1:2]))
        # runtimes agree to round up where it makes less
        meant.append(
            [
                helper.make_attribute("coordinate_transformation_mode", "asymmetric"),
                helper.make_attribute("nearest_mode", "ceil" if makes_less else "floor"),
            ]
        )
    return meant


def _spell_out_hardmax(graph: onnx.GraphProto) -> None:
    """Flatten what Hardmax before opset 13 takes as one row, which the converter forgets, in place."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _spell_out_hardmax(attribute.g)
        if node.op_type != "Hardmax":
            nodes.append(node)
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        x, y = node.input[0], node.output[0]
        names = [f"{y}/{part}" for part in ("rows", "hard", "shape")]
        nodes += [
            helper.make_node("Flatten", [x], names[:1], names[0], axis=axis),
            helper.make_node("Hardmax", names[:1], names[1:2], node.name, axis=1),
            helper.make_node("Shape", [x], names[2:], names[2]),
            helper.make_node("Reshape", names[1:], [y], f"{y}/back"),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


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
