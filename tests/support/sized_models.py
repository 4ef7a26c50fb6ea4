"""Models whose weights are stored in every way that there is, each with inputs."""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.support import attention_models
from tests.support.failing_models import draw_failing
from tests.support.graph_models import integers, model, noise, tensor
from tests.support.random_models import FORMS, draw_model
from tests.support.torch_models import attention_net, conv_net
from tests.support.wrapped_operators import draw_wrapped

Arrays = dict[str, NDArray[np.generic]]
Made = tuple[onnx.ModelProto, Arrays]
node = helper.make_node


def tied_table(*, transposed: bool) -> Made:
    """Rows of a table are looked up, and it is the head: transposed by a node, or as Gemm reads it."""
    ids = {"ids": np.random.default_rng(0).integers(0, 100, (8, 6))}
    nodes = [node("Gather", ["table", "ids"], ["e"], name="lookup")]
    if transposed:
        nodes += [
            node("Transpose", ["table"], ["turned"], perm=[1, 0]),
            node("MatMul", ["e", "turned"], ["y"], name="head"),
        ]
    else:
        nodes += [
            node("ReduceMean", ["e", "one"], ["m"], keepdims=0),
            node("Gemm", ["m", "table"], ["y"], name="head", transB=1),
        ]
    tensors = [tensor("table", 100, 32), integers("one", [1])]
    return model(nodes, {"ids": ["n", 6]}, ["y"], tensors, opset=18, types={"ids": 7}), ids


def slices() -> Made:
    """Three layers that read columns of one stored tensor, as fused projections are cut apart."""
    nodes, tensors = [], [tensor("w", 32, 96), integers("axis", [1])]
    for i in range(3):
        tensors += [integers(f"from{i}", [32 * i]), integers(f"to{i}", [32 * i + 32])]
        nodes += [
            node("Slice", ["w", f"from{i}", f"to{i}", "axis"], [f"w{i}"]),
            node("MatMul", ["x" if i == 0 else f"h{i - 1}", f"w{i}"], [f"h{i}"], name=f"m{i}"),
        ]
    return model(nodes, {"x": ["n", 32]}, ["h2"], tensors), {"x": noise(8, 32)}


def both_ways() -> Made:
    """An autoencoder whose decoder is its encoder transposed: one tensor, read along both axes."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="encoder"),
        node("Relu", ["h"], ["r"]),
        node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        node("MatMul", ["r", "wt"], ["y"], name="decoder"),
    ]
    return model(nodes, {"x": ["n", 48]}, ["y"], [tensor("w", 48, 16)]), {"x": noise(8, 48)}


def read_by_others() -> Made:
    """A weight that is also an output and whose norm is added."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w"], ["z"], name="second"),
        node("Mul", ["x", "scale"], ["s"]),
        node("Add", ["z", "s"], ["y"]),
        node("Identity", ["v"], ["kept"]),
        node("MatMul", ["y", "v"], ["out"], name="third"),
    ]
    tensors = [tensor("w", 24, 24), tensor("scale", 24), tensor("v", 24, 40)]
    return model(nodes, {"x": ["n", 24]}, ["out", "kept"], tensors), {"x": noise(8, 24)}


def same_in_branches() -> Made:
    """One weight in both branches of an If, and before it."""

    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            node("MatMul", ["h", "w"], [f"{name}.h"], name=f"{name}.m"),
            node("Tanh" if name == "yes" else "Relu", [f"{name}.h"], [f"{name}.y"]),
        ]
        info = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [info])

    nodes = [
        node("MatMul", ["x", "v"], ["h"], name="before"),
        node("ReduceSum", ["h"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["cond"]),
        node("If", ["cond"], ["y"], then_branch=branch("yes"), else_branch=branch("no")),
        node("MatMul", ["y", "u"], ["out"], name="after"),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    tensors = [tensor("w", 32, 32), tensor("v", 20, 32), tensor("u", 32, 12), zero]
    return model(nodes, {"x": ["n", 20]}, ["out"], tensors), {"x": noise(8, 20)}


def convolutions() -> Made:
    """Channels that fill no block: a stem, depthwise, grouped, transposed and pointwise ones."""
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], name="stem", pads=[1] * 4),
        node("Conv", ["c0", "w1"], ["c1"], name="depthwise", pads=[1] * 4, group=24),
        node("Conv", ["c1", "w2"], ["c2"], name="grouped", pads=[1] * 4, group=3),
        node("ConvTranspose", ["c2", "w3"], ["c3"], name="up", strides=[2, 2], group=2),
        node("Conv", ["c3", "w4"], ["y"], name="point"),
    ]
    tensors = [
        tensor("w0", 24, 3, 3, 3),
        tensor("b0", 24),
        tensor("w1", 24, 1, 5, 3),
        tensor("w2", 36, 8, 3, 3),
        tensor("w3", 36, 10, 2, 2),
        tensor("w4", 40, 20, 1, 1),
    ]
    return model(nodes, {"x": ["n", 3, 7, 7]}, ["y"], tensors), {"x": noise(8, 3, 7, 7)}


