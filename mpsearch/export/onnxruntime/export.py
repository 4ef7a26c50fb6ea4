"""The export for onnxruntime on a CPU: the canonical model, lowered to what its optimiser turns into integer kernels.

Static int8 operands are stored as unsigned codes with a zero point: products of unsigned and signed bytes
saturate on x86 processors without VNNI, and signed activations make the optimiser fail on MatMul and Add. What is
computed stays the canonical model's, but for codes beyond ±127, which a byte has room for.
"""

from pathlib import Path

import onnx

from mpsearch.cost.executed.onnxruntime import (
    executed_layers,
    is_static_int8_activation,
    never_negative,
    reads_codes,
    takes_blocks,
    view_graph,
)
from mpsearch.export.onnx.builder import Writer
from mpsearch.export.onnx.canonical import Encoding, Weights, build_canonical
from mpsearch.export.onnx.encode_activation import Activation, encode_activation
from mpsearch.export.onnx.write_model import write_model
from mpsearch.export.onnxruntime.operands import (
    encode_emulated_activation,
    encode_folded_weight,
    encode_packed_weight,
    encode_unsigned_activation,
    encode_unsigned_weight,
)
from mpsearch.export.onnxruntime.overrides import write_overrides
from mpsearch.export.onnxruntime.rewrite import rewrite_layers
from mpsearch.export.writable import check_writable
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.numerics.range import Range
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.schemes import Spec


def export(plan: Plan, graph: ModelGraph, weights: Weights, folder: Path) -> list[Path]:
    """Write ``model.onnx`` and ``tensor_quant_overrides.json`` into ``folder`` and return the files written.

    Raises:
        PlanError: The plan does not fit, or onnxruntime cannot run one of its schemes.
    """
    files = write_model(build_onnxruntime(plan, graph, weights), folder)
    return files + write_overrides(plan, graph, weights, folder)


def build_onnxruntime(plan: Plan, graph: ModelGraph, weights: Weights) -> onnx.ModelProto:
    """Return the model of ``plan`` for onnxruntime.

    Args:
        plan: Made for ``graph``.
        graph: The folded model.
        weights: Gives the simulation's own weights.

    Raises:
        PlanError: The plan does not fit, or onnxruntime cannot run one of its schemes.
    """
    schemes = plan_schemes(plan, graph)
    check_writable(graph, schemes, "onnxruntime")
    base = plan.schemes[plan.base].activation.format
    view = view_graph(graph)
    executed = executed_layers(view, schemes, base=base)
    integer = frozenset(i for i, how in enumerate(executed) if how.is_integer)
    coded = frozenset(i for i, scheme in enumerate(schemes) if reads_codes(view, i, scheme))
    read = {g.left.value for x in graph.layers for g in x.gemms}
    read |= {g.right.value for x in graph.layers for g in x.gemms if not g.has_weight}
    positives = {value for value in read if never_negative(view, value)}

    def weight(writer: Writer, tensor: QuantizedTensor, is_own: bool) -> str:
        if not is_own:
            return encode_folded_weight(writer, tensor)
        if tensor.spec.block_shape is not None:
            return encode_packed_weight(writer, tensor)
        return encode_unsigned_weight(writer, tensor)

    def activation(
        writer: Writer, read: Activation, spec: Spec, found: Range | None, is_own: bool
    ) -> str:
        if found is None or spec.granularity != "tensor" or spec.range != "static":
            return encode_activation(writer, read, spec, found)
        if not is_own or not is_static_int8_activation(spec):
            return encode_emulated_activation(writer, read.value, spec, found)
        return encode_unsigned_activation(writer, read.value, found, read.value in positives)

    packed = frozenset(i for i, scheme in enumerate(schemes) if takes_blocks(view, i, scheme))
    own = Encoding(weight, activation, integer | packed, coded)
    model = build_canonical(plan, graph, weights, own)
    rewrite_layers(model, graph, executed)
    return model
