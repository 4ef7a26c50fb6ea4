"""What the chosen plan gains over a uniform one, in figures and in one sentence."""

from dataclasses import dataclass

from mpsearch.figures.content import Report
from mpsearch.figures.plan_row import PlanRow, uniform_scheme
from mpsearch.problem.front import RECOVERED
from mpsearch.stats.estimates import Estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """The chosen plan against the uniform plan that it must beat.

    Attributes:
        chosen: The chosen plan's row.
        uniform: The fastest uniform plan that loses no more (within two standard errors), or, where
            all lose more, the uniform plan that loses least.
        word: ``measured`` if both losses were, else ``predicted``; "" if they cannot be compared.
        loss: The chosen plan's loss.
        uniform_loss: The uniform plan's.
        verdict: ``the same``, ``a lower`` or ``a higher`` loss; "" if they cannot be compared.
        faster: Share of the uniform plan's latency that is saved; negative: slower.
        smaller: Share of the uniform plan's weight bytes that is saved.
        is_uniform: Whether the chosen plan is uniform itself; then it is held against another uniform one.
    """

    chosen: PlanRow
    uniform: PlanRow
    word: str
    loss: Estimate | None
    uniform_loss: Estimate | None
    verdict: str
    faster: float | None
    smaller: float | None
    is_uniform: bool = False

    @property
    def sentence(self) -> str:
        """One sentence for the top of a page."""
        parts = [
            f"{abs(share):.0%} {more if share > 0 else less}".replace("%", " %")
            for share, more, less in (
                (self.faster, "faster", "slower"),
                (self.smaller, "smaller", "larger"),
            )
            if share is not None and abs(share) >= 0.005
        ]
        gain = " and ".join(parts) + " than" if parts else "As fast and as small as"
        tail = f", at {self.verdict} {self.word} loss" if self.verdict else ""
        own = f"{self.chosen.label}, one scheme wherever it is allowed: " if self.is_uniform else ""
        return f"{own}{gain if not own else gain[:1].lower() + gain[1:]} {self.uniform.label}{tail}"


def find_row(report: Report) -> PlanRow | None:
    """Return the row of the chosen point, or None."""
    if report.chosen is None:
        return None
    wanted = tuple(report.chosen.assignment)
    rows = [r for r in report.rows if r.assignment is not None and tuple(r.assignment) == wanted]
    if report.chosen.method == RECOVERED:
        rows.sort(key=lambda row: not row.recovery)
    return next(iter(rows), None)


def uniform_rows(report: Report) -> list[PlanRow]:
    """Return the rows whose plan is uniform and not the chosen one, each plan once, in the report's order."""
    chosen = find_row(report)
    seen = {chosen.assignment if chosen is not None else None, None}
    found = []
    for row in report.rows:
        if row.assignment is None or row.assignment in seen:
            continue
        seen.add(row.assignment)
        if uniform_scheme(row.assignment, report.allowed) is not None:
            found.append(row)
    return found


def compare(report: Report) -> Comparison | None:
    """Compare the chosen plan with the uniform plan it must beat; None if either is missing."""
    chosen = find_row(report)
    rivals = [row for row in uniform_rows(report) if row.latency_us is not None]
    if chosen is None or not rivals:
        return None
    same = uniform_scheme(chosen.assignment or (), report.allowed) is not None
    everything = [chosen, *rivals]
    word = next(
        (
            word
            for word in ("measured", "predicted")
            if all("loss" in _losses(row, word) for row in everything)
        ),
        "",
    )
    if not word:
        uniform = min(rivals, key=lambda row: row.latency_us or 0.0)
        return Comparison(chosen, uniform, "", None, None, "", *_gains(chosen, uniform), same)
    loss = _losses(chosen, word)["loss"]
    no_worse = [row for row in rivals if _differ(_losses(row, word)["loss"], loss) <= 0]
    if no_worse:
        uniform = min(no_worse, key=lambda row: row.latency_us or 0.0)
    else:
        uniform = min(rivals, key=lambda row: _losses(row, word)["loss"].mean)
    other = _losses(uniform, word)["loss"]
    verdict = {0: "the same", -1: "a lower", 1: "a higher"}[_differ(loss, other)]
    return Comparison(chosen, uniform, word, loss, other, verdict, *_gains(chosen, uniform), same)


def _losses(row: PlanRow, word: str) -> dict[str, Estimate]:
    return dict(row.measured if word == "measured" else row.predicted)


def _differ(left: Estimate, right: Estimate) -> int:
    """-1: left is lower by more than two standard errors; 1: higher; 0: neither."""
    noise = 2 * (left.stderr**2 + right.stderr**2) ** 0.5
    if abs(left.mean - right.mean) <= noise:
        return 0
    return -1 if left.mean < right.mean else 1


def _gains(chosen: PlanRow, uniform: PlanRow) -> tuple[float | None, float | None]:
    return (
        _saved(chosen.latency_us, uniform.latency_us),
        _saved(chosen.weight_bytes, uniform.weight_bytes),
    )


def _saved(value: float | None, of: float | None) -> float | None:
    return 1 - value / of if value is not None and of else None
