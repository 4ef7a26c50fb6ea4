"""The search problem as arrays: what each group costs at each scheme, and what must hold."""

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpsearch.errors import ProblemError
from mpsearch.problem.constraints import (
    Described,
    Forbidden,
    LinearConstraint,
    Tie,
    read_constraint,
)
from mpsearch.stats.estimates import Bools, Estimate, Floats, Ints

CORRELATION = 0.5
"""Assumed of different groups' errors. Perturbation losses of three models that share their samples give
0.2 to 0.3 in the median plan and 0.36 to 0.45 in one of ten."""

Check = Callable[[Ints], Bools]
"""A constraint as code: assignments [P, G] to whether each one meets it [P]."""


class Evaluator(Protocol):
    """Measures the loss of whole assignments."""

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Return the loss of each of ``assignments`` [P, G], on ``fraction`` of the samples."""
        ...

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        """Return the loss of scheme ``probabilities`` [G, S], and its gradient [G, S]."""
        ...


class Problem:
    """Which scheme for each group: objectives to minimise, and what must hold.

    Nothing of it is assigned again, and its arrays are read-only.

    Attributes:
        objectives: Name to [G, S]; 0 where not allowed.
        allowed: [G, S].
        stderr: The same keys as ``objectives``: [G, S] standard errors.
        edges: [E, 2] group indices.
        pair_terms: Objective to [E, S, S], added to it: entry [e, a, b] where edge e = (i, j) has
            scheme a at i and b at j.
        parameters: [G] weights that each group decides; zeros where unknown.
        schemes: S names.
        groups: G names.
        constraints: As given: words or callables.
        constants: Objective to what no decision changes; part of its total.
        confidence: Limits on objectives are judged by one-sided bounds at this level; None: by means.
        correlation: Of the errors of different groups.
        linear: The constraints that limit a sum.
        forbidden: The pairs that exclude each other.
        ties: The groups that must agree.
        checks: The constraints that are callables.
    """

    __slots__ = (
        "allowed",
        "checks",
        "confidence",
        "constants",
        "constraints",
        "correlation",
        "edges",
        "forbidden",
        "groups",
        "linear",
        "objectives",
        "pair_terms",
        "parameters",
        "schemes",
        "stderr",
        "ties",
    )

    objectives: Final[Mapping[str, Floats]]
    allowed: Final[Bools]
    stderr: Final[Mapping[str, Floats]]
    edges: Final[Ints]
    pair_terms: Final[Mapping[str, Floats]]
    parameters: Final[Floats]
    schemes: Final[tuple[str, ...]]
    groups: Final[tuple[str, ...]]
    constraints: Final[tuple[str | Check, ...]]
    constants: Final[Mapping[str, float]]
    confidence: Final[float | None]
    correlation: Final[float]
    linear: Final[tuple[LinearConstraint, ...]]
    forbidden: Final[tuple[Forbidden, ...]]
    ties: Final[tuple[Tie, ...]]
    checks: Final[tuple[Check, ...]]

    def __init__(
        self,
        objectives: Mapping[str, ArrayLike],
        *,
        allowed: ArrayLike | None = None,
        stderr: Mapping[str, ArrayLike] | None = None,
        edges: ArrayLike | None = None,
        pair_terms: Mapping[str, ArrayLike] | None = None,
        parameters: ArrayLike | None = None,
        schemes: Sequence[str] | None = None,
        constraints: Sequence[str | Check] = (),
        groups: Sequence[str] | None = None,
        constants: Mapping[str, float] | None = None,
        confidence: float | None = None,
        correlation: float = CORRELATION,
    ) -> None:
        """Check and freeze the arrays.

        Constraints in words: ``"latency_us <= 120"`` (any objective), ``"effective_bits <= 4.8"``,
        ``"count(nvfp4) >= 10"``, ``"tie(a, b, c)"``, ``"forbid(a=nvfp4, b=fp8)"``; names that hold
        spaces, commas or brackets in single quotes.

        With ``confidence``, a limit on an objective is one on its bound, mean + z standard errors (``>=``:
        minus; ``==``: the mean alone). Predicted errors of groups are added up for that: at least the
        error of their sum, however they are correlated, and a sum, so that it can be solved exactly.
        Errors that are one share of the objective are that share of boundary terms and constants too.

        Raises:
            ProblemError: Shapes differ, a value is not finite, a group has no scheme, an edge leads
                nowhere, a constraint cannot be read, or confidence or correlation is out of range.
        """
        mask, names, labels = _axes(objectives, allowed, schemes, groups)
        tables = {name: _table(name, value, mask, labels) for name, value in objectives.items()}
        links = _edges(edges, len(labels))
        pairs = _pair_terms(pair_terms or {}, tables, links, len(names))
        deviations = dict(stderr or {})
        _check_names("stderr", deviations, tables)
        if confidence is not None and not 0.5 <= confidence < 1:
            raise ProblemError(f"`0.5 <= confidence < 1` must hold, got {confidence}")
        if not 0 <= correlation <= 1:
            raise ProblemError(f"`0 <= correlation <= 1` must hold, got {correlation}")
        nothing = np.zeros(mask.shape)
        said = Described(
            objectives=MappingProxyType(tables),
            stderr=MappingProxyType(
                {name: _table(name, deviations.get(name, nothing), mask, labels) for name in tables}
            ),
            pair_terms=MappingProxyType(pairs),
            constants=MappingProxyType(
                {name: float(v) for name, v in (constants or {}).items() if name in tables}
            ),
            parameters=_frozen(
                np.zeros(len(labels)) if parameters is None else parameters,
                np.float64,
                (len(labels),),
                "parameters",
            ),
            schemes=names,
            groups=labels,
            z=_quantile(confidence),
        )
        read = [read_constraint(said, text) for text in constraints if isinstance(text, str)]
        self.objectives, self.stderr, self.allowed = said.objectives, said.stderr, mask
        self.edges, self.pair_terms = links, said.pair_terms
        self.parameters, self.constants = said.parameters, said.constants
        self.schemes, self.groups = names, labels
        self.constraints = tuple(constraints)
        self.confidence, self.correlation = confidence, correlation
        self.linear = tuple(c for c in read if isinstance(c, LinearConstraint))
        self.forbidden = tuple(c for c in read if isinstance(c, Forbidden))
        self.ties = tuple(c for c in read if isinstance(c, Tie))
        self.checks = tuple(c for c in constraints if not isinstance(c, str))

    @property
    def n_groups(self) -> int:
        """Number of groups, G."""
        return len(self.groups)

    @property
    def n_schemes(self) -> int:
        """Number of schemes, S."""
        return len(self.schemes)

    @property
    def z(self) -> float:
        """Standard errors between mean and bound at the problem's confidence; 0 without one."""
        return _quantile(self.confidence)

    def changed(
        self,
        *,
        objectives: Mapping[str, ArrayLike] | None = None,
        constraints: Sequence[str | Check] | None = None,
    ) -> "Problem":
        """Return this problem with other values of objectives, or under other constraints.

        Raises:
            ProblemError: See :class:`Problem`.
        """
        tables = self.objectives if objectives is None else objectives
        return Problem(
            tables,
            allowed=self.allowed,
            stderr={name: value for name, value in self.stderr.items() if name in tables},
            edges=self.edges,
            pair_terms={name: value for name, value in self.pair_terms.items() if name in tables},
            parameters=self.parameters,
            schemes=self.schemes,
            constraints=self.constraints if constraints is None else constraints,
            groups=self.groups,
            constants=self.constants,
            confidence=self.confidence,
            correlation=self.correlation,
        )

    def evaluate(self, assignments: ArrayLike) -> dict[str, Floats]:
        """Return each objective's total [P] for ``assignments`` [P, G]."""
        rows = self._rows(assignments)
        return {
            name: _total(rows, table, self.edges, self.pair_terms.get(name))
            + self.constants.get(name, 0.0)
            for name, table in self.objectives.items()
        }

    def stderrs(self, assignments: ArrayLike) -> dict[str, Floats]:
        """Return each objective's standard error [P], for errors that correlate as ``correlation`` says.

        Entries measured on the same samples err alike: the variance of a sum lies between the sum of
        variances (correlation 0) and the square of the sum of errors (1).
        """
        rows = self._rows(assignments)
        found = {}
        for name, table in self.stderr.items():
            alone = together = np.zeros(len(rows))
            if table.any():
                alone = _total(rows, table**2, self.edges, None)
                together = _total(rows, table, self.edges, None) ** 2
            found[name] = np.sqrt((1 - self.correlation) * alone + self.correlation * together)
        return found

    def effective_bits(self, assignments: ArrayLike) -> Floats | None:
        """Return stored bits a decided weight [P]; None without weight_bytes or parameters."""
        if "weight_bytes" not in self.objectives or not self.parameters.sum():
            return None
        rows = self._rows(assignments)
        total = _total(rows, self.objectives["weight_bytes"], self.edges, None)
        return 8.0 * total / self.parameters.sum()

    def quantity(self, constraint: LinearConstraint, assignments: ArrayLike) -> Floats:
        """Return what ``constraint`` limits, [P], for ``assignments`` [P, G]."""
        rows = self._rows(assignments)
        total = _total(rows, constraint.coefficients, self.edges, constraint.pair_coefficients)
        return total + constraint.constant

    def feasible(
        self, assignments: ArrayLike, *, measured: Mapping[str, tuple[Floats, Floats]] = {}
    ) -> Bools:
        """Return whether each of ``assignments`` [P, G] meets everything.

        Args:
            assignments: [P, G].
            measured: Objective to means [P] and standard errors [P], judged in place of the predicted.
        """
        rows = self._rows(assignments)
        good: Bools = np.asarray(self.allowed[np.arange(self.n_groups), rows].all(axis=1))
        for limit in self.linear:
            if limit.quantity in measured:
                means, stderrs = measured[limit.quantity]
                good &= limit.holds(means + limit.margin * stderrs)
            else:
                good &= limit.holds(self.quantity(limit, rows))
        for pair in self.forbidden:
            taken = rows[:, pair.group] == pair.scheme
            good &= ~(taken & (rows[:, pair.other] == pair.other_scheme))
        for tie in self.ties:
            members = rows[:, list(tie.members)]
            good &= (members == members[:, :1]).all(axis=1)
        for check in self.checks:
            good &= np.asarray(check(rows), np.bool_)
        return good

    def _rows(self, assignments: ArrayLike) -> Ints:
        rows = np.asarray(assignments, np.int64)
        rows = rows.reshape(-1, self.n_groups) if rows.ndim < 2 else rows
        if rows.shape[1] != self.n_groups:
            raise ProblemError(f"assignments must be [P, {self.n_groups}], got {list(rows.shape)}")
        return rows


