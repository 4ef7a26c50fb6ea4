"""What a plan is said to run beside the fp32 model is what onnxruntime's optimised graph of its export holds."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mpsearch.cost.device import Device
from mpsearch.cost.executed.kernel_shapes import find_kernel_shapes, find_sizes
from mpsearch.cost.executed.network import read_network
from mpsearch.cost.executed.steps import find_steps, network_us
from mpsearch.cost.executed.table import (
    MeasuredBoundary,
    MeasuredKernel,
    MeasuredModel,
    MeasuredTable,
)
from mpsearch.data.batches import Batches
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.profile.onnxruntime import find_layouts
from mpsearch.schemes import Scheme, find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.integer_models import branching_net, pictures
from tests.support.torch_models import attention_net, sentences

SPACE = SearchSpace("s", tuple(map(find_scheme, ("fp32", "int8"))), "fp32")
LAYOUTS = ("ReorderInput", "ReorderOutput", "Transpose")
INTEGER = ("QLinearConv", "QGemm", "MatMulIntegerToFloat", "QLinearMatMul")


def made_device(graph: ModelGraph, model: Path) -> Device:
    """A device whose every kernel and change of layout takes 1 microsecond."""
    keys = {shape.key for shape in find_kernel_shapes(graph) if shape}
    kernels = tuple(
        MeasuredKernel(
            kernel=key,
            form=form,
            us=1,
            leave_us=int("Conv" in key),
            enter_us=int("Conv" in key and (form == "integer" or "16x3x3x3" not in key)),
        )
        for key in sorted(keys)
        for form in ("float", "integer")
    )
    sizes = {find_sizes(graph, name) for name in graph.values}
    texts = sorted("x".join(map(str, size)) for size in sizes if size)
    layouts = find_layouts(model)
    whole = MeasuredModel(
        model=graph.name,
        structure_digest=graph.structure_digest,
        batch=graph.batch,
        float_us=100,
        plain=(*layouts.entered, *layouts.left),
        entered=layouts.entered,
    )
    table = MeasuredTable(
        runtime="onnxruntime",
        version="",
        noise=0,
        kernels=kernels,
        boundaries=tuple(
            MeasuredBoundary(shape=text, quantize_us=1, dequantize_us=1, emulate_us=1)
            for text in texts
        ),
        models=(whole,),
    )
    return Device(
        name="d",
        title="d",
        model="measured",
        bandwidth_gb_s=1,
        peak_tflops={"fp32": 1},
        formats=("fp32",),
        measured=table,
    )


def optimised(model: Path, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def layer_schemes(graph: ModelGraph, chosen: np.ndarray) -> list[Scheme]:
    schemes = [SPACE.schemes[0]] * len(graph.layers)
    for group, s in zip(graph.groups, chosen, strict=True):
        for i in group.layers:
            schemes[i] = SPACE.schemes[int(s)]
    return schemes


@pytest.mark.parametrize(
    ("model", "data"), [(branching_net(), pictures()), (attention_net(), sentences())]
)
def test_roundings_ways_back_layouts_and_integer_kernels_are_counted_as_they_run(
    tmp_path: Path, model: onnx.ModelProto, data: Batches
) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    graph = import_onnx(path)
    network = read_network(graph, made_device(graph, path))
    simulator = Simulator(graph, SPACE, data)
    plain = optimised(path, tmp_path)
    layouts = LAYOUTS if plain["Conv"] else ()  # products in fp32 take Transposes of the model in
    rng = np.random.default_rng(0)
    plans = [np.ones(len(graph.groups), int), *(rng.random((10, len(graph.groups))) < 0.5)]
    for i, chosen in enumerate(plans):
        point = Point(tuple(int(s) for s in chosen), {})
        export_plan(make_plan(point, simulator), path, tmp_path / str(i), target="onnxruntime")
        seen = optimised(tmp_path / str(i) / "model.onnx", tmp_path)
        found = list(find_steps(network, layer_schemes(graph, chosen)))
        steps = Counter(step.kind if step.us > 0 else "gone" for step in found)
        assert steps["rounding"] == seen["QuantizeLinear"]
        assert steps["way back"] == seen["DequantizeLinear"]
        assert steps["kernel"] == sum(seen[name] for name in INTEGER)
        changes = sum(seen[name] - plain[name] for name in layouts)
        assert sum(np.sign(step.us) for step in found if step.kind == "layout") == changes
    assert network_us(network, [SPACE.schemes[0]] * len(graph.layers)) == 100
