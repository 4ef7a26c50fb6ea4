"""``mpsearch fit``: measured kernels made into a device file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.console import Json, command, print_json, progress_bars

if TYPE_CHECKING:
    from mpsearch.cost.device import Device
    from mpsearch.cost.fit.groups import Predicted
    from mpsearch.cost.fit.measurements import Measurements
    from mpsearch.cost.fit.score import Score


@command
def fit(
    measurements: Annotated[
        Path,
        typer.Argument(
            metavar="MEASUREMENTS.csv",
            help="Columns gpu, dtype, sparsity, m, n, k and latency_us (or _ms, _s, _ns).",
        ),
    ],
    gpu: Annotated[
        str,
        typer.Option(
            "--gpu", metavar="NAME", help="What the column gpu calls it, or the device's name."
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Device, or file of its datasheet, where --gpu is no known name."
        ),
    ] = None,
    evaluate: Annotated[
        Path | None,
        typer.Option("--evaluate", metavar="OTHER.csv", help="Predict these kernels by the fit."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the device file here (.toml).")
    ] = None,
    library: Annotated[
        str, typer.Option("--library", help="Whose kernels they are, for the file.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Fit a device's latencies to measured kernels, and say how far off kernels are that were left out."""
    from mpsearch.cost.fit.fit_device import borrowed_kernels, device_text, fit_device
    from mpsearch.cost.fit.known import find_device, fitted_devices
    from mpsearch.cost.fit.measurements import ignored_columns, read_rows, select
    from mpsearch.cost.fit.score import evaluate as predict
    from mpsearch.cost.fit.score import score
    from mpsearch.errors import JobError, OutputExistsError

    if out is not None and (out.suffix != ".toml" or not out.parent.is_dir()):
        raise JobError(f"-o must name a .toml file in a folder that exists, got {out}")
    if out is not None and out.exists():
        raise OutputExistsError(f"{out.name}: exists; remove it, or give another name with -o")
    base, text = find_device(device or gpu)
    names = tuple(dict.fromkeys((gpu, base.name, *base.aliases)))
    rows, unread = read_rows(measurements)
    own = select(rows, base, names=names, where=measurements.name)
    other = None
    if evaluate is not None:
        others, _ = read_rows(evaluate)
        other = select(others, base, names=names, where=evaluate.name)
    references = fitted_devices()
    with progress_bars() as watch:
        fitted = fit_device(
            base,
            own,
            references=references,
            source=measurements.name,
            library=library,
            progress=watch("fit"),
        )
    kernels = [group.kernels for group in fitted]
    kernels += borrowed_kernels(base, kernels, references)
    done = base.model_copy(update={"kernels": tuple(kernels)})
    left_out = {
        (group.kernels.format, group.kernels.sparsity): group.predicted
        for group in fitted
        if group.predicted is not None
    }
    seen = predict(done, other.groups) if other is not None else {}
    if out is not None:
        from mpsearch.artifacts import write_text

        write_text(out, device_text(text, kernels))
    rejected, ignored = {**unread, **own.rejected}, ignored_columns(measurements)
    if as_json:
        print_json(
            {
                "device": base.name,
                "rows": own.rows,
                "rejected": {why: count for why, (count, _) in rejected.items()},
                "ignored_columns": list(ignored),
                "cross_validated": _scores(left_out),
                "pooled": asdict(score(list(left_out.values()))) if left_out else None,
                "evaluated": _scores(seen) if other is not None else None,
                "evaluated_pooled": asdict(score(list(seen.values()))) if seen else None,
                "kernels": [k.model_dump(exclude={"residual", "extensions"}) for k in kernels],
                "file": out.name if out is not None else None,
            }
        )
        return
    _print(base, own, rejected)
    if ignored:
        print(f"ignored: columns {', '.join(ignored)}")
    _print_scores("left out by (N, K) and predicted", left_out)
    if other is not None and evaluate is not None:
        _print_scores(f"{evaluate.name}, predicted", seen)
    lent = [f"{k.format} {k.sparsity} from {k.borrowed_from}" for k in kernels if k.borrowed_from]
    if lent:
        print("borrowed: " + "; ".join(lent))
    if out is not None:
        print(f"wrote {out}: give it as --device {out}")


def _scores(predicted: "Mapping[tuple[str, str], Predicted]") -> list[dict[str, Any]]:
    from mpsearch.cost.fit.score import score

    return [
        {"format": kind, "sparsity": sparsity, **asdict(score([part]))}
        for (kind, sparsity), part in predicted.items()
    ]


def _print(device: "Device", own: "Measurements", rejected: Mapping[str, tuple[int, int]]) -> None:
    accepted = sum(len(group.us) for group in own.groups.values())
    print(f"{device.name}: {own.rows} rows, {accepted} kernels fitted")
    for why, (count, line) in rejected.items():
        print(f"rejected: {count} rows {why} (first in line {line})")


def _print_scores(title: str, predicted: "Mapping[tuple[str, str], Predicted]") -> None:
    from mpsearch.cli.printing.tables import print_table
    from mpsearch.cost.fit.score import score

    if not predicted:
        print(f"{title}: nothing, fewer than three (N, K) were measured")
        return
    rows = [[*key, *_cells(score([part]))] for key, part in predicted.items()]
    rows.append(["all", "", *_cells(score(list(predicted.values())))])
    head = [
        "format",
        "sparsity",
        "kernels",
        "mean error",
        "median",
        "pairs in order",
        "in 1.96 s.e.",
    ]
    print_table(title, head, rows)


def _cells(found: "Score") -> Sequence[str]:
    ordered = "–" if found.ordered is None else f"{found.ordered:.1%}"
    return (
        str(found.count),
        f"{found.mean_error:.1%}",
        f"{found.median_error:.1%}",
        ordered,
        f"{found.within:.1%}",
    )