def _axes(
    objectives: Mapping[str, ArrayLike],
    allowed: ArrayLike | None,
    schemes: Sequence[str] | None,
    groups: Sequence[str] | None,
) -> tuple[Bools, tuple[str, ...], tuple[str, ...]]:
    """Return what is allowed [G, S], the S schemes' and the G groups' names."""
    if not objectives:
        raise ProblemError("a problem needs at least one objective, got none")
    shape = np.shape(next(iter(objectives.values())))
    if len(shape) != 2 or 0 in shape:
        raise ProblemError(f"objectives must be [groups, schemes], got shape {list(shape)}")
    G, S = shape
    names = tuple(schemes) if schemes is not None else tuple(f"scheme{i}" for i in range(S))
    labels = tuple(groups) if groups is not None else tuple(f"group{i}" for i in range(G))
    for what, found, size in (("schemes", names, S), ("groups", labels, G)):
        if len(found) != size or len(set(found)) != size:
            raise ProblemError(f"{what} must be {size} different names, got {len(set(found))}")
    mask = _frozen(np.ones((G, S)) if allowed is None else allowed, np.bool_, (G, S), "allowed")
    bare = np.flatnonzero(~mask.any(axis=1))
    if bare.size:
        raise ProblemError(f"each group needs an allowed scheme, but {labels[bare[0]]!r} has none")
    return mask, names, labels


