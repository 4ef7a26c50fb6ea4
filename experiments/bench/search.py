"""Times of the searches on additive problems of several sizes, and how good their fronts are.

Run: python -m experiments.bench.search [--quick]
"""

import argparse
import json
import platform
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from mpsearch import registry
from mpsearch.problem.front import Front
from mpsearch.problem.pareto import hypervolume
from mpsearch.problem.problem import Problem
from mpsearch.search.choose_point import choose_point
from mpsearch.search.task import Task

HAWQ = Path(__file__).parents[2] / "tests" / "data" / "hawq_v3.json"


def hawq_problem(network: str) -> Problem:
    """Return HAWQ-V3's published table of ``network`` (arXiv 2011.10680), latencies in us."""
    arrays = json.loads(HAWQ.read_text())[network]
    trace = np.array(arrays["Hutchinson_trace"])[:, None]
    deltas = np.array([arrays["delta_weights_4bit_square"], arrays["delta_weights_8bit_square"]]).T
    latency = 1e3 * np.array([arrays["latency_int4"], arrays["latency_int8"]]).T
    ties = [f"tie({', '.join(f'group{i}' for i in tie)})" for tie in arrays["ties"]]
    return Problem({"loss": trace * deltas, "latency_us": latency}, constraints=ties)


def random_problem(
    n_groups: int, n_schemes: int, *, chain: bool = False, extra: int = 0, spread: float = 1.0
) -> Problem:
    """Return random costs that fall and losses that rise from scheme to scheme, sizes log-normal.

    Args:
        n_groups: Groups.
        n_schemes: Schemes.
        chain: Switches between neighbours cost latency.
        extra: Further edges, two to five groups long.
        spread: Deviation of the logarithm of sizes; more gives longer fronts.
    """
    rng = np.random.default_rng([n_groups, n_schemes])
    cost = np.sort(rng.uniform(0.2, 1, (n_groups, n_schemes)))[:, ::-1]
    loss = np.sort(rng.uniform(0, 1, (n_groups, n_schemes)) ** 3)
    objectives = {
        "latency_us": rng.lognormal(0, spread, (n_groups, 1)) * cost,
        "loss": rng.lognormal(-3, 1.5 * spread, (n_groups, 1)) * loss,
    }
    if not chain:
        return Problem(objectives)
    edges = [(i, i + 1) for i in range(n_groups - 1)]
    starts = rng.integers(n_groups - 6, size=extra).tolist()
    edges += [(a, a + int(rng.integers(2, 6))) for a in starts]
    switch = np.tile(0.05 * (1 - np.eye(n_schemes)), (len(edges), 1, 1))
    return Problem(objectives, edges=edges, pair_terms={"latency_us": switch})


def timed(run: Callable[[], Front]) -> tuple[float, Front]:
    """Return the processor seconds of a run, which a busy machine does not stretch, and its front."""
    start = time.process_time()
    front = run()
    return time.process_time() - start, front


def exact(problem: Problem, eps: float = 0.0) -> Front:
    """Return the exact front."""
    return registry.find("searchers", "exact").search(Task(problem), eps=eps)


def milp(problem: Problem) -> Front:
    """Return the least loss of ``problem`` by an integer program."""
    return registry.find("searchers", "milp").search(Task(problem, ("loss",)))


def hull(problem: Problem) -> Front:
    """Return the hull of the front."""
    return registry.find("searchers", "hull").search(Task(problem))


def show_optima(problem: Problem) -> None:
    """Print the least loss of ``problem`` within three latencies: off the front, and by integer programs."""
    low, high = problem.objectives["latency_us"].sum(axis=0)
    limits = [float(low + share * (high - low)) for share in (0.25, 0.5, 0.75)]
    start = time.process_time()
    front = exact(problem)
    points = [choose_point(front, limits={"latency_us": limit}) for limit in limits]
    seconds = time.process_time() - start
    found = [
        f"{p.predicted['loss'].mean:.6f} at {p.predicted['latency_us'].mean / 1e3:.4f} ms"
        for p in points
    ]
    print(
        f"{'exact, resnet50 and its three optima':40s} {1e3 * seconds:10.1f} ms  {', '.join(found)}"
    )
    for limit, point in zip(limits, points, strict=True):
        limited = problem.changed(constraints=[*problem.constraints, f"latency_us <= {limit!r}"])
        seconds, front = timed(partial(milp, limited))
        same = front.points[0].assignment == point.assignment
        print(f"{'milp, one of them':40s} {1e3 * seconds:10.1f} ms  the same: {same}")


def proven_share(front: Front) -> float:
    """Return the least share of the true hypervolume that the front's certificate proves."""
    found = re.match(r"eps=([0-9.e+-]+)", front.certificate)
    eps = float(found[1]) if found else 0.0
    values = front.objectives
    reference = values.max(axis=0)
    better = values - eps * np.array([1.0, 0.0]) * np.ptp(values, axis=0)
    return front.hypervolume(reference) / hypervolume(better, reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the integer programs")
    options = parser.parse_args()
    warm = random_problem(6, 3, chain=True)
    exact(warm)
    hull(random_problem(6, 3))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")

    def show(name: str, seconds: float, front: Front, more: str = "") -> None:
        proof = front.certificate.split(":")[0]
        print(f"{name:40s} {1e3 * seconds:10.1f} ms {len(front.points):7d} points  {proof} {more}")

    for network in ("resnet18", "resnet50"):
        problem = hawq_problem(network)
        show(f"exact, HAWQ-V3 {network}", *timed(partial(exact, problem)))
    show_optima(problem)
    show("exact, 54 x 5", *timed(lambda: exact(random_problem(54, 5))))
    long = random_problem(54, 5, spread=1.5)
    show("exact, 54 x 5, sizes far apart", *timed(lambda: exact(long)))
    show("exact, 54 x 5, chain switches", *timed(lambda: exact(random_problem(54, 5, chain=True))))
    show("exact, 128 x 4", *timed(lambda: exact(random_problem(128, 4))))
    large = random_problem(320, 4, chain=True)
    seconds, front = timed(lambda: exact(large))
    show(
        "exact, 320 x 4, chain switches", seconds, front, f">= {proven_share(front):.6f} of volume"
    )
    wide = random_problem(10_000, 8)
    show("hull, 10 000 x 8", *timed(lambda: hull(wide)))
    show("exact, 10 000 x 8, eps 1 %", *timed(lambda: exact(wide, eps=0.01)))
    if options.quick:
        return
    graph = random_problem(1_000, 6, chain=True, extra=251)
    costs = graph.objectives["latency_us"]
    for share in (0.25, 0.5, 0.75):
        limit = costs.min(axis=1).sum() * (1 - share) + costs.max(axis=1).sum() * share
        limited = graph.changed(constraints=[f"latency_us <= {limit}"])
        seconds, front = timed(partial(milp, limited))
        show(f"milp, 1 000 x 6, 1 250 edges, {share:.2f}", seconds, front)


if __name__ == "__main__":
    main()
