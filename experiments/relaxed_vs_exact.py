"""The plan of `relaxed`, which sees no table, against that of `exact` on the `perturbation` table.

Run:  python -m experiments.models orientation -o MODEL
      python -m experiments.relaxed_vs_exact MODEL

At each latency budget both plans are measured on the calibration data, which both searches saw, and on held-out
data. The standard error is that of the exact plan's mean loss.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

import mpsearch as mp
from mpsearch.stats.estimates import Estimate, Ints


def blind_problem(problem: mp.Problem, limit: float) -> mp.Problem:
    """Return ``problem`` without its losses, its latency limited."""
    tables = {**problem.objectives, "loss": np.zeros(problem.allowed.shape)}
    return problem.changed(objectives=tables, constraints=(f"latency_us <= {limit!r}",))


def relax(problem: mp.Problem, simulator: mp.Simulator, budget: int, seed: int) -> Ints:
    """Return the plan [G] with the least loss that relaxed measured."""
    front = mp.find_front(
        problem,
        method="relaxed",
        evaluator=simulator,
        budget=budget,
        settings={"targets": 1},
        seed=seed,
    )
    plan: Ints = front.assignments[int(front.objectives[:, 1].argmin())]
    return plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", type=Path, help="folder of model.onnx, calibration.npz, held_out.npz"
    )
    parser.add_argument("--space", default="npu")
    parser.add_argument("--device", default="npu_200tops")
    parser.add_argument("--batch", type=int, default=16, help="of the latency model")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--held-out-samples", type=int, default=200)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.5, 0.6, 0.8])
    parser.add_argument(
        "--budget", type=int, default=600, help="evaluations of relaxed at a latency"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = mp.read_batches(options.model / "calibration.npz", limit=options.samples)
    shapes = {key: (None, *value.shape[1:]) for key, value in data.arrays.items()}
    graph = mp.import_onnx(options.model / "model.onnx", shapes=shapes)
    space = mp.read_space(options.space)
    simulator = mp.Simulator(graph, space, data, loss="kl")
    held_out = simulator.on_data(
        mp.read_batches(options.model / "held_out.npz", limit=options.held_out_samples)
    )
    costs = mp.estimate_costs(graph, space, mp.read_device(options.device), batch=options.batch)
    table = mp.score_sensitivity(simulator.on_data(data), metric="perturbation")
    problem = mp.build_problem(table, costs)
    base = np.full((1, problem.n_groups), space.index(space.base))
    slowest = float(problem.evaluate(base)["latency_us"][0])
    front = mp.find_front(problem)
    print("| latency | exact | relaxed | 1.02 exact + 1 s.e. | held-out: exact | relaxed |")
    print("|---|---|---|---|---|---|")
    for share in options.shares:
        limit = share * slowest
        point = mp.choose_point(front, limits={"latency_us": limit})
        start = time.process_time()
        mine = relax(
            blind_problem(problem, limit), simulator.on_data(data), options.budget, options.seed
        )
        seconds = time.process_time() - start
        plans = np.stack([np.array(point.assignment), mine])
        exact, relaxed = simulator.evaluate(plans)
        other: list[Estimate] = held_out.evaluate(plans)
        bound = 1.02 * exact.mean + exact.stderr
        verdict = "kept" if relaxed.mean <= bound else "missed"
        print(
            f"| {limit:.2f} us ({share:.0%}) | {exact.mean:.4f} | {relaxed.mean:.4f} | {bound:.4f} {verdict} "
            f"| {other[0].mean:.4f} ± {other[0].stderr:.4f} | {other[1].mean:.4f} ± {other[1].stderr:.4f} |",
            f" {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
