"""Operators that are spelt out in simpler ones while a model is folded."""

from collections.abc import Mapping
from types import MappingProxyType

import onnx

from mpsearch.graph.folding.decompose import contrib_attention, quantised_activations, sequences
from mpsearch.graph.folding.decompose.builder import Decomposition, Writer
from mpsearch.graph.folding.state import Draft

_DECOMPOSITIONS: Mapping[tuple[str, str], Decomposition] = MappingProxyType(
    {
        ("", "DequantizeLinear"): quantised_activations.dequantize,
        ("", "SplitToSequence"): sequences.split_to_sequence,
        ("", "SequenceConstruct"): sequences.sequence_construct,
        ("", "SequenceEmpty"): sequences.sequence_empty,
        ("", "SequenceInsert"): sequences.sequence_insert,
        ("", "SequenceAt"): sequences.sequence_at,
        ("", "SequenceLength"): sequences.sequence_length,
        ("", "ConcatFromSequence"): sequences.concat_from_sequence,
        ("com.microsoft", "Attention"): contrib_attention.fused_attention,
        ("com.microsoft", "MultiHeadAttention"): contrib_attention.multi_head_attention,
        ("com.microsoft", "GroupQueryAttention"): contrib_attention.group_query_attention,
    }
)
_BOTH = frozenset({"SplitToSequence", "SequenceConstruct", "SequenceEmpty", "SequenceInsert"})


def decompose(proto: onnx.NodeProto, draft: Draft) -> list[onnx.NodeProto] | None:
    """Return the nodes that ``proto`` stands for, None if it stays as it is.

    What makes a sequence stays beside them, for readers that need the sequence itself.
    """
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    decomposition = _DECOMPOSITIONS.get((domain, proto.op_type))
    if decomposition is None:
        return None
    write = Writer(proto, draft)
    if not decomposition(write):
        return None
    if proto.op_type in _BOTH:
        write.nodes.append(proto)
    return write.nodes
