"""The values that an imported model is made of. All frozen; nothing here reads ONNX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mpsearch.shown import count, html_table, say
from mpsearch.stats.digits import number

if TYPE_CHECKING:
    from networkx import DiGraph

    from mpsearch.graph.networkx_graph import Decided
    from mpsearch.problem.tables import Table

Attribute = object  # int, float, str, bytes, tuple of those, ndarray, or Subgraph


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor by name.

    Attributes:
        name: Its name in the graph.
        shape: Sizes; None where unknown.
        dtype: numpy's name of the element type, such as ``float32``.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Node:
    """One operator application, in topological order of its graph.

    Attributes:
        name: Unique: the node's name in the user's file, or its first output if it has none.
        op_type: ONNX operator.
        domain: Operator domain; the default one is "".
        version: Opset version of the domain that gives the operator its meaning here.
        inputs: Value names; "" is an absent optional input.
        outputs: Value names; "" is an unused one.
        attributes: Plain Python values; tensors as arrays, graphs as :class:`Subgraph`.
    """

    name: str
    op_type: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subgraph:
    """Body of If, Loop or Scan; it may read values of the graphs around it."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of a GEMM: where its reduction runs.

    Attributes:
        value: Name of the value in the folded graph; "" inside an operator (a recurrent state).
        source: For a weight, name of the initialiser (or Constant's output) in the user's file; else "".
        input_index: Which input of the node it is; -1 inside an operator.
        reduction_axis: Axis along which blocks and sparse groups run (channels of a convolution,
            K of a GEMM); may be negative.
        channel_axes: Axes that together index output channels (weights); () for activations. All
            other axes (kernel positions of a weight; batch, space of an activation) are kept apart.
        groups: Convolution groups that split ``reduction_axis`` when it spans all groups (activations).
    """

    value: str
    source: str
    input_index: int
    reduction_axis: int
    channel_axes: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Gemm:
    """One matrix product of a layer, at the graph's own batch size.

    Attributes:
        m: Rows (batch × output positions, or batch × tokens; of ConvTranspose, input positions).
            0, as any size here, where an unbound dynamic axis leaves it unknown.
        n: Columns: output channels of all convolution groups together.
        k: Reduction: kernel positions × channels of one group.
        positions: Kernel positions inside ``k`` (1 for a GEMM); channels of a group are k / positions.
        groups: Convolution groups.
        calls: Independent products of this size (attention: batch × heads; unrolled loops: steps).
        left: The activation operand.
        right: The weight, or the second activation.
        has_weight: Whether ``right`` is a weight.
        batch_in_m: Whether the batch multiplies ``m`` (True) or ``calls`` (False).
        batch_in_k: Whether the reduction is as long as the batch makes it.
    """

    m: int
    n: int
    k: int
    left: Operand
    right: Operand
    has_weight: bool = True
    positions: int = 1
    groups: int = 1
    calls: int = 1
    batch_in_m: bool = True
    batch_in_k: bool = False

    @property
    def flops(self) -> int:
        """Multiplications and additions: 2 M N K for each call."""
        return 2 * self.m * self.n * self.k * self.calls

    @property
    def parameters(self) -> int:
        """Weights of the right operand; 0 for a product of two activations."""
        return self.n * self.k if self.has_weight else 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that owns a GEMM, a convolution or a MatMul of two activations.

    Attributes:
        name: The node's name (see :class:`Node`): the site's name in plans.
        op_type: ONNX operator.
        gemms: Its matrix products; most layers have one, recurrent ones two.
        output: Name of the value it produces.
        input_elements: Elements of the activation tensor it reads, at the graph's batch.
        output_elements: Elements of the value it produces.
        role: What it is to the network: ``stem``, ``depthwise``, ``attention.q``, …; "" if unknown.
        fqn: Qualified module name in the exporter's source model; "" if unknown.
    """

    name: str
    op_type: str
    gemms: tuple[Gemm, ...]
    output: str
    input_elements: int
    output_elements: int
    role: str = ""
    fqn: str = ""

    @property
    def has_weight(self) -> bool:
        """Whether any product multiplies by a weight."""
        return any(gemm.has_weight for gemm in self.gemms)

    @property
    def parameters(self) -> int:
        """Weights, without bias."""
        return sum(gemm.parameters for gemm in self.gemms)

    @property
    def flops(self) -> int:
        """Operations at the graph's batch size."""
        return sum(gemm.flops for gemm in self.gemms)

    @property
    def m(self) -> int:
        """Rows of the first product."""
        return self.gemms[0].m

    @property
    def n(self) -> int:
        """Columns of the first product."""
        return self.gemms[0].n

    @property
    def k(self) -> int:
        """Reduction of the first product."""
        return self.gemms[0].k

    @property
    def calls(self) -> int:
        """Independent runs of the first product."""
        return self.gemms[0].calls


@dataclass(frozen=True, slots=True)
class Edge:
    """Data flows from one layer to another, through operators that are no layers.

    Attributes:
        source: Index of the producing layer.
        target: Index of the consuming layer.
        elements: Elements of the tensor that the target reads.
    """

    source: int
    target: int
    elements: int


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that must share one scheme: the decision variable.

    Attributes:
        name: The first layer's name.
        layers: Indices into the graph's layers, ascending.
        reason: Why they belong together: ``single``, ``shared weight``, ``one input``, …
    """

    name: str
    layers: tuple[int, ...]
    reason: str = "single"


@dataclass(frozen=True, slots=True)
class Undecided:
    """Parameters or FLOPs that no decision covers, and why."""

    name: str
    op_type: str
    parameters: int
    flops: int
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of parameters and FLOPs that a plan decides.

    Attributes:
        parameters: Decided parameters.
        total_parameters: All floating-point parameters of the model.
        flops: FLOPs of the layers.
        total_flops: FLOPs of the layers and of operators that multiply but are no layers.
        undecided: What is left out, largest first.
    """

    parameters: int
    total_parameters: int
    flops: int
    total_flops: int
    undecided: tuple[Undecided, ...]


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A model, folded, typed and understood.

    Attributes:
        name: The model's file name.
        nodes: All nodes in topological order, after folding.
        constants: Value name to array; read on demand.
        inputs: What the user feeds; sizes are None where the folded graph takes any (the batch).
        outputs: What the model returns; sizes are None where they follow the inputs'.
        values: Name to shape and type of every value that inference reached.
        layers: In schedule order.
        edges: Dataflow between layers.
        groups: Partition of the layers.
        coverage: What the groups decide.
        batch: Batch size that shapes and M were inferred at.
        opset: Version of the default domain that the nodes follow.
        structure_digest: SHA-256 of the graph without weight bytes (``digest_weights`` gives theirs).
        metadata: The model file's own metadata properties.
        unbound: ``input[axis]`` of dynamic axes that nobody bound, the batch apart: sizes that depend
            on them are None in shapes and 0 in products.
        batch_axes: Input name to the axis of the samples (None: it has none), where that was said.
    """

    name: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[np.generic]]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    values: Mapping[str, Value]
    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]
    groups: tuple[Group, ...]
    coverage: Coverage
    batch: int
    opset: int
    structure_digest: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    unbound: tuple[str, ...] = ()
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)

    def __repr__(self) -> str:
        """What it holds, in a line."""
        decided = f"{count(len(self.layers), 'layer')} in {count(len(self.groups), 'group')}"
        sizes = f"{number(self.coverage.parameters)} of {number(self.coverage.total_parameters)} parameters"
        return say("ModelGraph", self.name, decided, sizes, f"batch {self.batch}")

    def _repr_html_(self) -> str:
        """What a notebook shows: the first layers in schedule order."""
        cells = [
            [
                layer.name,
                layer.op_type,
                layer.role,
                f"{layer.m} × {layer.n} × {layer.k}",
                number(layer.parameters),
                number(layer.flops),
            ]
            for layer in self.layers
        ]
        columns = ("layer", "operator", "role", "M × N × K", "parameters", "FLOPs")
        return html_table(f"{self.name}: layers in schedule order", columns, cells)

    def to_networkx(
        self,
        *,
        table: "Table | None" = None,
        plan: "Decided | None" = None,
        assignment: Sequence[int] | None = None,
    ) -> "DiGraph[str]":
        """Return the layers as a ``networkx.DiGraph``: nodes by name, in schedule order.

        Each node has the attributes ``op_type``, ``role``, ``module``, ``group``, ``input_shape``,
        ``output_shape``, ``m``, ``n``, ``k``, ``calls`` (of its first product), ``flops`` and
        ``parameters``; each edge ``elements``, of the tensor that the target reads.

        Args:
            table: Adds ``sensitivity`` to each node: scheme to the loss of its group, where allowed.
            plan: Adds ``scheme``, None where the plan decides nothing.
            assignment: [G] scheme indices of ``table``, instead of a plan; adds ``scheme`` too.

        Raises:
            ProblemError: The table, plan or assignment is for other layers.
        """
        from mpsearch.graph.networkx_graph import make_networkx

        return make_networkx(self, table=table, plan=plan, assignment=assignment)
