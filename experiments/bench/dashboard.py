"""How quick the dashboard is on a large run: 320 layers and 20 000 points: ``python -m experiments.bench.dashboard``.

Each interaction is timed in Chromium, from the event to the page that shows its result, several times; the least
time is what the dashboard takes, what is above it is what else the machine does. The aim is 300 ms.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.dashboard.serve import open_dashboard
from mpsearch.figures.content import Report
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import Point
from mpsearch.problem.pareto import non_dominated
from mpsearch.report.page import render_report
from mpsearch.stats.estimates import Estimate
from tests.support.browser import CHROMIUM, FLAGS
from tests.support.made_folder import write_run
from tests.support.made_run import make_run

AIM_MS = 300.0


def large_run(layers: int, points: int, seed: int = 0) -> Report:
    """Return a run of so many layers whose front has so many points, nearly all of them predicted only."""
    report = make_run(layers)
    problem = build_problem(report.table, report.costs)
    rng = np.random.default_rng(seed)
    weights = 10 ** rng.uniform(-6, 2, (points, 1, 1))
    sizes = rng.uniform(0, 1, (points, 1, 1))
    loss, latency, size = (problem.objectives[n] for n in ("loss", "latency_us", "weight_bytes"))
    costs = weights * ((1 - sizes) * latency / latency.sum() + sizes * size / size.sum())
    drawn = np.where(problem.allowed, loss + costs, np.inf).argmin(axis=2)
    for row in drawn:  # each one other than its neighbours
        for g in rng.integers(0, layers, 3):
            row[g] = rng.choice(np.flatnonzero(problem.allowed[g]))
    totals = problem.evaluate(drawn)
    found = [
        Point(
            tuple(row.tolist()),
            {name: Estimate(float(values[i])) for name, values in totals.items()},
            method="drawn",
        )
        for i, row in enumerate(drawn)
    ]
    own = [p for p in report.front.points if p.measured]
    everything = {p.assignment: p for p in (*found, *own)}
    ordered = sorted(everything.values(), key=lambda p: p.predicted["latency_us"].mean)
    values = np.array([[p.predicted[n].mean for n in ("latency_us", "loss")] for p in ordered])
    print(f"{len(ordered)} points, {int(non_dominated(values).sum())} along latency and loss")
    return replace(report, front=replace(report.front, points=tuple(ordered)))


def timed(page: Any, act: Callable[[], None], done: str, times: int) -> list[float]:
    """Return how long ``act`` takes until the condition ``done`` of the page holds, in milliseconds."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        page.wait_for_function(f"() => {{ {done} }}", polling=10)
        found.append(1e3 * (time.perf_counter() - started))
        page.wait_for_timeout(700)
    return found


def measure(link: str, times: int) -> dict[str, list[float]]:
    """Return interaction to its times in milliseconds."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {}
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        started = time.perf_counter()
        page.goto(link)
        drawn = "const p = document.querySelector('#front-graph .js-plotly-plot'); return p && p.data && p.data.length;"
        page.wait_for_function(f"() => {{ {drawn} }}")
        found["first page"] = [1e3 * (time.perf_counter() - started)]
        page.evaluate("window.drawn = 0")
        page.evaluate(
            "document.querySelector('#front-graph .js-plotly-plot').on('plotly_afterplot', () => { window.drawn += 1; })"
        )
        limits = iter(np.linspace(0.35, 0.9, 40).tolist())
        ends = page.evaluate(
            "(() => { const p = document.querySelector('#front-graph .js-plotly-plot'); return p.layout.xaxis.range; })()"
        )

        def limit() -> None:
            page.evaluate("window.drawn = 0")
            value = ends[0] + next(limits) * (ends[1] - ends[0])
            page.locator("#limit-latency_us").fill(f"{value:.5g}")
            page.keyboard.press("Enter")

        found["limit to redrawn front"] = timed(page, limit, "return window.drawn > 0;", times)
        page.locator("#clear").click()
        page.wait_for_timeout(1500)

        def zoom() -> None:
            page.evaluate("window.drawn = 0")
            at = next(limits)
            middle = ends[0] + at * (ends[1] - ends[0])
            page.evaluate(
                f"Plotly.relayout(document.querySelector('#front-graph .js-plotly-plot'), {{'xaxis.range[0]': {middle} - 1, 'xaxis.range[1]': {middle} + 1}})"
            )

        found["zoom to redrawn front"] = timed(page, zoom, "return window.drawn > 1;", times)
        for name in ("plan", "sensitivity", "take"):
            ready = f"const v = document.getElementById('{name}-view'); return !v.hidden && v.querySelectorAll('table tr').length > 3;"
            if name == "sensitivity":
                ready = "const p = document.querySelector('#sensitivity-map .js-plotly-plot'); return p && p.offsetParent && p.data && p.data.length;"

            def go(name: str = name) -> None:
                page.evaluate(f"window.location.hash = '#{name}'")

            found[f"open {name}"] = timed(page, go, ready, 1)
        page.locator("#take-layer").click()
        page.get_by_role("option").nth(3).click()
        page.locator("#take-scheme").click()
        page.get_by_role("option").nth(1).click()

        def change() -> None:
            page.locator("#take-undo").click()
            page.wait_for_timeout(600)
            page.evaluate("window.asked = performance.now()")
            page.locator("#take-change").click()

        page.wait_for_timeout(500)
        prices = timed(page, change, "return document.querySelector('#take-whatif table');", times)
        found["what-if to its price"] = [ms - 600 for ms in prices]
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=320)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report = large_run(asked.layers, asked.points)
    size = len(render_report(report).encode()) / 1e6
    with tempfile.TemporaryDirectory() as name:
        run = write_run(report, Path(name) / "large", device="npu_200tops")
        served = open_dashboard([run])
        threading.Thread(target=served.run, daemon=True).start()
        found = measure(served.link, asked.times)
        served.server.shutdown()
        served.close()
    print(f"report.html: {size:.2f} MB")
    for what, times in found.items():
        mark = "" if min(times) <= AIM_MS or len(times) == 1 else "  above the aim"
        print(f"{what:<24} {min(times):7.0f} ms at least, {np.median(times):7.0f} ms median{mark}")
    if asked.json:
        rounded = {k: [round(v, 1) for v in times] for k, times in found.items()}
        out = {
            "layers": asked.layers,
            "points": asked.points,
            "report_mb": round(size, 2),
            "ms": rounded,
        }
        asked.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
