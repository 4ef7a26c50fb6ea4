"""The layers of a model as a networkx graph, for users: what it takes to look at or to query them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from mpsearch.errors import ProblemError
from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Table

if TYPE_CHECKING:
    from networkx import DiGraph


class _Site(Protocol):
    @property
    def node(self) -> str: ...


class _Decision(Protocol):
    @property
    def site(self) -> _Site: ...
    @property
    def scheme(self) -> str: ...


class Decided(Protocol):
    """What has a scheme for each layer: a plan."""

    @property
    def decisions(self) -> Sequence[_Decision]:
        """One a layer, or of some layers."""
        ...


def make_networkx(
    graph: ModelGraph,
    *,
    table: Table | None = None,
    plan: Decided | None = None,
    assignment: Sequence[int] | None = None,
) -> "DiGraph[str]":
    """Return what :meth:`ModelGraph.to_networkx` says.

    Raises:
        ProblemError: The table, plan or assignment is for other layers, or does not name schemes.
    """
    import networkx

    groups = {index: group.name for group in graph.groups for index in group.layers}
    scores = {} if table is None else _sensitivities(table, set(groups.values()))
    schemes = _schemes(graph, table, plan, assignment)
    result: DiGraph[str] = networkx.DiGraph(name=graph.name, batch=graph.batch)
    for index, layer in enumerate(graph.layers):
        read = next((gemm.left.value for gemm in layer.gemms if gemm.left.value), "")
        attributes: dict[str, object] = {
            "op_type": layer.op_type,
            "role": layer.role,
            "module": layer.fqn,
            "group": groups[index],
            "input_shape": _shape(graph, read),
            "output_shape": _shape(graph, layer.output),
            "m": layer.m,
            "n": layer.n,
            "k": layer.k,
            "calls": layer.calls,
            "flops": layer.flops,
            "parameters": layer.parameters,
        }
        if table is not None:
            attributes["sensitivity"] = scores[groups[index]]
        if schemes is not None:
            attributes["scheme"] = schemes[index]
        result.add_node(layer.name, **attributes)
    names = [layer.name for layer in graph.layers]
    for edge in graph.edges:
        result.add_edge(names[edge.source], names[edge.target], elements=edge.elements)
    return result


def _shape(graph: ModelGraph, name: str) -> tuple[int | None, ...] | None:
    value = graph.values.get(name)
    return None if value is None else value.shape


def _sensitivities(table: Table, groups: set[str]) -> Mapping[str, Mapping[str, float]]:
    if set(table.groups) != groups:
        raise ProblemError(
            f"the table must score the {len(groups)} groups of the model, "
            f"it has {len(table.groups)} others"
        )
    return {
        group: {
            scheme: float(table.values[g, s])
            for s, scheme in enumerate(table.schemes)
            if table.allowed[g, s]
        }
        for g, group in enumerate(table.groups)
    }


def _schemes(
    graph: ModelGraph,
    table: Table | None,
    plan: Decided | None,
    assignment: Sequence[int] | None,
) -> Sequence[str | None] | None:
    """Return the scheme of each layer, None where nothing is decided."""
    if plan is not None and assignment is not None:
        raise ProblemError("schemes must come from a plan or an assignment, got both")
    if plan is not None:
        decided = {decision.site.node: decision.scheme for decision in plan.decisions}
        foreign = decided.keys() - {layer.name for layer in graph.layers}
        if foreign:
            raise ProblemError(f"the plan decides {min(foreign)!r}, which is no layer of the model")
        return [decided.get(layer.name) for layer in graph.layers]
    if assignment is None:
        return None
    if table is None or len(assignment) != len(graph.groups):
        raise ProblemError(
            f"an assignment must be {len(graph.groups)} indices, one a group, into the schemes of "
            f"a table that is given too; got {len(assignment)} and {'a' if table else 'no'} table"
        )
    found = {
        index: table.schemes[int(assignment[g])]
        for g, group in enumerate(graph.groups)
        for index in group.layers
    }
    return [found[index] for index in range(len(graph.layers))]
