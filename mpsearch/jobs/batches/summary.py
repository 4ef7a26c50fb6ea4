"""What many runs found, side by side: a line a plan, the best run a device and budget, the front of all fronts."""

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpsearch.errors import MpsearchError
from mpsearch.problem.front import Point, read_front
from mpsearch.problem.pareto import hypervolume, non_dominated
from mpsearch.runs.run import Run, open_run

_ROOM = 1.05  # times the largest of each objective: the corner that hypervolumes are measured from


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run was of.

    Attributes:
        model: The model's file.
        device: The device.
        budget: Measurements that it might spend; "" is the usual.
        space: The search space.
        target: The runtime; "" is none.
        seed: Its seed.
        method: The search method.
        unit: Unit of its loss.
    """

    model: str
    device: str
    budget: str
    space: str
    target: str
    seed: int
    method: str
    unit: str


@dataclass(frozen=True, slots=True)
class Line:
    """A plan of a run's final table.

    Attributes:
        run: The run's folder.
        setting: What the run was of.
        plan: What the table calls it.
        latency_us: Modelled latency.
        weight_bytes: Stored size.
        effective_bits: Stored bits a weight.
        loss: Measured loss; None where it was not.
        loss_stderr: Its standard error.
    """

    run: str
    setting: Setting
    plan: str
    latency_us: float | None
    weight_bytes: float | None
    effective_bits: float | None
    loss: float | None
    loss_stderr: float | None


@dataclass(frozen=True, slots=True)
class Best:
    """The best run of those of one model, device and budget, by the hypervolume of what it measured.

    Attributes:
        run: The run's folder.
        setting: What it was of.
        points: Measured points of its front.
        share: Its hypervolume over that of the front of all fronts of the same model and device.
        of: Runs that it is the best of.
    """

    run: str
    setting: Setting
    points: int
    share: float
    of: int


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A point of the front of all fronts of a model and a device, as measured.

    Attributes:
        run: The run that measured it.
        latency_us: Its latency.
        loss: Its measured loss.
        loss_stderr: The standard error of that.
    """

    run: str
    latency_us: float
    loss: float
    loss_stderr: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What runs found.

    Attributes:
        lines: Plans of all runs.
        best: A run for each model, device and budget.
        fronts: (model, device) to the front of all fronts.
    """

    lines: tuple[Line, ...]
    best: tuple[Best, ...]
    fronts: dict[tuple[str, str], tuple[FrontPoint, ...]]


def summarize(folders: Sequence[Path]) -> Summary:
    """Return what the finished runs among ``folders`` found; only what is comparable is compared.

    Fronts are merged where model, weights, data, loss and latency's batch are the same, and by measured losses alone.
    """
    runs: dict[str, Run] = {}
    for folder in folders:
        try:
            run = open_run(folder)
        except MpsearchError:
            continue
        if run.results is not None and not run.record.interrupted:
            runs[folder.name] = run
    settings = {name: _setting(run) for name, run in runs.items()}
    lines = tuple(line for name, run in runs.items() for line in _lines(name, settings[name], run))
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, run in runs.items():
        digests, job = run.job.digests, run.job
        key = (
            digests.get("model"), digests.get("weights"), digests.get("data"), digests["device"],
            job.batch, job.loss, str(job.tokens),
        )  # fmt: skip
        groups.setdefault(key, []).append(name)
    best: list[Best] = []
    fronts: dict[tuple[str, str], tuple[FrontPoint, ...]] = {}
    for names in groups.values():
        points = {name: _measured(runs[name].path) for name in names}
        values = {name: _values(points[name]) for name in names if points[name]}
        if not values:
            continue
        everything = np.concatenate(list(values.values()))
        corner = everything.max(axis=0) * _ROOM + 1e-12
        first = settings[names[0]]
        fronts[_free_key(fronts, first.model, first.device)] = _front(points)
        whole = hypervolume(everything, corner)
        best += _best(values, settings, corner, whole)
    return Summary(lines, tuple(best), fronts)


def summary_csv(summary: Summary) -> str:
    """Return the plans of all runs as a table of comma-separated values."""
    names = (
        "run", "model", "device", "budget", "space", "target", "seed", "method", "plan", "latency_us",
        "weight_bytes", "effective_bits", "loss", "loss_stderr", "unit",
    )  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for line in summary.lines:
        said = line.setting
        row = (
            line.run, said.model, said.device, said.budget, said.space, said.target, said.seed,
            said.method, line.plan, line.latency_us, line.weight_bytes, line.effective_bits,
            line.loss, line.loss_stderr, said.unit,
        )  # fmt: skip
        writer.writerow(["" if cell is None else _safe(cell) for cell in row])
    return text.getvalue()


def _safe(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell


def _setting(run: Run) -> Setting:
    job, results = run.job, run.results
    return Setting(
        model=job.model,
        device=run.costs.device,
        budget=str(job.budget) if job.budget else "",
        space=job.space,
        target=job.target,
        seed=job.seed,
        method=job.method,
        unit="" if results is None else results.unit,
    )


def _lines(name: str, setting: Setting, run: Run) -> list[Line]:
    found = []
    for row in () if run.results is None else run.results.rows:
        loss = row.measured.get("loss")
        figures = (row.latency_us, row.weight_bytes, row.effective_bits)
        mean, stderr = (None, None) if loss is None else (loss.mean, loss.stderr)
        found.append(Line(name, setting, row.label, *figures, mean, stderr))
    return found


def _measured(path: Path) -> list[Point]:
    """Measured points of a run's front."""
    if not (path / "front.json").is_file():
        return []
    points = read_front(path / "front.json").points
    return [p for p in points if "loss" in p.measured and "latency_us" in p.predicted]


def _values(points: Sequence[Point]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rows = [(p.predicted["latency_us"].mean, p.measured["loss"].mean) for p in points]
    return np.array(rows, np.float64).reshape(-1, 2)


def _front(points: dict[str, list[Point]]) -> tuple[FrontPoint, ...]:
    found = [
        FrontPoint(name, p.predicted["latency_us"].mean, *p.measured["loss"])
        for name, some in points.items()
        for p in some
    ]
    kept = non_dominated([(p.latency_us, p.loss) for p in found])
    chosen = [p for p, keep in zip(found, kept.tolist(), strict=True) if keep]
    return tuple(sorted(chosen, key=lambda p: p.latency_us))


def _best(
    values: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]],
    settings: dict[str, Setting],
    corner: np.ndarray[tuple[int], np.dtype[np.float64]],
    whole: float,
) -> list[Best]:
    budgets: dict[str, list[str]] = {}
    for name in values:
        budgets.setdefault(settings[name].budget, []).append(name)
    found = []
    for names in budgets.values():
        volumes = {name: hypervolume(values[name], corner) for name in names}
        name = max(volumes, key=lambda n: volumes[n])
        share = volumes[name] / whole if whole else 1.0
        found.append(Best(name, settings[name], len(values[name]), share, len(names)))
    return found


def _free_key(taken: Collection[tuple[str, str]], model: str, device: str) -> tuple[str, str]:
    """A name for a front: models of one name and other data stand apart."""
    number, key = 1, (model, device)
    while key in taken:
        number += 1
        key = (f"{model} ({number})", device)
    return key
