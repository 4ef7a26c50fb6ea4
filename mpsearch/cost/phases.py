"""Phases of a model that works token by token: a prompt is read, then tokens are added one by one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mpsearch.errors import DeviceError
from mpsearch.problem.tables import Costs
from mpsearch.stats.estimates import Floats

Tokens = int | Mapping[str, int | str]
"""Tokens of a sample, or name of a phase to ``2048`` or ``1@kv=4096``."""

_PHASE = re.compile(r"\s*(?P<tokens>\d+)\s*(?:@\s*kv\s*=\s*(?P<cached>\d+)\s*)?")
_WHOLE = ("weight_bytes",)
"""Objectives that every phase shares."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One size at which the model runs.

    Attributes:
        name: Its name; "" where there is only one.
        tokens: New tokens of a sample; None: as many as the graph was imported at.
        cached: Tokens before them, whose keys and values are kept; None: attention reads what it reads in
            the graph.
        share: How much of ``latency_us`` it is.
    """

    name: str = ""
    tokens: int | None = None
    cached: int | None = None
    share: float = 1.0

    @property
    def context(self) -> int | None:
        """Tokens that attention reads; None: as many as in the graph."""
        if self.cached is None or self.tokens is None:
            return None
        return self.cached + self.tokens


def read_phases(tokens: Tokens | None, mix: Mapping[str, float] | None = None) -> tuple[Phase, ...]:
    """Return the phases that ``tokens`` names.

    Args:
        tokens: Tokens of a sample; or name to ``2048`` (attention reads those tokens) or ``1@kv=4096`` (one
            new token after 4096 that are cached).
        mix: Name to the share of ``latency_us``; None: one of each.

    Raises:
        DeviceError: A text does not read like that, or ``mix`` names other phases.
    """
    if tokens is None or isinstance(tokens, int):
        phases: tuple[Phase, ...] = (Phase(tokens=tokens),)
    else:
        phases = tuple(_read(name, str(text)) for name, text in tokens.items()) or (Phase(),)
    if not mix:
        return phases
    names = [phase.name for phase in phases]
    if set(mix) != set(names) or min(mix.values()) < 0 or not sum(mix.values()):
        raise DeviceError(
            f"mix must give each phase of tokens a share of at least 0 ({', '.join(filter(None, names)) or 'none'}); "
            f"got {', '.join(f'{name}={share:g}' for name, share in mix.items())}"
        )
    return tuple(replace(phase, share=float(mix[phase.name])) for phase in phases)


def _read(name: str, text: str) -> Phase:
    match = _PHASE.fullmatch(text)
    if match is None or int(match["tokens"]) < 1 or not re.fullmatch(r"[\w.-]*", name):
        raise DeviceError(
            f"tokens must be a number, or read like prefill:2048 or decode:1@kv=4096; got {name}:{text}"
        )
    cached = None if name == "" and match["cached"] is None else int(match["cached"] or 0)
    return Phase(name, int(match["tokens"]), cached)


def combine(priced: tuple[Costs, ...], phases: tuple[Phase, ...]) -> Costs:
    """Return the costs of all phases: each latency by name, and the others' sums by share.

    Raises:
        DeviceError: The cost model has other edges in one phase than in another.
    """
    first = priced[0]
    if len(phases) == 1 and not phases[0].name:
        return first
    if any(not np.array_equal(costs.edges, first.edges) for costs in priced):
        raise DeviceError("a cost model must have the same edges in every phase")
    return replace(
        first,
        objectives=dict(_joined([costs.objectives for costs in priced], phases)),
        stderr=dict(_joined([costs.stderr for costs in priced], phases)),
        pair_terms=dict(_joined([costs.pair_terms for costs in priced], phases)),
        constants={
            name: float(value)
            for name, value in _joined([_arrays(costs.constants) for costs in priced], phases)
        },
    )


def _arrays(values: Mapping[str, float]) -> dict[str, Floats]:
    return {name: np.array(value) for name, value in values.items()}


def _joined(
    tables: list[Mapping[str, Floats]], phases: tuple[Phase, ...]
) -> Iterator[tuple[str, Floats]]:
    """Yield each objective's sum over phases, weighted by share, and each phase's own latency."""
    for name, value in tables[0].items():
        if name in _WHOLE:
            yield name, value
            continue
        values = [table[name] for table in tables]
        total: Floats = np.sum([p.share * v for p, v in zip(phases, values, strict=True)], axis=0)
        yield name, total
        if name == "latency_us":
            yield from ((f"{name}:{p.name}", v) for p, v in zip(phases, values, strict=True))
