"""Model graphs made by hand, so that costs and spaces are tested without reading ONNX."""

from collections.abc import Sequence

from mpsearch.graph.model import Coverage, Edge, Gemm, Group, Layer, ModelGraph, Operand, Value


def linear(name: str, m: int, n: int, k: int, *, role: str = "") -> Layer:
    """A Gemm of m × k activations by k × n weights."""
    left = Operand(f"{name}.in", "", 0, -1)
    right = Operand(f"{name}.w", f"{name}.w", 1, 0, (1,))
    return Layer(name, "Gemm", (Gemm(m, n, k, left, right),), f"{name}.out", m * k, m * n, role)


def conv(
    name: str, size: int, cin: int, cout: int, kernel: int, *, groups: int = 1, batch: int = 1
) -> Layer:
    """A convolution of stride 1 that keeps a size × size image."""
    pixels = batch * size * size
    positions = kernel * kernel
    left = Operand(f"{name}.in", "", 0, 1, groups=groups)
    right = Operand(f"{name}.w", f"{name}.w", 1, 1, (0,))
    gemm = Gemm(
        pixels, cout, cin // groups * positions, left, right, positions=positions, groups=groups
    )
    role = "depthwise" if groups == cin and groups > 1 else ""
    return Layer(name, "Conv", (gemm,), f"{name}.out", pixels * cin, pixels * cout, role)


def attention(name: str, heads: int, tokens: int, width: int) -> Layer:
    """A product of two activations: queries by keys."""
    left = Operand(f"{name}.q", "", 0, -1)
    right = Operand(f"{name}.k", "", 1, -2)
    gemm = Gemm(
        tokens,
        tokens,
        width,
        left,
        right,
        has_weight=False,
        calls=heads,
        batch_in_m=False,
    )
    elements = heads * tokens
    return Layer(name, "MatMul", (gemm,), f"{name}.out", elements * width, elements * tokens)


def graph_of(
    layers: Sequence[Layer],
    *,
    edges: Sequence[tuple[int, int, int]] | None = None,
    groups: Sequence[tuple[int, ...]] | None = None,
    batch: int = 1,
) -> ModelGraph:
    """A chain of ``layers`` (or with ``edges``), one group a layer (or ``groups``)."""
    if edges is None:
        edges = [(i, i + 1, layers[i + 1].input_elements) for i in range(len(layers) - 1)]
    if groups is None:
        groups = [(i,) for i in range(len(layers))]
    parameters = sum(layer.parameters for layer in layers)
    flops = sum(layer.flops for layer in layers)
    return ModelGraph(
        name="handmade.onnx",
        nodes=(),
        constants={},
        inputs=(Value("x", (batch, 4), "float32"), Value("mask", (batch, None), "int64")),
        outputs=(Value("y", None, "float32"),),
        values={},
        layers=tuple(layers),
        edges=tuple(Edge(*edge) for edge in edges),
        groups=tuple(Group(layers[members[0]].name, members) for members in groups),
        coverage=Coverage(parameters, parameters, flops, flops, ()),
        batch=batch,
        opset=17,
        structure_digest="0" * 64,
    )
