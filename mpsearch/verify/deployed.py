"""An export as its runtime runs it by default: what was fused, what was promoted, and whether the result is the same."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from torch import Tensor

from mpsearch.cost.executed.onnxruntime import is_static_int8
from mpsearch.errors import PlanError
from mpsearch.graph.model import ModelGraph
from mpsearch.program.tensors import to_tensor
from mpsearch.runtimes.session import Array, Deployable, Session
from mpsearch.schemes import Scheme
from mpsearch.verify.verification import DeployedCheck, WholeCheck

_INTEGER = frozenset(
    {
        "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger",
        "DynamicQuantizeMatMul", "QOrderedMatMul",
    }
)  # fmt: skip
_PRODUCTS = _INTEGER | {
    "Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulNBits",
    "LSTM", "GRU", "RNN",
}  # fmt: skip
_ADDED = re.compile(r"(_token_\d+|/+\w+Fusion/*|_nchwc|/duplicated)+$")


def check_deployed(
    session: Session,
    model: onnx.ModelProto,
    graph: ModelGraph,
    schemes: Sequence[Scheme],
    feeds: Iterable[Mapping[str, Array]],
    compare: Callable[[list[dict[str, Tensor]]], WholeCheck | None],
    *,
    is_meant: bool,
) -> DeployedCheck | None:
    """Run an export with the defaults of its runtime; None where these are what the proof ran.

    Args:
        session: The export in the runtime.
        model: The export.
        graph: The plan's model.
        schemes: [L] scheme of each layer.
        feeds: Inputs of each run.
        compare: Outputs of all runs to what they differ by from the simulation.
        is_meant: The export was written for this runtime, and must agree.
    """
    if not isinstance(session, Deployable):
        return None
    try:
        deployed = session.deploy()
        found = [
            {name: to_tensor(np.array(x)) for name, x in deployed.run(given).items()}
            for given in feeds
        ]
    except PlanError as error:
        return DeployedCheck({}, (), None, str(error), is_meant)
    kernels = _find_kernels(deployed.kernels, model, {layer.name for layer in graph.layers})
    promoted = tuple(
        layer.name
        for layer, scheme in zip(graph.layers, schemes, strict=True)
        if kernels.get(layer.name) in _INTEGER and not is_static_int8(scheme)
    )
    return DeployedCheck(kernels, promoted, compare(found), "", is_meant)


def _find_kernels(
    kernels: Sequence[tuple[str, str]], model: onnx.ModelProto, layers: set[str]
) -> dict[str, str]:
    """Layer to the kernel that multiplies it, as far as names tell: the runtime names some after what they give."""
    made = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for kernel, name in kernels:
        if kernel not in _PRODUCTS:
            continue
        base = name if name in layers else _ADDED.sub("", name)
        node = made.get(base)
        while base not in layers and node is not None and node.input:
            base, node = node.name, made.get(node.input[0])
        if base in layers:
            found[base] = kernel
    return found
