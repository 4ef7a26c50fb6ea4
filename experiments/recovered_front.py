"""What recovery moves the front by: hypervolume of the demo's search and of one without recovery that takes as long.

Run: make demo, then python -m experiments.recovered_front runs/demo [FOLDER] [-o experiments/results/recovered_front.json]

The search without recovery is the demo's job, but for what the demo spends on recovering finalists, by the seconds of its
stages, it measures more plans. What each says is its front (points that were measured, none better by that) is then scored on lines of
another seed. The hypervolume is the share of a box that a front's held-out losses dominate: from the least latency (size) of both fronts
to the largest, from 0 to ``--worst`` nats.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpsearch.artifacts import read_envelope
from mpsearch.choose.measured import plan_file
from mpsearch.data.batches import make_batches
from mpsearch.demo.demo import (
    BATCH,
    DEVICE,
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

_HELD_OUT, _SEED = 400, 302  # lines that fronts are scored on
_MEASURED = 12  # points of the predicted front that every search measures
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


def search_plainly(run: Path, out: Path) -> int:
    """Run the demo's search without recovery for as long as ``run`` took, and return how many plans it refines with."""
    content = read_envelope(run / "run.json")["content"]
    seconds = {name: content["stages"][name]["seconds"] for name in ("plain_front", "front")}
    more = seconds["front"] / seconds["plain_front"]
    refine = round(REFINE + more * (REFINE + _MEASURED))
    model, lines = fetch_model(cache_folder()), cache_folder() / "lines-0" / "calibration.npz"
    job = Job(
        model=model.name,
        data=lines.name,
        device=DEVICE,
        batch=BATCH,
        samples=0,
        refine=refine,
        recovery="none",
    )
    run_job(prepare(job, Sources(model, lines, None, DEVICE, "")), out)
    return refine


def front_of(
    run: Path, judge: Simulator, known: dict[tuple[int, ...], tuple[float, float]], file: str
) -> list[Scored]:
    """Return what a run's measured points say is its front, scored; plain ones are scored once."""
    points = [p for p in read_front(run / file).points if "loss" in p.measured]
    kept = np.zeros(len(points), bool)
    for goal in _GOALS:
        pairs = [(p.value(goal).mean, p.measured["loss"].mean) for p in points]
        kept |= non_dominated(pairs)
    found = []
    for point in (p for p, keep in zip(points, kept, strict=True) if keep):
        if point.method == RECOVERED:
            plan = read_plan(run / "plans" / plan_file(point))
            own = judge.change(changes_of(plan, judge.graph))
            found.append(Scored(point, tuple(own.loss(np.array(point.assignment)))))
            continue
        if point.assignment not in known:
            known[point.assignment] = tuple(judge.loss(np.array(point.assignment)))
        found.append(Scored(point, known[point.assignment]))
    return found


def volume(front: list[Scored], goal: str, least: float, most: float, worst: float) -> float:
    """Return the share of the box that a front dominates."""
    values = [((s.value(goal) - least) / (most - least), s.held_out[0] / worst) for s in front]
    return hypervolume(values, (1.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="of the demo")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="of the search without recovery; default: what the run itself had before it recovered",
    )
    parser.add_argument("--lines", type=int, default=_HELD_OUT, help="that fronts are scored on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worst", type=float, nargs="+", default=[0.4, 0.1])
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    refine, plain = REFINE, (options.run, "plain_front.json")
    if options.folder is not None:
        refine, plain = search_plainly(options.run, options.folder), (options.folder, "front.json")
        print(f"without recovery: {refine} plans to refine with", flush=True)
    lines = cache_folder() / "lines-0" / "calibration.npz"
    prepared = prepare(
        Job(model="model.onnx", data=lines.name, device=DEVICE, batch=BATCH, samples=0),
        Sources(fetch_model(cache_folder()), lines, None, DEVICE, ""),
    )
    assert prepared.batches is not None  # the job names data
    calibrated = Simulator(prepared.graph, prepared.space, prepared.batches)
    x = orientation_arrays(options.lines, seed=_SEED)["x"]
    judge = calibrated.on_data(make_batches({"x": x}, batch_size=100))
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    fronts = {
        "recovered": front_of(options.run, judge, known, "front.json"),
        "plain": front_of(plain[0], judge, known, plain[1]),
    }
    both = [scored for front in fronts.values() for scored in front]
    table: dict[str, Any] = {"refine": {"recovered": REFINE, "plain": refine}}
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
