"""Roles come from wiring and sizes: every model here carries names that say nothing."""

from pathlib import Path

import onnx
import pytest
from onnx import helper

from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from tests.support.graph_models import integers, model, save, tensor

node = helper.make_node


class Builder:
    """Writes nodes with numbered names, so that no name can help."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.labels: dict[str, str] = {}

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(op_type, list(inputs), [name], name=f"n{name}", **attributes))
        return name

    def weight(self, *shape: int) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors.append(tensor(name, *shape))
        return name

    def ints(self, *values: int) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors.append(integers(name, list(values)))
        return name

    def dense(self, x: str, k: int, n: int, expected: str) -> str:
        """Append a MatMul and a bias; ``expected`` is the role it must get."""
        y = self.op("MatMul", x, self.weight(k, n))
        self.labels[f"n{y}"] = expected
        return self.op("Add", y, self.weight(n))

    def product(self, a: str, b: str, expected: str) -> str:
        y = self.op("MatMul", a, b)
        self.labels[f"n{y}"] = expected
        return y

    def heads(self, x: str) -> str:
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, 4, 4)), perm=[0, 2, 1, 3])

    def attend(self, q: str, k: str, v: str, kind: str) -> str:
        scale = self.weight(1)
        scores = self.product(
            self.heads(q), self.op("Transpose", self.heads(k), perm=[0, 1, 3, 2]), f"{kind}.scores"
        )
        weights = self.op("Softmax", self.op("Mul", scores, scale), axis=-1)
        mixed = self.product(weights, self.heads(v), f"{kind}.values")
        flat = self.op(
            "Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.ints(0, 0, 16)
        )
        return self.dense(flat, 16, 16, f"{kind}.out")

    def attention(self, x: str, memory: str, kind: str) -> str:
        q = self.dense(x, 16, 16, f"{kind}.q")
        k = self.dense(memory, 16, 16, f"{kind}.k")
        v = self.dense(memory, 16, 16, f"{kind}.v")
        return self.op("Add", x, self.attend(q, k, v, kind))

    def norm(self, x: str) -> str:
        return self.op("LayerNormalization", x, self.weight(16), self.weight(16))

    def feed_forward(self, x: str) -> str:
        up = self.dense(self.norm(x), 16, 64, "feed-forward.up")
        halved = self.op("Mul", up, self.weight(1))
        curve = self.op("Add", self.op("Erf", self.op("Div", up, self.weight(1))), self.weight(1))
        bent = self.op("Mul", halved, curve)
        return self.op("Add", x, self.dense(bent, 64, 16, "feed-forward.down"))

    def gated(self, x: str) -> str:
        h = self.norm(x)
        gate = self.dense(h, 16, 48, "feed-forward.gate")
        up = self.dense(h, 16, 48, "feed-forward.up")
        silu = self.op("Mul", gate, self.op("Sigmoid", gate))
        down = self.dense(self.op("Mul", silu, up), 48, 16, "feed-forward.down")
        return self.op("Add", x, down)


def check(
    builder: Builder,
    tmp_path: Path,
    inputs: dict[str, list[object]],
    outputs: list[str],
    **options: object,
) -> ModelGraph:
    proto = model(builder.nodes, inputs, outputs, builder.tensors, **options)  # type: ignore[arg-type]
    graph = import_onnx(save(proto, tmp_path))
    assert {layer.name: layer.role for layer in graph.layers} == builder.labels
    return graph


@pytest.mark.parametrize("gated", [False, True])
def test_a_transformer_encoder(tmp_path: Path, gated: bool) -> None:
    b = Builder()
    x = b.op("Gather", b.weight(50, 16), "ids")
    for _ in range(2):
        x = b.norm(b.attention(b.norm(x), b.nodes[-1].output[0], "attention"))
        x = b.gated(x) if gated else b.feed_forward(x)
    logits = b.dense(x, 16, 5, "head.classification")
    check(b, tmp_path, {"ids": ["n", 6]}, [b.op("Softmax", logits)], types={"ids": 7})


@pytest.mark.parametrize(
    ("ending", "role"),
    [
        ((), "head"),
        (("Tanh",), "head.regression"),
        (("Softplus", "Neg"), "head.regression"),
        (("Softmax",), "head.classification"),
    ],
)
def test_a_regressor_as_wide_as_its_input_ends_in_a_head(
    tmp_path: Path, ending: tuple[str, ...], role: str
) -> None:
    """Without a residual stream the last layer is no feed-forward block's end."""
    b = Builder()
    y = b.dense(b.op("Relu", b.dense("x", 8, 32, "feed-forward.up")), 32, 8, role)
    for op_type in ending:
        y = b.op(op_type, y)
    check(b, tmp_path, {"x": ["n", 8]}, [y])


