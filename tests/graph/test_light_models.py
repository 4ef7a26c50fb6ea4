"""Nine real architectures that ship with onnx: their known sizes, and outputs as onnxruntime's."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from mpsearch.graph.importer import import_model, import_onnx
from mpsearch.program.compile import compile_graph
from mpsearch.program.schedule import make_schedule, run_schedule
from tests.support.golden_text import GOLDEN, describe
from tests.support.graph_models import assert_same_outputs, noise, run

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
    "shufflenet": (50, 1.37, 124.66, {"stem": 1, "depthwise": 16, "pointwise": 32}),
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


@pytest.mark.parametrize("name", EXPECTED)
def test_layers_roles_and_groups_are_those_that_were_checked_by_hand(name: str) -> None:
    graph = import_onnx(LIGHT / f"light_{name}.onnx")
    assert describe(graph) == (GOLDEN / f"light_{name}.txt").read_text()


def with_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Fill the weights, all alike in the file: a thousand equal scores of 3e10 say nothing after a softmax."""
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(
        1_000_003, np.float32
    )  # a prime: no two channels of any layer are alike
    given = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in list(proto.graph.node):
        if node.op_type != "ConstantOfShape":
            continue
        shape = given[node.input[0]]
        if len(shape) > 1:
            values = np.resize(pool, shape) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        else:
            values = rng.uniform(0.5, 1.5, shape)
        tensor = numpy_helper.from_array(values.astype(np.float32), node.output[0])
        proto.graph.initializer.append(tensor)
        proto.graph.node.remove(node)
    return proto


@pytest.mark.parametrize("name", ["densenet121", "inception_v2", "shufflenet", "squeezenet"])
def test_outputs(name: str) -> None:
    original = with_weights(onnx.load(LIGHT / f"light_{name}.onnx"))
    graph = import_model(original, name, LIGHT)
    feeds = {graph.inputs[0].name: noise(1, 3, 224, 224)}
    assert_same_outputs(original, graph, feeds, tolerance=1e-4)


LARGE = ("bvlc_alexnet", "vgg19", "zfnet512")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in EXPECTED]
)
def test_the_simulators_program_computes_what_onnxruntime_does(name: str) -> None:
    proto = with_weights(onnx.load(LIGHT / f"light_{name}.onnx"))
    graph = import_model(proto, name, LIGHT)
    program = compile_graph(graph)
    x = noise(1, 3, 224, 224)
    (expected,) = run(proto, {graph.inputs[0].name: x})
    wanted = [program.slots[graph.outputs[0].name]]
    values = program.make_values()
    values[program.slots[graph.inputs[0].name]] = torch.from_numpy(x)
    with torch.inference_mode():
        run_schedule(make_schedule(program, wanted), values)
    found = values[wanted[0]]
    assert isinstance(expected, np.ndarray)
    assert found is not None
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4 * scale)
