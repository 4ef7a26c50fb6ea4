"""Nine real architectures that ship with onnx: their known sizes, and outputs as onnxruntime's."""

from pathlib import Path

import onnx
import pytest
from graph_models import assert_same_outputs, noise

from mpsearch.graph.importer import import_onnx

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

# Name: layers, million weights, million multiplications; roles that stand out.
# Published multiplication counts: VGG-19 19.6 G, ResNet-50 4.09 G, DenseNet-121 2.83 G,
# SqueezeNet 0.35 G; the others are summed by hand from their layer tables.
EXPECTED = {
    "bvlc_alexnet": (8, 60.95, 655, {"stem": 1, "head.classification": 1}),
    "densenet121": (121, 7.89, 2834, {"stem": 1, "pointwise": 61}),
    "inception_v1": (58, 6.99, 1432, {"stem": 1, "head.classification": 1}),
    "inception_v2": (70, 11.17, 2019, {"stem": 1, "head.classification": 1}),
    "resnet50": (54, 25.50, 4089, {"stem": 1, "pointwise": 36, "head.classification": 1}),
    "shufflenet": (50, 1.37, 124.66, {"stem": 1, "depthwise": 16, "head.classification": 1}),
    "squeezenet": (26, 1.23, 349, {"stem": 1, "head.classification": 1}),
    "vgg19": (19, 143.65, 19632, {"stem": 1, "head.classification": 1}),
    "zfnet512": (8, 87.24, 1482, {"stem": 1, "head.classification": 1}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_layers_weights_multiplications_and_roles(name: str) -> None:
    n_layers, weights, products, roles = EXPECTED[name]
    graph = import_onnx(LIGHT / f"light_{name}.onnx")
    assert len(graph.layers) == n_layers
    assert graph.coverage.parameters / 1e6 == pytest.approx(weights, abs=0.01)
    assert graph.coverage.flops / 2e6 == pytest.approx(products, rel=1e-3)
    found = [layer.role for layer in graph.layers]
    assert {role: found.count(role) for role in roles} == roles
    assert (
        not [n for n in graph.nodes if n.op_type == "BatchNormalization"] or name == "densenet121"
    )


@pytest.mark.parametrize("name", ["densenet121", "inception_v2", "shufflenet", "squeezenet"])
def test_outputs(name: str) -> None:
    path = LIGHT / f"light_{name}.onnx"
    original, graph = onnx.load(path), import_onnx(path)
    feeds = {graph.inputs[0].name: noise(1, 3, 224, 224)}
    assert_same_outputs(original, graph, feeds, tolerance=1e-4)