def _edges(edges: ArrayLike | None, n_groups: int) -> Ints:
    links = _frozen(np.zeros((0, 2)) if edges is None else edges, np.int64, (-1, 2), "edges")
    out = links.size and (links.min() < 0 or links.max() >= n_groups)
    if out or (links[:, 0] == links[:, 1]).any():
        raise ProblemError(f"edges must join two different groups of 0..{n_groups - 1}")
    return links


def _pair_terms(
    given: Mapping[str, ArrayLike], objectives: Mapping[str, Floats], edges: Ints, n_schemes: int
) -> dict[str, Floats]:
    _check_names("pair_terms", given, objectives)
    shape = (len(edges), n_schemes, n_schemes)
    pairs = {
        name: _frozen(value, np.float64, shape, f"pair_terms[{name!r}]")
        for name, value in given.items()
    }
    for name, value in pairs.items():
        if not np.isfinite(value).all():
            raise ProblemError(f"pair_terms[{name!r}] must be finite; forbid pairs in words")
    return pairs


def _quantile(confidence: float | None) -> float:
    return 0.0 if confidence is None else NormalDist().inv_cdf(confidence)


def _frozen(
    value: ArrayLike, dtype: type[np.generic], shape: tuple[int, ...], name: str
) -> NDArray[Any]:
    array = np.array(value, dtype)
    if array.size == 0 and shape[0] in (-1, 0):
        array = array.reshape((0, *shape[1:]))
    if array.ndim != len(shape) or any(
        want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)
    ):
        raise ProblemError(f"{name} must have shape {list(shape)}, got {list(array.shape)}")
    array.setflags(write=False)
    return array


