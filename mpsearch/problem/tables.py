"""The two tables that searches read: sensitivities and costs, group × scheme."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import ArtifactError
from mpsearch.shown import count, html_table, say
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Bools, Floats, Ints

FULL = "full"  # a budget: two evaluations for each entry of a table
Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is going on or the best so far)."""


@dataclass(frozen=True, slots=True)
class Table:
    """Additive, minimised sensitivity of each group at each scheme.

    Attributes:
        metric: Name of the metric.
        unit: Unit of the values: ``nats``, ``relative MSE``, ``noise/signal``.
        groups: [G] group names.
        schemes: [S] scheme names.
        values: [G, S]; 0 where ``allowed`` is False.
        stderr: [G, S] standard errors, same unit.
        allowed: [G, S]; False: forbidden or overflowing.
        edges: [E, 2] group indices of measured interactions.
        pair_terms: [E, S, S] interactions, same unit.
        reasons: (group, scheme) name to why it is not allowed.
        details: Named [G, S] arrays beside the values, for people (say ``activation_noise``).
        cost_plans: What the scoring cost, in whole-plan evaluations.
        notes: What a reader must know, such as why scoring ended early.
    """

    metric: str
    unit: str
    groups: tuple[str, ...]
    schemes: tuple[str, ...]
    values: Floats
    stderr: Floats
    allowed: Bools
    edges: Ints = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    pair_terms: Floats | None = None
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)
    details: Mapping[str, Floats] = field(default_factory=dict)
    cost_plans: float = 0.0
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """What it holds, in a line."""
        refused = int((~self.allowed).sum())
        pairs = count(len(self.edges), "interaction") if len(self.edges) else ""
        limits = f"{refused} entries not allowed" if refused else ""
        return say("Table", f"{self.metric} in {self.unit}", _size(self), limits, pairs)

    def _repr_html_(self) -> str:
        """What a notebook shows: the most fragile groups first, as they are at each scheme."""
        order = np.argsort(-np.where(self.allowed, self.values, 0).max(axis=1), kind="stable")
        cells = [
            [
                self.groups[g],
                *(
                    with_error((float(self.values[g, s]), float(self.stderr[g, s])))
                    if self.allowed[g, s]
                    else "not allowed"
                    for s in range(len(self.schemes))
                ),
            ]
            for g in order.tolist()
        ]
        caption = f"{self.metric}, predicted, {self.unit}; the most fragile groups first"
        return html_table(caption, ["group", *self.schemes], cells)


@dataclass(frozen=True, slots=True)
class Costs:
    """Cost objectives of each group at each scheme on one device.

    Attributes:
        device: Name of the device.
        groups: [G] group names.
        schemes: [S] scheme names.
        objectives: ``latency_us``, ``weight_bytes``, ``energy_uj`` where known: [G, S] each.
        stderr: The same keys: [G, S] each.
        allowed: [G, S]; False: forbidden by space, device or target.
        edges: [E, 2] group indices, the union of schedule and dataflow neighbours.
        pair_terms: Objective to [E, S, S]: what changing formats along an edge costs.
        parameters: [G] weights that each group decides.
        constants: Objective to what no decision changes.
        reasons: (group, scheme) name to why it is not allowed.
        batch: Samples that one latency is for.
        tensor_parallel: Devices that share every layer; 1 until one shares them.
    """

    device: str
    groups: tuple[str, ...]
    schemes: tuple[str, ...]
    objectives: Mapping[str, Floats]
    stderr: Mapping[str, Floats]
    allowed: Bools
    edges: Ints
    pair_terms: Mapping[str, Floats]
    parameters: Ints
    constants: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)
    batch: int = 1
    tensor_parallel: int = 1

    def __repr__(self) -> str:
        """What they hold, in a line."""
        refused = int((~self.allowed).sum())
        limits = f"{refused} entries not allowed" if refused else ""
        where = f"{self.device}, batch {self.batch}"
        return say("Costs", where, ", ".join(self.objectives), _size(self), limits)

    def _repr_html_(self) -> str:
        """What a notebook shows: each objective's sum in each scheme, as far as that is allowed."""
        cells = [
            [
                name,
                *(
                    f"{number(float(values[self.allowed[:, s], s].sum()))} "
                    f"({int(self.allowed[:, s].sum())} groups)"
                    for s in range(len(self.schemes))
                ),
            ]
            for name, values in self.objectives.items()
        ]
        caption = f"Costs on {self.device}, batch {self.batch}: sums over the groups that may take a scheme"
        return html_table(caption, ["objective", *self.schemes], cells)


def _size(table: "Table | Costs") -> str:
    return f"{count(len(table.groups), 'group')} × {count(len(table.schemes), 'scheme')}"


