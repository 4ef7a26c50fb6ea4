"""Estimates, and the two tables that searches read: sensitivities and costs, group × scheme."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is going on or the best so far)."""


class Estimate(NamedTuple):
    """A mean and its standard error, in one unit."""

    mean: float
    stderr: float = 0.0


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
