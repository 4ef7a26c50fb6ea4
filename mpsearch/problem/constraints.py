"""What must hold of an assignment, in words: limits, ties and forbidden pairs."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

import numpy as np

from mpsearch.errors import ProblemError
from mpsearch.stats.estimates import Bools, Floats

_SLACK = 1e-9  # of a limit's scale: what rounding may add to a sum that meets it


@dataclass(frozen=True, slots=True, eq=False)
class LinearConstraint:
    """``lower <= sum of coefficients[g, s_g] + sum of pair_coefficients[e, s_i, s_j] <= upper``.

    Attributes:
        text: The user's words.
        quantity: What is limited: an objective, ``effective_bits`` or ``count(scheme)``.
        coefficients: [G, S].
        pair_coefficients: [E, S, S] along the problem's edges, or None.
        constant: What no decision changes; part of the quantity.
        lower: Least value, or -inf.
        upper: Greatest value, or inf.
        margin: Standard errors that are added to a mean before it is judged: 0 judges means.
    """

    text: str
    quantity: str
    coefficients: Floats
    pair_coefficients: Floats | None
    constant: float
    lower: float
    upper: float
    margin: float = 0.0

    @property
    def slack(self) -> float:
        """What rounding may add to the quantity."""
        scale = float(np.abs(self.coefficients).max(axis=1).sum()) + abs(self.constant)
        return _SLACK * scale

    def holds(self, value: Floats) -> Bools:
        """Return whether each ``value`` [P] of the quantity is within the limits."""
        return self.excess(value) <= 0

    def excess(self, value: Floats) -> Floats:
        """Return by how much each ``value`` [P] of the quantity is beyond the limits; <= 0: within."""
        beyond: Floats = np.maximum(value - self.upper, self.lower - value) - self.slack
        return beyond


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Two groups that may not take these two schemes at once; all four are indices."""

    text: str
    group: int
    scheme: int
    other: int
    other_scheme: int


@dataclass(frozen=True, slots=True)
class Tie:
    """Groups (indices) that must take one scheme."""

    text: str
    members: tuple[int, ...]