def _rows(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _reasons(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(group, scheme, why) for (group, scheme), why in value.items()]
    return value


_Numbers = Annotated[list[list[float]], BeforeValidator(_rows)]
_Flags = Annotated[list[list[bool]], BeforeValidator(_rows)]
_Pairs = Annotated[list[list[list[float]]], BeforeValidator(_rows)]
_Edges = Annotated[list[tuple[int, int]], BeforeValidator(_rows)]
_Counts = Annotated[list[int], BeforeValidator(_rows)]
_Reasons = Annotated[list[tuple[str, str, str]], BeforeValidator(_reasons)]


class _TableContent(Content):
    metric: str
    unit: str
    groups: list[str]
    schemes: list[str]
    values: _Numbers
    stderr: _Numbers
    allowed: _Flags
    edges: _Edges
    pair_terms: _Pairs | None
    reasons: _Reasons
    details: dict[str, _Numbers]
    cost_plans: float = 0.0
    notes: list[str] = Field(default_factory=list)


class _CostsContent(Content):
    device: str
    groups: list[str]
    schemes: list[str]
    objectives: dict[str, _Numbers]
    stderr: dict[str, _Numbers]
    allowed: _Flags
    edges: _Edges
    pair_terms: dict[str, _Pairs]
    parameters: _Counts
    constants: dict[str, float]
    reasons: _Reasons
    batch: int = 1
    tensor_parallel: int = 1


def write_table(table: Table, path: Path, *, inputs: Mapping[str, str] = {}) -> str:
    """Write ``table`` to ``path`` and return its digest.

    Raises:
        ArtifactError: A value is NaN or Inf.
    """
    return _write(path, "table", _TableContent, table, inputs)


def read_table(path: Path) -> Table:
    """Read what :func:`write_table` wrote.

    Raises:
        ArtifactError: The file is missing, damaged, of another kind, or its arrays do not fit.
    """
    content = read_artifact(path, "table", _TableContent)
    shape = (len(content.groups), len(content.schemes))
    return Table(
        metric=content.metric,
        unit=content.unit,
        groups=tuple(content.groups),
        schemes=tuple(content.schemes),
        values=_array(path, "values", content.values, shape),
        stderr=_array(path, "stderr", content.stderr, shape),
        allowed=_array(path, "allowed", content.allowed, shape).astype(np.bool_),
        edges=np.array(content.edges, np.int64).reshape(-1, 2),
        pair_terms=None
        if content.pair_terms is None
        else _array(
            path, "pair_terms", content.pair_terms, (len(content.edges), shape[1], shape[1])
        ),
        reasons={(group, scheme): why for group, scheme, why in content.reasons},
        details={name: _array(path, name, value, shape) for name, value in content.details.items()},
        cost_plans=content.cost_plans,
        notes=tuple(content.notes),
    )


def write_costs(costs: Costs, path: Path, *, inputs: Mapping[str, str] = {}) -> str:
    """Write ``costs`` to ``path`` and return their digest.

    Raises:
        ArtifactError: A value is NaN or Inf.
    """
    return _write(path, "costs", _CostsContent, costs, inputs)


def read_costs(path: Path) -> Costs:
    """Read what :func:`write_costs` wrote.

    Raises:
        ArtifactError: The file is missing, damaged, of another kind, or its arrays do not fit.
    """
    content = read_artifact(path, "costs", _CostsContent)
    shape = (len(content.groups), len(content.schemes))
    pairs = (len(content.edges), shape[1], shape[1])
    return Costs(
        device=content.device,
        groups=tuple(content.groups),
        schemes=tuple(content.schemes),
        objectives={n: _array(path, n, v, shape) for n, v in content.objectives.items()},
        stderr={n: _array(path, n, v, shape) for n, v in content.stderr.items()},
        allowed=_array(path, "allowed", content.allowed, shape).astype(np.bool_),
        edges=np.array(content.edges, np.int64).reshape(-1, 2),
        pair_terms={n: _array(path, n, v, pairs) for n, v in content.pair_terms.items()},
        parameters=_array(path, "parameters", content.parameters, shape[:1]).astype(np.int64),
        constants=content.constants,
        reasons={(group, scheme): why for group, scheme, why in content.reasons},
        batch=content.batch,
        tensor_parallel=content.tensor_parallel,
    )


def _write(
    path: Path, schema: str, kind: type[Content], value: Table | Costs, inputs: Mapping[str, str]
) -> str:
    fields = {name: getattr(value, name) for name in kind.model_fields if name != "extensions"}
    try:
        content = kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(f"{path.name}: {first['loc'][0]}: {first['msg']}") from None
    return write_artifact(path, schema, content, inputs=inputs)


def _array(path: Path, name: str, value: object, shape: tuple[int, ...]) -> Floats:
    try:
        return np.array(value, np.float64).reshape(shape)
    except ValueError:
        raise ArtifactError(f"{path.name}: {name} must have shape {list(shape)}") from None