def test_scores_pooled_behind_a_nonlinearity_are_no_regression(tmp_path: Path) -> None:
    b = Builder()
    x = b.op("Relu", b.op("Conv", "x", b.weight(8, 3, 3, 3)))
    y = b.op("Conv", x, b.weight(10, 8, 1, 1))
    b.labels = {"nv0": "stem", f"n{y}": "head"}
    check(b, tmp_path, {"x": ["n", 3, 9, 9]}, [b.op("GlobalAveragePool", b.op("Relu", y))])


def test_fused_projection_of_query_key_and_value(tmp_path: Path) -> None:
    b = Builder()
    fused = b.dense("x", 16, 48, "attention.qkv")
    parts = [b.op("Slice", fused, b.ints(i * 16), b.ints(i * 16 + 16), b.ints(2)) for i in range(3)]
    y = b.attend(*parts, "attention")
    check(b, tmp_path, {"x": ["n", 6, 16]}, [b.op("Relu", b.dense(y, 16, 1, "head.regression"))])


def test_a_decoder_that_looks_at_an_encoder(tmp_path: Path) -> None:
    b = Builder()
    memory = b.dense("sound", 20, 16, "stem")
    x = b.op("Gather", b.weight(50, 16), "ids")
    x = b.norm(b.attention(x, x, "attention"))
    x = b.norm(b.attention(x, memory, "cross-attention"))
    check(
        b,
        tmp_path,
        {"ids": ["n", 6], "sound": ["n", 9, 20]},
        [b.dense(b.feed_forward(x), 16, 50, "head")],
        types={"ids": 7},
    )


def test_a_mobile_network(tmp_path: Path) -> None:
    b = Builder()

    def conv(x: str, shape: tuple[int, ...], role: str, **attributes: object) -> str:
        y = b.op("Conv", x, b.weight(*shape), **attributes)
        b.labels[f"n{y}"] = role
        return b.op("Relu", y)

    x = conv("x", (8, 3, 3, 3), "stem", strides=[2, 2])
    x = conv(x, (8, 1, 3, 3), "depthwise", group=8)
    x = conv(x, (16, 8, 1, 1), "pointwise")
    x = conv(x, (16, 16, 3, 3), "")
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    y = b.op("Gemm", x, b.weight(16, 10), b.weight(10))
    b.labels[f"n{y}"] = "head.classification"
    check(b, tmp_path, {"x": ["n", 3, 20, 20]}, [b.op("Softmax", y)])


def test_two_modalities_meet(tmp_path: Path) -> None:
    b = Builder()
    picture = b.dense(b.dense("x", 20, 16, "stem"), 16, 8, "projection")
    text = b.dense(b.op("Gather", b.weight(50, 16), "ids"), 16, 8, "projection")
    similar = b.product(picture, b.op("Transpose", text, perm=[0, 2, 1]), "")
    check(b, tmp_path, {"x": ["n", 1, 20], "ids": ["n", 1]}, [similar], types={"ids": 7})


def test_recurrent_layers_in_all_their_forms(tmp_path: Path) -> None:
    b = Builder()
    y = b.op("LSTM", "x", b.weight(1, 16, 8), b.weight(1, 16, 4), hidden_size=4)
    b.labels[f"n{y}"] = "recurrent"
    h, w = b.op("Reshape", y, b.ints(-1, 4)), b.weight(4, 4)
    for _ in range(4):  # one weight, unrolled
        h = b.op("Tanh", b.op("MatMul", h, w))
        b.labels[f"n{b.nodes[-2].output[0]}"] = "recurrent"
    check(b, tmp_path, {"x": [5, 1, 8]}, [h])


def test_siamese_branches_are_not_recurrent(tmp_path: Path) -> None:
    b = Builder()
    w = b.weight(4, 4)
    branches = [b.op("MatMul", name, w) for name in ("x", "y", "z")]
    b.labels.update({f"n{name}": "head" for name in branches})
    total = b.op("Sum", *branches)
    check(b, tmp_path, {name: ["n", 4] for name in "xyz"}, [total])


def test_rotary_frequencies(tmp_path: Path) -> None:
    b = Builder()
    angles = b.product(b.weight(8, 1), "positions", "positional-encoding")
    check(b, tmp_path, {"positions": ["n", 1, 6]}, [b.op("Cos", angles)])


def test_module_names_from_exporters(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="/encoder/layer.0/query/MatMul"),
        node("MatMul", ["a", "w"], ["y"], name="node_linear_1"),
    ]
    nodes[1].metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'encoder', 'encoder.out', 'linear_1']"
    )
    graph = import_onnx(save(model(nodes, {"x": ["n", 4]}, ["y"], [tensor("w", 4, 4)]), tmp_path))
    assert [layer.fqn for layer in graph.layers] == ["encoder.layer.0.query", "encoder.out"]