def rounded_outward(value: float, *, up: bool = True, digits: int = 6) -> str:
    """Return ``value`` to so many digits, rounded up (or down), so that the printed limit is met."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    with localcontext() as context:
        context.prec = digits
        context.rounding = ROUND_CEILING if up else ROUND_FLOOR
        return f"{float(+Decimal(value)):.{digits}g}"


_LIMIT = re.compile(r"^\s*(?P<what>[^<>=]+?)\s*(?P<sign><=|>=|==|=<|=>|<|>|=)\s*(?P<value>\S+)\s*$")
_CALL = re.compile(r"^\s*(?P<name>tie|forbid)\s*\((?P<inside>.*)\)\s*$", re.DOTALL)
_NAME = r"(?:'[^']*'|[^,'=]+)"


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """What constraints speak of.

    Attributes:
        objectives: Name to [G, S].
        stderr: The same keys: [G, S].
        pair_terms: Objective to [E, S, S].
        constants: Objective to what no decision changes.
        parameters: [G] weights that each group decides.
        schemes: S names.
        groups: G names.
        z: Standard errors between a mean and the bound that is judged.
    """

    objectives: Mapping[str, Floats]
    stderr: Mapping[str, Floats]
    pair_terms: Mapping[str, Floats]
    constants: Mapping[str, float]
    parameters: Floats
    schemes: tuple[str, ...]
    groups: tuple[str, ...]
    z: float


def read_constraint(problem: Described, text: str) -> LinearConstraint | Forbidden | Tie:
    """Understand one constraint in words.

    Raises:
        ProblemError: It cannot be read, or names something unknown.
    """
    call = _CALL.match(text)
    if call:
        parts = [p for p in re.findall(rf"{_NAME}(?:\s*={_NAME})?", call["inside"]) if p.strip()]
        if call["name"] == "tie":
            members = tuple(_index(text, "group", part, problem.groups) for part in parts)
            if len(set(members)) < 2:
                raise ProblemError(f"{text!r}: a tie needs two groups or more")
            return Tie(text, members)
        sides = [[side.strip() for side in part.rsplit("=", 1)] for part in parts]
        if len(sides) != 2 or any(len(side) != 2 for side in sides):
            raise ProblemError(f"{text!r}: must read like forbid(group=scheme, other=scheme)")
        (g, s), (h, t) = (
            (_index(text, "group", a, problem.groups), _index(text, "scheme", b, problem.schemes))
            for a, b in sides
        )
        if g == h:
            raise ProblemError(f"{text!r}: must name two different groups")
        return Forbidden(text, g, s, h, t)
    match = _LIMIT.match(text)
    if not match or match["sign"] not in ("<=", ">=", "=="):
        raise ProblemError(
            f"{text!r}: a constraint must read like 'latency_us <= 120' (signs: <=, >=, ==), "
            "'tie(a, b)' or 'forbid(a=nvfp4, b=fp8)'"
        )
    try:
        limit = float(match["value"])
    except ValueError:
        raise ProblemError(f"{text!r}: {match['value']!r} must be a number") from None
    if not math.isfinite(limit):
        raise ProblemError(f"{text!r}: the limit must be finite")
    what = match["what"]
    lower = -math.inf if match["sign"] == "<=" else limit
    upper = math.inf if match["sign"] == ">=" else limit
    if what in problem.objectives:
        margin = {"<=": problem.z, ">=": -problem.z, "==": 0.0}[match["sign"]]
        return _limit_with_margin(problem, text, what, lower, upper, margin)
    if what == "effective_bits":
        total = float(problem.parameters.sum())
        if "weight_bytes" not in problem.objectives or not total:
            raise ProblemError(f"{text!r}: needs the objective weight_bytes and the parameters")
        bits = problem.objectives["weight_bytes"] * (8.0 / total)
        return LinearConstraint(text, what, bits, None, 0.0, lower, upper)
    counted = re.fullmatch(r"count\((.+)\)", what)
    if counted:
        scheme = _index(text, "scheme", counted[1], problem.schemes)
        ones = np.zeros((len(problem.groups), len(problem.schemes)))
        ones[:, scheme] = 1.0
        return LinearConstraint(text, what, ones, None, 0.0, lower, upper)
    raise ProblemError(
        f"{text!r}: what is limited must be one of {', '.join(problem.objectives)}, effective_bits, "
        f"count(scheme); got {what!r}"
    )


def _limit_with_margin(
    problem: Described, text: str, what: str, lower: float, upper: float, margin: float
) -> LinearConstraint:
    """Limit the mean of an objective plus ``margin`` standard errors, those of groups added up.

    Where errors are one share of the objective, as a cost model's are, they are that share of boundary
    terms and constants too: then the bound is a multiple of the objective, which is as easy to search.
    """
    values, stderr = problem.objectives[what], problem.stderr[what]
    pairs, constant = problem.pair_terms.get(what), problem.constants.get(what, 0.0)
    top = np.unravel_index(int(np.abs(values).argmax()), values.shape)
    share = float(stderr[top] / values[top]) if values[top] else 0.0
    if share and np.allclose(stderr, share * values, rtol=1e-12, atol=0.0):
        factor = 1 + margin * share
        values = values * factor
        pairs = None if pairs is None else pairs * factor
        constant *= factor
    else:
        values = values + margin * stderr
    return LinearConstraint(text, what, values, pairs, constant, lower, upper, margin)


def _index(text: str, what: str, name: str, names: tuple[str, ...]) -> int:
    name = name.strip().strip("'")
    if name not in names:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ProblemError(f"{text!r}: the {what} must be one of {shown}; got {name!r}")
    return names.index(name)
