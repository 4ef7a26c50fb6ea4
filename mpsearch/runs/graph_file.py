"""``graph.json``: what a model is made of, in shapes and names, without nodes and weights."""

from collections.abc import Mapping
from pathlib import Path

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.graph.model import Coverage, Edge, Group, Layer, ModelGraph, Value


class _GraphContent(Content):
    name: str
    opset: int
    batch: int
    structure_digest: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]
    groups: tuple[Group, ...]
    coverage: Coverage


def write_graph(graph: ModelGraph, path: Path, *, inputs: Mapping[str, str] = {}) -> str:
    """Write everything of ``graph`` but nodes and weights, and return the file's digest."""
    names = (name for name in _GraphContent.model_fields if name != "extensions")
    content = _GraphContent(**{name: getattr(graph, name) for name in names})
    return write_artifact(path, "graph", content, inputs=inputs)


def read_graph(path: Path) -> ModelGraph:
    """Read a graph that :func:`write_graph` wrote; its nodes and constants are empty.

    Raises:
        ArtifactError: The file is missing, damaged or of another kind.
    """
    content = read_artifact(path, "graph", _GraphContent)
    return ModelGraph(
        name=content.name,
        nodes=(),
        constants={},
        inputs=content.inputs,
        outputs=content.outputs,
        values={},
        layers=content.layers,
        edges=content.edges,
        groups=content.groups,
        coverage=content.coverage,
        batch=content.batch,
        opset=content.opset,
        structure_digest=content.structure_digest,
    )
