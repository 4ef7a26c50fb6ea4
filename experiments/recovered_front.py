"""What recovery moves the front by: hypervolume of a search with recovery and of one without, for the same processor time.

Run: python -m experiments.recovered_front FOLDER [-o experiments/results/recovered_front.json]

Both are the demo's job (model, device, schemes, 192 lines); the one without recovery spends on more measured plans what the other
spends on recovering finalists, until it has taken as much processor time. What each says is its front (points that were measured, none better
by that) is then scored on 800 lines of another seed. The hypervolume is the share of a box that a front's held-out losses
dominate: from the least latency (size) of both fronts to that of uniform fp16, from 0 to ``--worst`` nats.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpsearch.choose.measured import plan_file
from mpsearch.data.batches import make_batches
from mpsearch.demo.demo import (
    BATCH,
    CALIBRATION_LINES,
    DEVICE,
    FINALISTS,
    REFINE,
    cache_folder,
    fetch_model,
)
from mpsearch.demo.text_lines import orientation_arrays
from mpsearch.jobs.prepare import prepare
from mpsearch.jobs.run import run_job
from mpsearch.plan.changes import changes_of
from mpsearch.plan.files import read_plan
from mpsearch.problem.front import RECOVERED, Point, read_front
from mpsearch.problem.pareto import hypervolume, non_dominated
from mpsearch.runs.job import Job
from mpsearch.runs.sources import Sources
from mpsearch.simulate.simulator import Simulator

_SEEDS = (301, 302)  # of the lines that a search sees, and of those that its front is scored on
_HELD_OUT = 800
_GOALS = ("latency_us", "weight_bytes")


@dataclass(frozen=True, slots=True)
class Scored:
    """A point of a front.

    Attributes:
        point: As the run measured it.
        held_out: Mean loss on lines that the run did not see, and its standard error.
    """

    point: Point
    held_out: tuple[float, float]

    def value(self, name: str) -> float:
        """Return its latency or size."""
        return self.point.value(name).mean


def search(folder: Path, recovery: str, refine: int) -> tuple[float, int]:
    """Run the demo's search and return its processor seconds and how many plans it measured."""
    calibration = folder / "calibration.npz"
    job = Job(
        model="model.onnx",
        data=calibration.name,
        device=DEVICE,
        batch=BATCH,
        samples=0,
        refine=refine,
        recovery=recovery,
        finalists=FINALISTS,
    )
    sources = Sources(fetch_model(cache_folder()), calibration, None, DEVICE, "")
    began = time.process_time()
    run_job(prepare(job, sources), folder / f"{recovery}-{refine}")
    taken = time.process_time() - began
    front = read_front(folder / f"{recovery}-{refine}" / "front.json")
    return taken, sum("loss" in point.measured for point in front.points)


def front_of(run: Path, judge: Simulator) -> list[Scored]:
    """Return what a run's measured points say is its front, scored."""
    points = [p for p in read_front(run / "front.json").points if "loss" in p.measured]
    kept = np.zeros(len(points), bool)
    for goal in _GOALS:
        pairs = [(p.value(goal).mean, p.measured["loss"].mean) for p in points]
        kept |= non_dominated(pairs)
    found = []
    for point in (p for p, keep in zip(points, kept, strict=True) if keep):
        own = judge
        if point.method == RECOVERED:
            plan = read_plan(run / "plans" / plan_file(point))
            own = judge.change(changes_of(plan, judge.graph))
        mean, stderr = own.loss(np.array(point.assignment))
        found.append(Scored(point, (mean, stderr)))
    return found


def volume(front: list[Scored], goal: str, least: float, most: float, worst: float) -> float:
    """Return the share of the box that a front dominates."""
    values = [((s.value(goal) - least) / (most - least), s.held_out[0] / worst) for s in front]
    return hypervolume(values, (1.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--more", type=int, default=60, help="plans more, a try")
    parser.add_argument("--worst", type=float, nargs="+", default=[0.4, 0.1])
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "calibration.npz", x=orientation_arrays(CALIBRATION_LINES, seed=_SEEDS[0])["x"]
    )
    spent = {"auto": search(folder, "auto", REFINE)}
    print("recovered", spent["auto"], flush=True)
    refine = REFINE
    while "none" not in spent or spent["none"][0] < spent["auto"][0]:
        refine += options.more
        spent["none"] = search(folder, "none", refine)
        print("plain", refine, spent["none"], flush=True)
    prepared = prepare(
        Job(model="model.onnx", data="calibration.npz", device=DEVICE, batch=BATCH, samples=0),
        Sources(fetch_model(cache_folder()), folder / "calibration.npz", None, DEVICE, ""),
    )
    assert prepared.batches is not None  # the job names data
    calibrated = Simulator(prepared.graph, prepared.space, prepared.batches)
    x = orientation_arrays(_HELD_OUT, seed=_SEEDS[1])["x"]
    judge = calibrated.on_data(make_batches({"x": x}, batch_size=100))
    fronts = {
        "recovered": front_of(folder / f"auto-{REFINE}", judge),
        "plain": front_of(folder / f"none-{refine}", judge),
    }
    both = [scored for front in fronts.values() for scored in front]
    table: dict[str, Any] = {
        "processor_s": {"recovered": spent["auto"][0], "plain": spent["none"][0]},
        "measured": {"recovered": spent["auto"][1], "plain": spent["none"][1]},
    }
    for goal in _GOALS:
        least, most = (pick(s.value(goal) for s in both) for pick in (min, max))
        for worst in options.worst:
            row = {name: volume(front, goal, least, most, worst) for name, front in fronts.items()}
            table[f"{goal}, {worst:g} nats"] = row
            print(goal, worst, row, flush=True)
    table["fronts"] = {
        name: [
            {
                "latency_us": s.value("latency_us"),
                "weight_bytes": s.value("weight_bytes"),
                "measured": s.point.measured["loss"].mean,
                "held_out": s.held_out,
                "recovered": s.point.method == RECOVERED,
            }
            for s in front
        ]
        for name, front in fronts.items()
    }
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
