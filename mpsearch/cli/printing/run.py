"""Runs as tables for people and as plain values for programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsearch.cli.console import number, print_table

if TYPE_CHECKING:
    from mpsearch.choose.by_quality import Drop
    from mpsearch.figures.plan_row import PlanRow
    from mpsearch.jobs.results import Outcome
    from mpsearch.stats.estimates import Estimate


def print_outcome(outcome: "Outcome", folder: Path) -> None:
    """Print the table that a run ends with, and where its files lie."""
    costs = outcome.costs
    print_rows(f"{costs.device}, batch {costs.batch}", outcome.rows, outcome.unit)
    for line in summary_lines(outcome):
        print(line)
    files = ["report.html"] if outcome.front is not None else ["costs.json"]
    files += [f"plans/{choice.name}.json" for choice in outcome.choices]
    print("written: " + ", ".join(str(folder / name) for name in files))


def print_rows(title: str, rows: "Sequence[PlanRow]", unit: str) -> None:
    """Print rows of plans; a column that no row fills is left out."""
    suffix = f" ({unit})" if unit else ""
    scores = dict.fromkeys(name for row in rows for name in row.scores)
    columns: list[tuple[str, list[str]]] = [
        ("latency µs", [number(row.latency_us) for row in rows]),
        ("weights kB", [number(_kilo(row.weight_bytes)) for row in rows]),
        ("eff. bits", [number(row.effective_bits) for row in rows]),
        (f"loss predicted{suffix}", [_estimate(row.predicted.get("loss")) for row in rows]),
        (f"loss measured{suffix}", [_estimate(row.measured.get("loss")) for row in rows]),
        *(
            (f"held-out {_title(name)}", [_estimate(row.scores.get(name)) for row in rows])
            for name in scores
        ),
    ]
    shown = [(name, cells) for name, cells in columns if any(cell != "–" for cell in cells)]
    body = [[row.label, *(cells[i] for _, cells in shown)] for i, row in enumerate(rows)]
    print_table(title, ["plan", *(name for name, _ in shown)], body)


def summary_lines(outcome: "Outcome") -> list[str]:
    """Return what is said below the table."""
    lines = list(outcome.notes)
    if outcome.front is not None:
        measured = sum("loss" in point.measured for point in outcome.front.points)
        lines.append(
            f"front: {len(outcome.front.points)} points, {measured} of them measured"
            + (f"; {outcome.front.certificate}" if outcome.front.certificate else "")
        )
        rho, count = outcome.correlation
        lines.append(
            f"predictions ranked the {count} measured points with Spearman {number(rho)}"
            if count >= 3
            else f"{count} points were measured: too few to say how predictions rank"
        )
        if (residual := outcome.additive_residual) is not None:
            from mpsearch.sensitivity.shared.additivity import say_residual

            lines.append(say_residual(residual))
        lines.append(f"{outcome.evaluations} evaluations are kept; {outcome.seconds:.0f} s")
    return lines


def outcome_json(outcome: "Outcome", folder: Path) -> dict[str, Any]:
    """Return a run as plain values."""
    front = outcome.front
    rho, count = outcome.correlation
    return {
        "run": folder.name,
        "device": outcome.costs.device,
        "batch": outcome.costs.batch,
        "unit": outcome.unit,
        "rows": [row_json(row) for row in outcome.rows],
        "plans": [
            {"file": f"plans/{choice.name}.json", "label": choice.label, "rule": choice.rule}
            for choice in outcome.choices
        ],
        "front": None
        if front is None
        else {
            "points": len(front.points),
            "measured": sum("loss" in point.measured for point in front.points),
            "method": front.method,
            "certificate": front.certificate,
        },
        "quality": [drop_json(drop) for drop in outcome.drops],
        "rank_correlation": {"spearman": rho, "points": count},
        "additive_residual": outcome.additive_residual,
        "evaluations": outcome.evaluations,
        "seconds": round(outcome.seconds, 2),
        "notes": list(outcome.notes),
    }


def drop_json(drop: "Drop") -> dict[str, Any]:
    """Return a test of a plan's quality on held-out data as plain values."""
    test = drop.test
    return {
        "latency_us": drop.point.value("latency_us").mean,
        "drop": test.drop,
        "stderr": test.stderr,
        "lower": test.lower,
        "upper": test.upper,
        "verdict": test.verdict,
        "samples": test.samples,
        "samples_needed": test.samples_needed,
    }


def row_json(row: "PlanRow") -> dict[str, Any]:
    """Return one plan as plain values; predicted, measured and held-out figures stay apart."""
    return {
        "label": row.label,
        "latency_us": row.latency_us,
        "weight_bytes": row.weight_bytes,
        "effective_bits": row.effective_bits,
        "predicted": estimates_json(row.predicted),
        "measured": estimates_json(row.measured),
        "held_out": estimates_json(row.scores),
    }


def estimates_json(values: "Mapping[str, Estimate]") -> dict[str, dict[str, float]]:
    """Return estimates as plain values."""
    return {name: {"mean": v.mean, "stderr": v.stderr} for name, v in values.items()}


def _estimate(value: "Estimate | None") -> str:
    if value is None:
        return "–"
    return f"{value.mean:.4f} ± {value.stderr:.4f}" if value.stderr else f"{value.mean:.4f}"


def _kilo(value: float | None) -> float | None:
    return None if value is None else value / 1000


def _title(name: str) -> str:
    return name.upper() if len(name) <= 3 else name
