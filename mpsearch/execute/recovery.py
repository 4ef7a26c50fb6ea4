"""Recovered weights of sparse layers: pruned in the Gram matrix of what the layer reads on the data."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from mpsearch.errors import SchemeError
from mpsearch.execute.operators.convolution import same_pads
from mpsearch.execute.operators.kernel import integers, text
from mpsearch.execute.program import Program
from mpsearch.execute.single import capture_values
from mpsearch.graph.model import Gemm, ModelGraph, Node
from mpsearch.numerics.obs import find_gram, find_patch_gram, recover
from mpsearch.schemes import Scheme

RECOVERABLE = ("Conv", "Gemm", "MatMul")
"""Operators whose inputs' Gram matrix is known."""


def make_recovery(
    graph: ModelGraph, program: Program, feeds: Callable[[], Iterable[Mapping[str, Tensor]]]
) -> Callable[[int, int, Tensor, Scheme], Tensor]:
    """Return a function from (layer, gemm, weight, scheme) to the recovered fp32 weight.

    Each call runs the fp32 program once over the data that ``feeds`` yields, as far as the layer.
    """
    steps = program.find_layers()

    def recovered(layer: int, gemm: int, weight: Tensor, scheme: Scheme) -> Tensor:
        owner, node = graph.layers[layer], steps[layer][1].node
        if owner.op_type not in RECOVERABLE or scheme.sparsity is None:
            raise SchemeError(
                f"recovery obs is for {', '.join(RECOVERABLE)}, but layer {owner.name!r} is a {owner.op_type}"
            )
        product = owner.gemms[gemm]
        total: Tensor | None = None
        for feed in feeds():
            found = capture_values(graph, program, [layer], feed, None)
            gram = _gram(node, product, found[product.left.value], weight)
            total = gram if total is None else total + gram
        if total is None:
            raise SchemeError(f"recovery obs of layer {owner.name!r} needs calibration data")
        return recover(
            weight,
            scheme.sparsity,
            total,
            reduction_axis=product.right.reduction_axis,
            channel_axes=product.right.channel_axes,
            groups=product.right.groups,
            name=f"{owner.name}: weight",
        )

    return recovered


def _gram(node: Node, gemm: Gemm, x: Tensor, weight: Tensor) -> Tensor:
    if node.op_type != "Conv":
        return find_gram(x, reduction_axis=gemm.left.reduction_axis)
    rank = weight.ndim - 2
    kernel = tuple(weight.shape[2:])
    strides, dilations = integers(node, "strides") or [1] * rank, integers(node, "dilations")
    spread = dilations or [1] * rank
    pads, auto = integers(node, "pads") or [0] * 2 * rank, text(node, "auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * 2 * rank
    elif auto != "NOTSET":
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
        pads = same_pads(list(x.shape[2:]), extents, strides, auto == "SAME_UPPER")
    return find_patch_gram(
        x,
        kernel=kernel,
        strides=tuple(strides),
        pads=tuple((pads[i], pads[rank + i]) for i in range(rank)),
        dilations=tuple(spread),
        groups=gemm.groups,
    )


def refuse_recovery(graph: ModelGraph, schemes: Iterable[Scheme]) -> dict[tuple[str, str], str]:
    """Return (group, scheme) names to why a scheme's recovery cannot be had there."""
    reasons = {}
    for scheme in schemes:
        if scheme.recovery == "none":
            continue
        for group in graph.groups:
            for index in group.layers:
                layer = graph.layers[index]
                if layer.op_type not in RECOVERABLE:
                    reasons[group.name, scheme.name] = (
                        f"recovery {scheme.recovery} is for {', '.join(RECOVERABLE)}, "
                        f"but {layer.name!r} is a {layer.op_type}"
                    )
    return reasons
