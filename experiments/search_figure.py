"""The curves of `experiments.search_methods` as one picture and one table.

Run:  python -m experiments.search_figure experiments/results/search_methods.json -o docs/pictures/search_methods.svg
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.stats.estimates import Floats

MARKED = ("refine", "nsga2", "exact")


def by_method(found: dict[str, Any]) -> dict[str, list[Floats]]:
    """Return name to its curves [points, 3]: plan-equivalents, held-out share, calibration share."""
    curves: dict[str, list[Floats]] = {}
    for label, run in found["runs"].items():
        curves.setdefault(label.split("/")[0], []).append(np.array(run["curve"], np.float64))
    return curves


def first_reaching(curve: Floats, share: float) -> float:
    """Return the compute at which a curve first shows ``share``; inf if it never does."""
    there = np.flatnonzero(curve[:, 1] >= share)
    return float(curve[there[0], 0]) if len(there) else float("inf")


def table(found: dict[str, Any]) -> str:
    """Return a Markdown table: final held-out share, compute, and compute that reaches nsga2's end."""
    curves = by_method(found)
    goal = float(np.mean([curve[-1, 1] for curve in curves["nsga2"]]))
    lines = [
        "| method | searches | compute | held-out | least-most | nsga2's end reached at |",
        "|---|---|---|---|---|---|",
    ]
    ends = {name: [curve[-1, 1] for curve in each] for name, each in curves.items()}
    for name in sorted(curves, key=lambda name: -float(np.mean(ends[name]))):
        each, end = curves[name], ends[name]
        reached = [first_reaching(curve, goal) for curve in each]
        lines.append(
            f"| `{name}` | {len(each)} | {np.mean([c[-1, 0] for c in each]):.0f} | {np.mean(end):.3f} "
            f"| {min(end):.3f}-{max(end):.3f} "
            f"| {'-' if np.isinf(max(reached)) else f'{max(reached):.0f}'} |"
        )
    return "\n".join(lines)


def draw(known: dict[str, Any], path: Path) -> None:
    """Draw each model's methods: mean over the searches, and their range for the marked ones."""
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "mpsearch"
    figure, panels = pyplot.subplots(1, len(known), figsize=(5.5 * len(known), 4.6), squeeze=False)
    for axes, (model, found) in zip(panels[0], known.items(), strict=True):
        for number, (name, curves) in enumerate(by_method(found).items()):
            low, high = (
                max(curve[0, 0] for curve in curves),
                min(curve[-1, 0] for curve in curves),
            )
            grid = np.geomspace(low, high, 40)
            lines = np.stack([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in curves])
            style = {"color": f"C{number % 10}", "linestyle": ("-", "--")[number // 10]}
            width = 2.4 if name in MARKED else 1.1
            axes.plot(grid, lines.mean(axis=0), label=name, linewidth=width, **style)
            if len(curves) > 1 and name in MARKED:
                ends = lines.min(axis=0), lines.max(axis=0)
                axes.fill_between(grid, *ends, color=style["color"], alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_title(f"{model}: {found['groups']} groups, {found['schemes']} schemes")
        axes.set_xlabel("compute, in measurements of one plan (tables included)")
        axes.set_ylabel("hypervolume of held-out loss and latency")
        axes.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="picture (svg, png, pdf)")
    options = parser.parse_args()
    known = json.loads(options.curves.read_text())
    for model, found in known.items():
        print(f"\n{model}\n\n{table(found)}")
    if options.out:
        draw(known, options.out)


if __name__ == "__main__":
    main()
