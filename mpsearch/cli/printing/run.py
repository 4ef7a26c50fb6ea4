"""Runs as tables for people and as plain values for programs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpsearch.cli.printing.tables import print_table
from mpsearch.stats.digits import number, with_error

if TYPE_CHECKING:
    from mpsearch.figures.plan_row import PlanRow
    from mpsearch.runs.run import Run
    from mpsearch.stats.estimates import Estimate


def print_run(run: "Run", *, model: str = "", data: str = "") -> None:
    """Print the table that a run ends with, where its files lie, and what to do with them.

    Args:
        run: A finished run.
        model: The model as commands must be given it; "" leaves out what to do next.
        data: The calibration data, the same.
    """
    results, costs = run.results, run.costs
    if results is None:
        return
    print_rows(f"{costs.device}, batch {costs.batch}", results.rows, results.unit)
    for line in (*results.notes, *_front_lines(run)):
        print(line)
    files = ["report.html"] if run.front is not None else ["costs.json"]
    files += [f"plans/{name}" for name in results.rules]
    print("written: " + ", ".join(str(run.path / name) for name in files))
    if model:
        from mpsearch.report.next_steps import next_steps

        plan = next((f"plans/{name}" for name in results.rules), "")
        print("next:")
        for step in next_steps(str(run.path), plan, model, data):
            print(f"  # {step.why}\n  {step.command}")


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


def _front_lines(run: "Run") -> list[str]:
    """What is said below the table of the front and of how far predictions can be trusted."""
    front, results = run.front, run.results
    if front is None or results is None:
        return []
    measured = sum("loss" in point.measured for point in front.points)
    lines = [
        f"front: {len(front.points)} points, {measured} of them measured"
        + (f"; {front.certificate}" if front.certificate else ""),
        f"predictions ranked the {results.correlated} measured points with Spearman "
        f"{number(results.correlation)}"
        if results.correlated >= 3
        else f"{results.correlated} points were measured: too few to say how predictions rank",
    ]
    if (residual := _residual(run)) is not None:
        from mpsearch.sensitivity.shared.additivity import say_residual

        lines.append(say_residual(residual))
    return [*lines, f"{run.record.evaluations} evaluations are kept; {run.record.seconds:.0f} s"]


def _residual(run: "Run") -> float | None:
    """Share of random plans' loss that the table's sums leave unexplained; None where nobody measured it."""
    if run.table is None or run.self_test is None or run.results is None:
        return None
    from mpsearch.sensitivity.shared.additivity import additive_residual

    return additive_residual(run.table, run.self_test, run.results.unit)


def run_json(run: "Run") -> dict[str, Any]:
    """Return a finished run as plain values."""
    results, front = run.results, run.front
    assert results is not None  # it is finished
    return {
        "run": run.path.name,
        "device": run.costs.device,
        "batch": run.costs.batch,
        "unit": results.unit,
        "rows": [row_json(row) for row in results.rows],
        "plans": [
            {"file": f"plans/{name}", "label": results.labels.get(name, name), "rule": rule}
            for name, rule in results.rules.items()
        ],
        "front": None
        if front is None
        else {
            "points": len(front.points),
            "measured": sum("loss" in point.measured for point in front.points),
            "method": front.method,
            "certificate": front.certificate,
        },
        "quality": [test.model_dump(exclude={"extensions"}) for test in results.tests],
        "rank_correlation": {"spearman": results.correlation, "points": results.correlated},
        "additive_residual": _residual(run),
        "evaluations": run.record.evaluations,
        "seconds": run.record.seconds,
        "notes": list(results.notes),
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
    return "–" if value is None else with_error(value)


def _kilo(value: float | None) -> float | None:
    return None if value is None else value / 1000


def _title(name: str) -> str:
    return name.upper() if len(name) <= 3 else name
