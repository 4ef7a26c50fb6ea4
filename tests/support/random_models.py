"""Random small models: layers among other operators, in every way that a file can state them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.generic]
ROWS = 4
FORMS = (
    "plain", "fp16", "bf16", "weight is an output", "unknown rank", "branch", "recurrent",
    "shared weight", "weight through operators", "16-bit weights cast",
)  # fmt: skip


@dataclass(slots=True)
class Net:
    """A model under construction.

    Attributes:
        rng: Draws everything.
        form: What is special about it.
        kind: Element type of its own tensors.
    """

    rng: np.random.Generator
    form: str
    kind: int = TensorProto.FLOAT
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    more_outputs: dict[str, list[int]] = field(default_factory=dict)

    def chance(self, p: float = 0.5) -> bool:
        return bool(self.rng.random() < p)

    def between(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, list(inputs), [f"{name}:0"], name, **attributes)
        )
        return f"{name}:0"

    def weight(self, *shape: int, fan: int = 0) -> str:
        """Return the name of a weight, stated as the form has it."""
        name = f"w{len(self.tensors)}"
        fan = fan or int(np.prod(shape[1:]))
        values = (self.rng.standard_normal(shape) / fan**0.5).astype(np.float32)
        if self.form == "16-bit weights cast":
            kind = TensorProto.FLOAT16 if self.chance() else TensorProto.BFLOAT16
            self.tensors.append(helper.make_tensor(name, kind, shape, values.ravel()))
            return self.add("Cast", name, to=TensorProto.FLOAT)
        self.tensors.append(helper.make_tensor(name, self.kind, shape, values.ravel()))
        if self.form == "weight is an output" and self.chance(0.6):
            self.more_outputs[name] = list(shape)
        if self.form == "weight through operators":
            return self.add("Identity", name) if self.chance() else self.add("Neg", name)
        return name

    def constant(self, array: Array) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name


def dense(net: Net, x: str, width: int) -> tuple[str, int]:
    """A product along the last axis."""
    out = net.between(2, 20)
    return net.add("MatMul", x, net.weight(width, out, fan=width)), out


def biased(net: Net, x: str, width: int) -> tuple[str, int]:
    y, out = dense(net, x, width)
    return net.add("Add", y, net.weight(out, fan=4)), out


def shaped(net: Net, x: str, width: int) -> tuple[str, int]:
    op_type = str(net.rng.choice(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus"]))
    return net.add(op_type, x), width


def gated(net: Net, x: str, width: int) -> tuple[str, int]:
    a = net.add("MatMul", x, net.weight(width, 8, fan=width))
    b = net.add("MatMul", x, net.weight(width, 8, fan=width))
    return net.add("Mul", net.add("Sigmoid", a), b), 8


def residual(net: Net, x: str, width: int) -> tuple[str, int]:
    inner = net.add("Relu", net.add("MatMul", x, net.weight(width, 12, fan=width)))
    return net.add("Add", net.add("MatMul", inner, net.weight(12, width, fan=12)), x), width


def softened(net: Net, x: str, width: int) -> tuple[str, int]:
    return net.add("Softmax", x, axis=-1), width


def twice(net: Net, x: str, width: int) -> tuple[str, int]:
    """One weight in two products."""
    w = net.weight(width, width, fan=width)
    return net.add("MatMul", net.add("Relu", net.add("MatMul", x, w)), w), width


def branched(net: Net, x: str, width: int) -> tuple[str, int]:
    """An If whose branches hold layers; which one runs is the same for any samples, but no constant."""
    largest = net.add("ReduceMax", net.add("Abs", x), keepdims=0)
    flag = net.add("Greater", largest, net.constant(np.float32(-1 if net.chance() else 1e9)))
    graphs = []
    for _ in range(2):
        inner = Net(net.rng, "plain")
        inner.tensors = net.tensors  # weights of the outer graph
        y, _ = dense(inner, x, width)
        y = inner.add("MatMul", y, inner.weight(_, 6, fan=6))
        for node in inner.nodes:
            tag = f"b{len(net.nodes)}{len(graphs)}"
            node.name = f"{tag}{node.name}"
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if ":" in name and name != x:
                        names[i] = f"{tag}{name}"
        y = inner.nodes[-1].output[0]
        out = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        graphs.append(helper.make_graph(inner.nodes, f"g{len(graphs)}", [], [out]))
    return net.add("If", flag, then_branch=graphs[0], else_branch=graphs[1]), 6


def recurrent(net: Net, x: str, width: int) -> tuple[str, int]:
    """A recurrent layer over two steps that [N, width] is cut into."""
    op_type = str(net.rng.choice(["LSTM", "GRU", "RNN"]))
    gates, size = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type], net.between(2, 6)
    direction = str(net.rng.choice(["forward", "reverse", "bidirectional"]))
    d = 2 if direction == "bidirectional" else 1
    y = net.add("Concat", x, net.add("Neg", x), axis=1)
    y = net.add("Reshape", y, net.constant(np.array([-1, 2, width])))
    y = net.add("Transpose", y, perm=[1, 0, 2])
    weights = [net.weight(d, gates * size, k, fan=k) for k in (width, size)]
    more = [net.weight(d, 2 * gates * size, fan=9)] if net.chance() else []
    options = {"linear_before_reset": net.between(0, 1)} if op_type == "GRU" else {}
    y = net.add(op_type, y, *weights, *more, hidden_size=size, direction=direction, **options)
    y = net.add("Transpose", y, perm=[2, 0, 1, 3])
    return net.add("Reshape", y, net.constant(np.array([-1, 2 * d * size]))), 2 * d * size


def convolved(net: Net, x: str, channels: int, size: int) -> tuple[str, int, int]:
    groups = 2 if channels % 2 == 0 and net.chance(0.3) else 1
    out = groups * net.between(1, 8)
    k = net.between(1, min(3, size))
    w = net.weight(out, channels // groups, k, k)
    bias = [net.weight(out, fan=4)] if net.chance() else []
    pads = net.between(0, k // 2)
    y = net.add("Conv", x, w, *bias, group=groups, pads=[pads] * 4)
    return y, out, size + 2 * pads - k + 1


def deconvolved(net: Net, x: str, channels: int, size: int) -> tuple[str, int, int]:
    groups = 2 if channels % 2 == 0 and net.chance(0.4) else 1
    out, k = net.between(1, 4), net.between(1, 3)
    w = net.weight(channels, out, k, k, fan=channels * k)
    stride = net.between(1, 2)
    y = net.add("ConvTranspose", x, w, group=groups, strides=[stride] * 2)
    return y, out * groups, (size - 1) * stride + k


def pooled(net: Net, x: str, channels: int, size: int) -> tuple[str, int, int]:
    op_type = "MaxPool" if net.chance() else "AveragePool"
    return (
        net.add(op_type, x, kernel_shape=[2, 2], strides=[1, 1], pads=[1, 0, 0, 1]),
        channels,
        size,
    )


def normed(net: Net, x: str, channels: int, size: int) -> tuple[str, int, int]:
    names = [net.weight(channels, fan=1) for _ in range(3)]
    if net.kind != TensorProto.FLOAT or net.form == "16-bit weights cast":
        return net.add("Relu", x), channels, size
    variance = net.constant(net.rng.uniform(0.5, 2, channels).astype(np.float32))
    return net.add("BatchNormalization", x, *names, variance), channels, size


def resized(net: Net, x: str, channels: int, size: int) -> tuple[str, int, int]:
    scale = float(net.rng.choice([1.5, 2.0, 0.5 if size > 1 else 2.0]))
    scales = net.constant(np.array([1, 1, scale, scale], np.float32))
    mode = str(net.rng.choice(["nearest", "linear"]))
    y = net.add("Resize", x, "", scales, mode=mode)
    return y, channels, int(size * scale)


FLAT: tuple[Callable[[Net, str, int], tuple[str, int]], ...] = (
    dense, biased, shaped, gated, residual, softened, twice,
)  # fmt: skip
SPATIAL: tuple[Callable[[Net, str, int, int], tuple[str, int, int]], ...] = (
    convolved, deconvolved, pooled, normed, resized,
)  # fmt: skip


def draw_model(number: int) -> tuple[str, onnx.ModelProto, dict[str, Array]]:
    """Return form, model and inputs of a number: always the same ones."""
    rng = np.random.default_rng([13, number])
    form = FORMS[number % len(FORMS)]
    kind = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}.get(form, TensorProto.FLOAT)
    net = Net(rng, form, kind)
    is_spatial = form not in ("branch", "recurrent") and net.chance(0.4)
    channels, size, width = net.between(1, 4), net.between(2, 5), net.between(2, 24)
    shape = [channels, size, size] if is_spatial else [width]
    if not is_spatial and form not in ("branch", "recurrent") and net.chance(0.2):
        shape = [3, width]
    y = "x" if kind == TensorProto.FLOAT else net.add("Cast", "x", to=kind)
    if is_spatial:
        for _ in range(net.between(1, 4)):
            block = SPATIAL[net.between(0, len(SPATIAL) - 1)]
            y, channels, size = block(net, y, channels, max(size, 1))
        y, _, _ = convolved(net, y, channels, size)
    else:
        for i in range(net.between(1, 4)):
            block_flat = FLAT[net.between(0, len(FLAT) - 1)]
            if i == 0 and form in ("branch", "recurrent"):
                block_flat = branched if form == "branch" else recurrent
            elif i == 0 and form == "shared weight":
                block_flat = twice
            y, width = block_flat(net, y, width)
        y, _ = dense(net, y, width)
    if kind != TensorProto.FLOAT:
        y = net.add("Cast", y, to=TensorProto.FLOAT)
    info = helper.make_tensor_value_info
    is_known = form != "unknown rank"
    outputs = [info(y, TensorProto.FLOAT, None if not is_known else ["N"] + [None] * len(shape))]
    outputs += [info(n, net.kind, s) for n, s in net.more_outputs.items()]
    graph = helper.make_graph(
        net.nodes,
        "drawn",
        [info("x", TensorProto.FLOAT, ["N", *shape] if is_known else None)],
        outputs,
        net.tensors,
    )
    version = 22 if form == "bf16" else int(rng.choice([13, 17, 21]))  # convolutions of bf16
    opset = helper.make_opsetid("", version)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return form, model, {"x": rng.standard_normal((2 * ROWS, *shape)).astype(np.float32)}
