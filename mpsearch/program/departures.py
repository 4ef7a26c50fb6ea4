"""Nodes that run as onnxruntime and OpenVINO agree to run them, where the standard says something else.

A plan is for runtimes, so its losses and ranges must be those of the network that they run.
"""

import warnings
from collections.abc import Iterable, Sequence

from mpsearch.graph.model import ModelGraph, Node
from mpsearch.program.operators.attributes import integers, text


class DepartureWarning(UserWarning):
    """A node is computed as runtimes agree to, not as the standard says."""


def find_departures(graph: ModelGraph) -> dict[str, str]:
    """Return node name to how runtimes depart from the standard there; sizes that are not known count as such."""
    found = {}
    for node in graph.nodes:
        if node.op_type in ("Resize", "Upsample"):
            reason = _resized_by_a_fraction(node, graph)
        elif node.op_type == "ConvTranspose":
            reason = _smaller_than_strides(node, graph)
        else:
            continue
        if reason:
            found[node.name] = reason
    return found


def warn_of_departures(graph: ModelGraph) -> None:
    """Warn once of all such nodes, by name."""
    found = find_departures(graph)
    if found:
        named = "; ".join(f"node {name!r}: {reason}" for name, reason in found.items())
        warnings.warn(
            f"computed as onnxruntime and OpenVINO agree, which is not as the standard says: {named}",
            DepartureWarning,
            stacklevel=3,
        )


def _resized_by_a_fraction(node: Node, graph: ModelGraph) -> str:
    where = "half_pixel" if node.version > 10 else "asymmetric"
    where = text(node, "coordinate_transformation_mode", where)
    if text(node, "mode", "nearest") != "nearest" and where in ("half_pixel", "asymmetric"):
        return ""
    scales = _scales(node, graph)
    if scales is None:
        return ""
    sizes = _shape(node.inputs[0], graph, len(scales))
    axes = integers(node, "axes") or range(len(scales))
    for axis, scale in zip(axes, scales, strict=True):
        size = sizes[axis] if -len(sizes) <= axis < len(sizes) else None
        whole = (
            scale == int(scale) if size is None else abs(size * scale - round(size * scale)) < 1e-4
        )
        if not whole:
            return f"Resize by the scale {scale:g} makes no whole size of axis {axis}"
    return ""


def _scales(node: Node, graph: ModelGraph) -> Sequence[float] | None:
    """The scales of a Resize, where they are known and not sizes."""
    given = node.attributes.get("scales")
    if isinstance(given, Iterable):
        return [float(s) for s in given]
    position = 1 if node.version < 11 or node.op_type == "Upsample" else 2
    name = node.inputs[position] if len(node.inputs) > position else ""
    constant = graph.constants.get(name)
    return None if constant is None or not constant.size else constant.reshape(-1).tolist()


def _smaller_than_strides(node: Node, graph: ModelGraph) -> str:
    if text(node, "auto_pad", "NOTSET") not in ("SAME_UPPER", "SAME_LOWER"):
        return ""
    kernel = _shape(node.inputs[1], graph, 0)[2:]
    if not kernel or integers(node, "output_shape") is not None:
        return ""
    ones, zeros = [1] * len(kernel), [0] * len(kernel)
    strides, dilations = (integers(node, name) or ones for name in ("strides", "dilations"))
    extra = integers(node, "output_padding") or zeros
    for axis, size in enumerate(kernel):
        if size and (size - 1) * dilations[axis] + 1 + extra[axis] < strides[axis]:
            return f"ConvTranspose with auto_pad gives less than input × stride {strides[axis]}"
    return ""


def _shape(name: str, graph: ModelGraph, rank: int) -> Sequence[int | None]:
    if name in graph.constants:
        return graph.constants[name].shape
    value = graph.values.get(name)
    return [None] * rank if value is None or value.shape is None else value.shape
