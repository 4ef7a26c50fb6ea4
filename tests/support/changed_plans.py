"""A model with layers of every kind, and changes of its tensors such as recovery and training make."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from mpsearch.data.batches import Batches, make_batches
from mpsearch.formats import find_format
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.elements import round_elements
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.changes import bring_changes
from mpsearch.plan.make import make_plan
from mpsearch.plan.plan import Plan
from mpsearch.problem.front import Point
from mpsearch.program.tensors import to_tensor
from mpsearch.schemes import Scheme, find_scheme
from mpsearch.simulate.changes import Changes, output_channels
from mpsearch.simulate.layer_weight import quantize_layer_weight
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.graph_models import model, noise, save, tensor

C = 24  # no whole blocks of 16 and 32, whole sparse groups


def every_kind(*, groups: int = 1) -> onnx.ModelProto:
    """Convolutions plain, depthwise, grouped and transposed, Gemm and MatMul, each with and without a bias.

    ``groups`` are those of a transposed one, in which onnx's reference evaluator fails for more than one.
    """
    node = helper.make_node
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["h0"], "conv", **pads),
        node("Relu", ["h0"], ["r0"], "relu"),
        node("Conv", ["r0", "w1"], ["h1"], "depthwise", group=C, **pads),
        node("Conv", ["h1", "w2", "b2"], ["h2"], "grouped", group=2, **pads),
        node("Mul", ["h2", "gain"], ["m2"], "scaled"),
        node("ConvTranspose", ["m2", "w3"], ["h3"], "transposed", strides=[2, 2]),
        node("ConvTranspose", ["h3", "w4", "b4"], ["h4"], "both", group=groups),
        node("GlobalAveragePool", ["h4"], ["g"], "pool"),
        node("Flatten", ["g"], ["f"], "flat"),
        node("Gemm", ["f", "w5", "b5"], ["h5"], "gemm", transB=1),
        node("Gemm", ["h5", "w6"], ["h6"], "bare"),
        node("Gemm", ["h6", "w7", "b7"], ["h7"], "scaled_bias", beta=0.5),
        node("MatMul", ["h7", "w8"], ["h8"], "matmul"),
        node("Add", ["h8", "b8"], ["a8"], "add"),
        node("MatMul", ["a8", "w9"], ["y"], "last"),
    ]
    shapes = {
        **{"w0": (C, C, 3, 3), "b0": (C,), "w1": (C, 1, 3, 3), "w2": (C, C // 2, 3, 3), "b2": (C,)},
        **{"w3": (C, C, 2, 2), "w4": (C, C // groups, 1, 1), "b4": (C,), "w5": (C, C), "b5": (C,)},
        **{"w6": (C, C), "w7": (C, C), "b7": (C,), "w8": (C, C), "b8": (C,), "w9": (C, 40)},
        "gain": (C, 1, 1),
    }
    tensors = [
        numpy_helper.from_array(numpy_helper.to_array(tensor(name, *shape)) * 0.6, name)
        for name, shape in shapes.items()
    ]
    return model(nodes, {"x": ["n", C, 4, 4]}, ["y"], tensors)


def some_data(n: int = 6, seed: int = 0) -> Batches:
    return make_batches({"x": noise(n, C, 4, 4, seed=seed)}, batch_size=4)


def change_weight(graph: ModelGraph, layer: int, gemm: int, scheme: Scheme) -> QuantizedTensor:
    """A weight that no scheme's own rule makes of the model's: other values, and scales that are not their amax's."""
    owner = graph.layers[layer]
    plain = to_tensor(graph.constants[owner.gemms[gemm].right.value])
    rng = torch.Generator().manual_seed(layer)
    moved = plain + 0.05 * torch.randn(plain.shape, generator=rng).to(plain.dtype)
    made = quantize_layer_weight(owner, gemm, scheme, moved)
    if made.scales is None:
        return made
    kind = find_format(str(scheme.weight.scale_format))
    halved = torch.rand(made.scales.shape, generator=rng) < 0.5
    lower = made.scales / 2
    exact = (lower > 0) if kind.name == "e8m0" else round_elements(lower, kind) == lower
    return replace(made, scales=torch.where(halved & exact, lower, made.scales))


def change_all(graph: ModelGraph, schemes: Sequence[Scheme]) -> Changes:
    """Every weight, every bias that there can be, and one constant that no layer reads."""
    rng = torch.Generator().manual_seed(1)
    weights, biases = {}, dict[int, Tensor]()
    for i, layer in enumerate(graph.layers):
        for j, gemm in enumerate(layer.gemms):
            if gemm.has_weight:
                weights[i, j] = change_weight(graph, i, j, schemes[i])
        channels = output_channels(graph, i)
        if channels is not None:
            biases[i] = 0.1 * torch.randn(channels, generator=rng)
    constants = {"gain": np.asarray(graph.constants["gain"]) * np.float32(1.25)}
    return Changes(weights, biases, constants)


def changed_plan(
    folder: Path, name: str, *, base: str = "fp16", groups: int = 1
) -> tuple[Path, Simulator, np.ndarray, Changes, Plan]:
    """The model's file, a simulator, an assignment of ``name`` where it is allowed, all changed, and its plan."""
    path = save(every_kind(groups=groups), folder)
    graph = import_onnx(path)
    names = dict.fromkeys((base, name))
    space = SearchSpace("s", tuple(map(find_scheme, names)), base)
    simulator = Simulator(graph, space, some_data())
    chosen = np.array([space.index(name) if ok else 0 for ok in simulator.allowed[:, -1]])
    plan = make_plan(Point(tuple(map(int, chosen)), {}), simulator)
    schemes = [space.schemes[s] for s in chosen]
    changes = change_all(simulator.graph, schemes)
    made = bring_changes(plan, simulator.graph, changes, recovery=("gptq", "bias"))
    return path, simulator, chosen, changes, made
