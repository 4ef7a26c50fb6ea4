"""What an exporter is given of a plan: the graph as the plan changes it, and every weight as it is stored."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from mpsearch.graph.layers.traversal import all_nodes
from mpsearch.graph.model import ModelGraph, Node
from mpsearch.graph.onnx_file.constants import Array
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.changes import bias_of, own_weights, takes_bias
from mpsearch.program.tensors import to_array, to_tensor
from mpsearch.schemes import Scheme
from mpsearch.simulate.changes import Changes, Product, change_constants, constant_type
from mpsearch.simulate.layer_weight import quantize_layer_weight


@dataclass(frozen=True, slots=True)
class PlannedWeights:
    """The weights of a plan's model as schemes store them.

    Attributes:
        graph: The model.
        changes: What the plan stores instead of rounding the model's own weights; its ``biases`` are those that
            the graph's own nodes do not add: (layer to [N], along the channels of its output before this is rounded).
        owners: (layer, product) of changed weights to the first layer that stores the same of the same tensor.
    """

    graph: ModelGraph
    changes: Changes
    owners: Mapping[Product, int] = field(default_factory=dict)

    def __call__(self, layer: int, gemm: int, scheme: Scheme) -> QuantizedTensor:
        """Return the weight of a layer's product as ``scheme`` stores it."""
        changed = self.changes.weights.get((layer, gemm))
        if changed is not None:
            return changed
        owner = self.graph.layers[layer]
        weight = to_tensor(self.graph.constants[owner.gemms[gemm].right.value])
        return quantize_layer_weight(owner, gemm, scheme, weight)


def planned_weights(graph: ModelGraph, changes: Changes = Changes()) -> PlannedWeights:  # noqa: B008  # frozen and empty
    """Return the weights of ``graph`` with all of ``changes`` in it that its nodes can hold."""
    graph = change_constants(graph, changes)
    names = {layer.name: i for i, layer in enumerate(graph.layers)}
    left = dict(changes.biases)
    uses = Counter(name for node in all_nodes(graph.nodes) for name in node.inputs)
    uses.update(value.name for value in graph.outputs)
    constants, nodes = dict[str, Array](), list[Node]()
    for node in graph.nodes:
        bias = left.get(names.get(node.name, -1))
        if bias is not None and _can_hold(graph, node, bias):
            before = bias_of(graph, node, bias.numel())
            known = graph.constants if before is None or before not in constants else constants
            total = bias.float()
            if before is not None:
                total = total + to_tensor(known[before]).to(total.device)
            name = before if before is not None and uses[before] == 1 else _free(graph, node, uses)
            constants[name] = to_array(total)
            node = replace(node, inputs=(*node.inputs[:2], name))
            del left[names[node.name]]
        nodes.append(node)
    if constants:
        graph = change_constants(replace(graph, nodes=tuple(nodes)), Changes(constants=constants))
    return PlannedWeights(graph, replace(changes, biases=left), own_weights(graph, changes))


def _can_hold(graph: ModelGraph, node: Node, bias: Tensor) -> bool:
    """Whether ``node`` can add ``bias`` itself: in fp32, where it has none or a plain one."""
    if not takes_bias(node) or _is_half(graph, node):
        return False
    has_one = len(node.inputs) > 2 and node.inputs[2] != ""
    return not has_one or bias_of(graph, node, bias.numel()) is not None


def _is_half(graph: ModelGraph, node: Node) -> bool:
    weight = node.inputs[1]
    if weight in graph.constants:
        return constant_type(graph, weight)[1] != "float32"
    known = graph.values.get(node.outputs[0])
    return known is None or known.dtype != "float32"


def _free(graph: ModelGraph, node: Node, uses: Counter[str]) -> str:
    """A name for the bias of ``node`` that no value has."""
    taken = graph.constants.keys() | graph.values.keys() | uses.keys()
    name, n = f"{node.name}.bias", 1
    while name in taken:
        name, n = f"{node.name}.bias.{n}", n + 1
    return name
