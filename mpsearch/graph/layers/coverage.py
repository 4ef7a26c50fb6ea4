"""What the layers decide of a model's parameters and FLOPs, and what nobody decides."""

from collections.abc import Mapping, Sequence

from mpsearch.graph.layers.operands import ShapeOf, input_name, product
from mpsearch.graph.layers.traversal import all_nodes
from mpsearch.graph.model import Coverage, Layer, Node, Undecided
from mpsearch.graph.onnx_file.constants import Constant

_NORMS = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
_GATHERS = frozenset({"Gather", "GatherND", "GatherElements", "EmbedLayerNormalization"})
_QUANTIZED = frozenset(
    {
        "ConvInteger",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QGemm",
    }
)
_PRODUCT_LIKE = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"}
)


def find_coverage(
    nodes: Sequence[Node],
    layers: Sequence[Layer],
    constants: Mapping[str, Constant],
    shape_of: ShapeOf,
    originals: Mapping[str, Constant],
) -> Coverage:
    """Return the share that ``layers`` decide.

    A tensor counts once, however many nodes read it; tensors of one element do not count.
    Quantised integer weights count as parameters that are not searchable. ``originals`` are the
    tensors of the user's file, which slices and copies stem from.
    """
    weights = {
        gemm.right.value: gemm.right.source
        for layer in layers
        for gemm in layer.gemms
        if gemm.has_weight
    }
    decided_sources: dict[str, int] = {}
    for value, source in weights.items():  # several values of one source: slices, or copies
        total = decided_sources.get(source, 0) + constants[value].size
        stored = originals.get(source)
        decided_sources[source] = total if stored is None else min(total, stored.size)
    layer_names = {layer.name for layer in layers}
    undecided: dict[str, Undecided] = {}
    flops = 0
    for node in all_nodes(nodes):
        if node.op_type in _QUANTIZED:
            flops += _integer_flops(node, shape_of)
        for index, name in enumerate(node.inputs):
            constant = constants.get(name)
            if constant is None or name in weights or constant.size <= 1:
                continue
            if not (constant.is_float or _is_packed(node, index)):
                continue
            if constant.source in decided_sources or constant.source in undecided:
                continue
            undecided[constant.source] = Undecided(
                name=constant.source,
                op_type=node.op_type,
                parameters=constant.size,
                flops=_integer_flops(node, shape_of) if _is_packed(node, index) else 0,
                reason=_reason(node, index, node.name in layer_names, constant),
            )
    decided = sum(decided_sources.values())
    layer_flops = sum(layer.flops for layer in layers)
    return Coverage(
        parameters=decided,
        total_parameters=decided + sum(entry.parameters for entry in undecided.values()),
        flops=layer_flops,
        total_flops=layer_flops + flops,
        undecided=tuple(sorted(undecided.values(), key=lambda e: (-e.parameters, e.name))),
    )


def _is_packed(node: Node, index: int) -> bool:
    return node.op_type in _QUANTIZED and index > 0


def _reason(node: Node, index: int, is_layer: bool, constant: Constant) -> str:
    if node.op_type in _QUANTIZED:
        return f"already quantised: {node.op_type} is not searchable"
    if is_layer or (node.op_type == "Add" and len(constant.shape) == 1):
        return "bias: kept in the base format"
    if node.op_type in ("Add", "Sub"):
        return "offset or position table: added, not multiplied"
    if node.op_type in _GATHERS:
        return "embedding table: rows are looked up, not multiplied"
    if node.op_type in _NORMS:
        return "normalisation: kept in fp32"
    if node.op_type in _PRODUCT_LIKE:
        return f"{node.op_type} of a form that is not understood as a matrix product"
    return f"operand of {node.op_type}, which is no matrix product"


def _integer_flops(node: Node, shape_of: ShapeOf) -> int:
    """Return 2 M N K of a quantised product, 0 where its sizes are not known."""
    weight_index = {"QLinearConv": 3, "QLinearMatMul": 3}.get(node.op_type, 1)
    weight, out = shape_of(input_name(node, weight_index)), shape_of(node.outputs[0])
    if weight is None or out is None or len(weight) < 2:
        return 0
    if node.op_type in ("ConvInteger", "QLinearConv"):
        return 2 * product(out) * product(weight[1:])
    if node.op_type in ("MatMulInteger", "QLinearMatMul"):
        return 2 * product(out) * product(weight[-2:-1])
    return 0
