"""The module of the user's model that a layer of the graph is: what checkpoints name tensors by."""

import re

from mpsearch.graph.model import Layer, ModelGraph

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LONGEST = 512
_WEIGHT = ".weight"


def module_of(layer: Layer) -> str:
    """Return the qualified name of the module whose ``weight`` the layer multiplies with; "" if unknown.

    That is the scope that the exporter to ONNX noted, else what the initialiser's name says before ``.weight``.
    """
    if layer.fqn:
        return layer.fqn
    source = layer.gemms[0].right.source
    return source.removesuffix(_WEIGHT) if source.endswith(_WEIGHT) else ""


def refuse_linear(graph: ModelGraph, layer: Layer) -> str:
    """Return why ``layer`` is no Linear module of a checkpoint; "" where it is one.

    Args:
        graph: The folded model.
        layer: One of its layers, with a weight.
    """
    right = layer.gemms[0].right
    is_matrix = (
        layer.op_type in ("MatMul", "Gemm")
        and right.input_index == 1
        and len(right.channel_axes) == 1
        and layer.gemms[0].positions == layer.gemms[0].groups == 1
    )
    if not is_matrix:
        return (
            f"{layer.name!r}: checkpoints quantise Linear modules, x times one matrix [out, in], but this is a "
            f"{layer.op_type}"
        )
    module = module_of(layer)
    if not module:
        return (
            f"{layer.name!r}: the module that it is must be known, but the model names none; import it with "
            "mp.import_torch, or export it by torch.onnx.export(..., dynamo=True)"
        )
    if right.value == right.source and right.source.endswith(_WEIGHT) and right.reduction_axis == 0:
        return (
            f"{layer.name!r}: checkpoints quantise Linear modules, [out, in], but {right.source!r} is stored [in, out], as "
            "GPT-2's Conv1D stores it"
        )
    for other in graph.layers:
        if other.has_weight and module_of(other) == module and not _is_alike(layer, other):
            return (
                f"{layer.name!r}: a module has one weight, but {module!r} would be {right.value!r} here and "
                f"{other.gemms[0].right.value!r} in {other.name!r}"
            )
    owner, _, kind = right.source.rpartition(".")
    if owner and kind != "weight":
        return f"{layer.name!r}: it must multiply with the weight of a Linear module, got {_short(right.source)}"
    return refuse_name(module)


def _is_alike(one: Layer, other: Layer) -> bool:
    """Whether two layers multiply with the same matrix, along the same axes."""
    first, second = one.gemms[0].right, other.gemms[0].right
    return (first.value, first.reduction_axis) == (second.value, second.reduction_axis)


def refuse_name(module: str) -> str:
    """Return why a module's name cannot stand in a checkpoint's configuration; "" where it can.

    Configurations hold names beside patterns, so that a name must not be read as one.
    """
    if _NAME.fullmatch(module) and len(module) <= _LONGEST:
        return ""
    return (
        f"a module's name must consist of letters, digits, _ and -, joined by dots, of at most {_LONGEST} "
        f"characters, got {_short(module)}"
    )


def _short(name: str) -> str:
    shown = name if len(name) <= 80 else f"{name[:80]}… ({len(name)} characters)"
    return repr(shown)