def _table(name: str, value: ArrayLike, allowed: Bools, groups: tuple[str, ...]) -> Floats:
    array = np.array(value, np.float64)
    if array.shape != allowed.shape:
        raise ProblemError(
            f"objective {name!r} must have shape {list(allowed.shape)}, got {list(array.shape)}"
        )
    array[~allowed] = 0.0
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        raise ProblemError(
            f"objective {name!r} must be finite where allowed, but group {groups[bad[0, 0]]!r} has "
            f"{array[tuple(bad[0])]}; forbid a scheme with `allowed`, never with inf"
        )
    array.setflags(write=False)
    return array


def _check_names(what: str, given: Mapping[str, object], objectives: Mapping[str, object]) -> None:
    for name in given:
        if name not in objectives:
            raise ProblemError(
                f"{what} must be of an objective ({', '.join(objectives)}), got {name!r}"
            )


def _total(rows: Ints, table: Floats, edges: Ints, pairs: Floats | None) -> Floats:
    """Sum table [G, S] and pairs [E, S, S] over assignments [P, G], in bounded memory."""
    G = table.shape[0]
    total = np.empty(len(rows))
    chunk = max(1, 4_000_000 // max(G, len(edges), 1))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        value = np.ascontiguousarray(table[np.arange(G), part]).sum(axis=1)  # one order of summing
        if pairs is not None and len(edges):
            linked = pairs[np.arange(len(edges)), part[:, edges[:, 0]], part[:, edges[:, 1]]]
            value += np.ascontiguousarray(linked).sum(axis=1)
        total[start : start + chunk] = value
    return total