def products() -> Made:
    """Matrices of odd sizes, one a batch entry, an einsum, a weight on the left."""
    nodes = [
        node("MatMul", ["x", "w0"], ["a"], name="batched"),
        node("Einsum", ["a", "w1"], ["b"], name="einsum", equation="nhk,kj->nhj"),
        node("MatMul", ["b", "w2"], ["c"], name="wide"),
        node("MatMul", ["w3", "c"], ["y"], name="left"),
    ]
    tensors = [
        tensor("w0", 3, 20, 24),
        tensor("w1", 24, 130),
        tensor("w2", 130, 9),
        tensor("w3", 5, 3),
    ]
    shape = {"x": ["n", 3, 1, 20]}
    nodes.insert(1, node("Squeeze", ["a", "two"], ["s"]))
    nodes[2].input[0] = "s"
    return model(nodes, shape, ["y"], [*tensors, integers("two", [2])]), {"x": noise(8, 3, 1, 20)}


def recurrent() -> Made:
    """An LSTM and a GRU: input and state weights."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w", "r"], ["h"], name="lstm", hidden_size=12),
        node("Squeeze", ["h", "one"], ["s"]),
        node("GRU", ["s", "w2", "r2"], ["g"], name="gru", hidden_size=8),
        node("Squeeze", ["g", "one"], ["q"]),
        node("Transpose", ["q"], ["y"], perm=[1, 0, 2]),
    ]
    tensors = [
        tensor("w", 1, 48, 10),
        tensor("r", 1, 48, 12),
        tensor("w2", 1, 24, 12),
        tensor("r2", 1, 24, 8),
        integers("one", [1]),
    ]
    return model(nodes, {"x": ["n", 5, 10]}, ["y"], tensors), {"x": noise(8, 5, 10)}


def half(kind: int) -> Made:
    """A model that is 16 bits wide itself, one of its weights read by two layers and an output."""
    nodes = [
        node("Cast", ["x"], ["c"], to=kind),
        node("MatMul", ["c", "w"], ["h"], name="first"),
        node("MatMul", ["h", "w"], ["z"], name="second"),
        node("Add", ["z", "row"], ["a"]),
        node("Cast", ["a"], ["y"], to=TensorProto.FLOAT),
        node("Gather", ["w", "zero"], ["row"], axis=0),
    ]
    nodes.insert(0, nodes.pop())
    weight = helper.make_tensor("w", kind, [24, 24], noise(24, 24).reshape(-1))
    return (
        model(nodes, {"x": ["n", 24]}, ["y"], [weight, integers("zero", 0)]),
        {"x": noise(8, 24)},
    )


def _torch(made: onnx.ModelProto, **shapes: tuple[int, ...]) -> Made:
    rng = np.random.default_rng(0)
    feeds: Arrays = {}
    for value in made.graph.input:
        shape = shapes[value.name]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feeds[value.name] = rng.integers(0, 2, shape)
    return made, feeds


MODELS: MappingProxyType[str, Callable[[], Made]] = MappingProxyType(
    {
        "tied table, transposed": lambda: tied_table(transposed=True),
        "tied table": lambda: tied_table(transposed=False),
        "slices": slices,
        "both ways": both_ways,
        "read by others": read_by_others,
        "same in branches": same_in_branches,
        "convolutions": convolutions,
        "products": products,
        "recurrent": recurrent,
        "fp16": lambda: half(TensorProto.FLOAT16),
        "bf16": lambda: half(TensorProto.BFLOAT16),
        "conv net": lambda: _torch(conv_net(), x=(8, 3, 12, 16)),
        "attention net": lambda: _torch(attention_net(), ids=(8, 6), mask=(8, 6)),
        "fused encoder": attention_models.fused_encoder,
        "causal": attention_models.causal_fused,
        "separate heads": attention_models.separate_heads,
        **{f"drawn {form}": lambda i=i: draw_model(i)[1:] for i, form in enumerate(FORMS)},
    }
)
"""Name to what makes model and inputs; small enough for every scheme."""

MORE: MappingProxyType[str, Callable[[], Made | None]] = MappingProxyType(
    {
        **{f"drawn {i}": lambda i=i: draw_model(i)[1:] for i in range(len(FORMS), 12 * len(FORMS))},
        **{f"failing {i}": lambda i=i: draw_failing(i)[1:] for i in range(10)},
        **{
            f"wrapped {i}": lambda i=i: None if (found := draw_wrapped(i)) is None else found[1:]
            for i in range(60)
        },
    }
)
"""The same of all that is drawn; None where a number draws nothing."""
