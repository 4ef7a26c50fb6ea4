"""The source model's module names, from what exporters leave in the file."""

import ast

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"


def module_name(node: onnx.NodeProto) -> str:
    """Return the qualified name of the module that ``node`` was exported from, "" if unknown.

    torch's exporter writes the scopes as metadata; its predecessor wrote them into the node's name
    (``/encoder/layer.0/query/MatMul``).
    """
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return _from_scopes(entry.value)
    if node.name.startswith("/"):
        return ".".join(part for part in node.name.split("/")[1:-1] if part)
    return ""


def _from_scopes(text: str) -> str:
    """Return the innermost module of scopes such as ``['', 'fc', 'linear']``; the last is the call."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return ""
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        return ""
    return next((scope for scope in reversed(scopes[:-1]) if scope), "")
