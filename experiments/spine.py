"""The figures of the README, from a finished demo run: the mixed plans against the uniform ones, and the exact front.

    make demo
    .venv/bin/python -m experiments.spine runs/demo

Prints the table in Markdown and what holds of it; ``--picture FILE.svg`` draws the front.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.artifacts import read_envelope
from mpsearch.figures.static import write_figure
from mpsearch.problem.build import build_problem
from mpsearch.problem.pareto import non_dominated
from mpsearch.problem.problem import Problem
from mpsearch.problem.tables import read_costs, read_table
from mpsearch.runs.report import read_report
from mpsearch.search.find_front import find_front

_DIGITS = 12  # decimals of µs and nats at which two sums are the same


def rows_of(run: Path) -> list[dict[str, Any]]:
    return read_envelope(run / "run.json")["content"]["results"]["rows"]


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(
        "| plan | latency µs | weights kB | effective bits | KL to fp32, nats | held-out NLL | accuracy |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        latency = "–" if row["latency_us"] is None else f"{row['latency_us']:.2f}"
        loss = row["measured"].get("loss")
        shown = "–" if loss is None else f"{loss[0]:.4f} ± {loss[1]:.4f}"
        nll, accuracy = row["scores"]["nll"], row["scores"]["accuracy"]
        print(
            f"| {row['label']} | {latency} | {row['weight_bytes'] / 1e3:.1f} | {row['effective_bits']:.2f} "
            f"| {shown} | {nll[0]:.4f} ± {nll[1]:.4f} | {accuracy[0]:.3f} |"
        )


def print_claims(rows: list[dict[str, Any]]) -> None:
    fp8 = next(row for row in rows if row["label"] == "uniform fp8")
    for row in rows:
        if not row["label"].startswith("mixed"):
            continue
        faster = 1 - row["latency_us"] / fp8["latency_us"]
        smaller = 1 - row["weight_bytes"] / fp8["weight_bytes"]
        nll = row["scores"]["nll"][0] - fp8["scores"]["nll"][0]
        print(
            f"{row['label']}: {faster:.1%} less latency than uniform fp8, {smaller:.1%} smaller, "
            f"{row['effective_bits']:.2f} effective bits, held-out NLL {nll:+.4f} against it"
        )


def print_exact(run: Path) -> None:
    """Time the exact front of the run's own table, and hold a cut of ten layers against brute force."""
    table, costs = read_table(run / "sensitivity.json"), read_costs(run / "costs.json")
    whole = build_problem(table, costs)
    plain = Problem(whole.objectives, allowed=whole.allowed)
    for label, problem in (("without switches", plain), ("with switches", whole)):
        find_front(problem, method="exact")  # compiles
        started = time.perf_counter()
        front = find_front(problem, method="exact")
        print(
            f"exact front of {problem.n_groups} groups x {problem.n_schemes} schemes, {label}: "
            f"{len(front.points)} points in {time.perf_counter() - started:.2f} s ({front.certificate})"
        )
    kept = np.arange(10)
    inside = np.isin(whole.edges, kept).all(axis=1)
    cut = Problem(
        {name: values[kept] for name, values in whole.objectives.items()},
        allowed=whole.allowed[kept],
        edges=whole.edges[inside],
        pair_terms={name: terms[inside] for name, terms in whole.pair_terms.items()},
    )
    choices = [np.flatnonzero(row) for row in cut.allowed]
    sizes = [len(choice) for choice in choices]
    count = int(np.prod(sizes))
    brute = np.empty((0, 2))
    for start in range(0, count, 250_000):
        codes = np.unravel_index(np.arange(start, min(start + 250_000, count)), sizes)
        values = cut.evaluate(np.column_stack([c[i] for c, i in zip(choices, codes, strict=True)]))
        plane = np.column_stack([values["latency_us"], values["loss"]])
        plane = plane.round(_DIGITS)  # sums in another order differ in the last bits
        brute = np.unique(np.vstack([brute, plane]), axis=0)
        brute = brute[non_dominated(brute)]
    found = find_front(cut, method="exact").objectives
    exact = np.unique(found.round(_DIGITS), axis=0)
    same = brute.shape == exact.shape and np.allclose(exact, brute, rtol=1e-9)
    print(f"cut of {len(kept)} layers: {count} assignments by brute force, fronts equal: {same}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--picture", type=Path, help="the run's front, as docs/pictures/front.svg")
    arguments = parser.parse_args()
    run = arguments.run
    if arguments.picture is not None:
        write_figure(arguments.picture, "front", read_report(run))
    rows = rows_of(run)
    print_rows(rows)
    print()
    print_claims(rows)
    print_exact(run)


if __name__ == "__main__":
    main()
