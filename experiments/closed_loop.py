"""Predicted against measured latency of whole plans, on this machine: profile, random plans, and a search.

``python -m experiments.closed_loop MODEL FOLDER --runtime onnxruntime`` profiles the model that
``python -m experiments.models MODEL -o FOLDER`` made, measures fp32, uniform int8, 20 random plans of fp32 and
int8 and the fastest plan that a search finds with the profile in turns, then fp32, uniform int8 and the found plan alone
for longer, scores these three on held-out data, and adds all to ``experiments/results/closed_loop.json``.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mpsearch as mp
from experiments.models.made import onnxruntime_run
from mpsearch.cost.executed.device_file import device_text
from mpsearch.cost.executed.network import read_network
from mpsearch.cost.executed.steps import network_us
from mpsearch.data.batches import make_batches
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.make import make_plan
from mpsearch.problem.build import build_problem
from mpsearch.problem.front import Point
from mpsearch.problem.tables import Costs
from mpsearch.profile.end_to_end import time_models
from mpsearch.profile.journal import open_journal
from mpsearch.profile.profile_model import Subject, profile_model
from mpsearch.profile.stopwatch import Timing
from mpsearch.profile.timed_runtime import find_timed
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace

RESULTS = Path(__file__).parent / "results" / "closed_loop.json"
SPACE = SearchSpace("cpu", tuple(map(find_scheme, ("fp32", "int8"))), "fp32")
PLANS, SEED, NOISE, CALIBRATION = 20, 0, 0.002, 16
SIZES = {"detector": (3, 320, 320)}
"""Where the data's own size takes long: what they are cut to."""
FLOAT, UNIFORM, FOUND = "fp32", "int8", "found"
KEYS = ("profile_s", "profile_noise", "executed", "table", "found_beside_uniform", "quality")
Arrays = dict[str, NDArray[Any]]


def read_data(name: str, folder: Path) -> Arrays:
    """Calibration data of a model, without labels, cut where that is asked for."""
    with np.load(folder / "calibration.npz") as found:
        arrays = {key: found[key] for key in found.files if key != "labels"}
    if name in SIZES:
        _, height, width = SIZES[name]
        arrays = {key: x[:, :, :height, :width] for key, x in arrays.items()}
    return arrays


def random_plans(n_groups: int) -> dict[str, tuple[int, ...]]:
    """fp32, uniform int8, and random plans, each with a random share of int8."""
    rng = np.random.default_rng(SEED)
    plans = {FLOAT: (0,) * n_groups, UNIFORM: (1,) * n_groups}
    for i in range(PLANS):
        plans[f"random {i}"] = tuple((rng.random(n_groups) < rng.random()).astype(int).tolist())
    return plans


def fastest(costs: Costs, simulator: Simulator) -> tuple[int, ...]:
    """The fastest plan of a front of summed losses, by the exact solver on the profile's table."""
    table = mp.score_sensitivity(simulator, metric="sqnr")
    front = mp.find_front(build_problem(table, costs), method="exact")
    points = front.assignments[np.argsort(front.objectives[:, front.names.index("latency_us")])]
    return tuple(int(s) for s in points[0])


def table_us(costs: Costs, chosen: tuple[int, ...]) -> float:
    """What the search's table says of a plan."""
    total = costs.constants["latency_us"]
    total += costs.objectives["latency_us"][np.arange(len(chosen)), list(chosen)].sum()
    pairs = zip(costs.edges, costs.pair_terms["latency_us"], strict=True)
    return float(total + sum(term[chosen[a], chosen[b]] for (a, b), term in pairs))


def layer_schemes(graph: ModelGraph, chosen: tuple[int, ...]) -> list[Any]:
    """[L] schemes of a plan."""
    schemes = [SPACE.schemes[0]] * len(graph.layers)
    for group, s in zip(graph.groups, chosen, strict=True):
        for i in group.layers:
            schemes[i] = SPACE.schemes[s]
    return schemes


def quality(name: str, model: Path, folder: Path) -> dict[str, list[float]]:
    """Scores of a model on held-out data in onnxruntime: mean and standard error."""
    maker = import_module(f"experiments.models.{name}").MAKER
    scores = maker.score(onnxruntime_run(model, threads=1), folder)
    return {
        key: [round(float(x.mean()), 4), round(float(x.std(ddof=1) / len(x) ** 0.5), 4)]
        for key, x in scores.items()
    }


def agreement(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Error of random plans and how many pairs are in order; of all, and of those that the noise does not blur."""
    measured = np.array([row["measured_us"] for row in rows])
    error = np.array([row["stderr_us"] for row in rows])
    said = np.array([row[key] for row in rows])
    i, j = np.triu_indices(len(rows), 1)
    right = (measured[i] - measured[j]) * (said[i] - said[j]) > 0
    apart = np.abs(measured[i] - measured[j]) > 3 * np.hypot(error[i], error[j])
    return {
        "mape": float(np.abs(said / measured - 1).mean()),
        "order": float(right.mean()),
        "order_apart": float(right[apart].mean()),
        "share_apart": float(apart.mean()),
    }


def run(name: str, folder: Path, runtime_name: str, minutes: float) -> dict[str, Any]:
    """Profile, plans and search of one model in one runtime."""
    model, runtime, arrays = (
        folder / "model.onnx",
        find_timed(runtime_name),
        read_data(name, folder),
    )
    feeds = {key: x[:1] for key, x in arrays.items()}
    graph = import_onnx(model, shapes={key: (None, *x.shape[1:]) for key, x in feeds.items()})
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / f"cpu_{name}.toml"
        device = profile_model(
            Subject(graph, model, feeds),
            SPACE.schemes,
            runtime,
            name=out.stem,
            journal=open_journal(out, graph, runtime, SPACE.names),
            budget_s=60 * minutes,
        )
        profile_s = time.perf_counter() - begun
        out.write_text(device_text(device))
        costs = mp.estimate_costs(graph, SPACE, out)
        batches = make_batches({key: x[:CALIBRATION] for key, x in arrays.items()}, batch_size=1)
        simulator = Simulator(graph, SPACE, batches)
        plans = random_plans(len(graph.groups))
        plans[FOUND] = fastest(costs, simulator)
        files: dict[str, Path] = {}
        for key, chosen in plans.items():
            target = Path(temporary) / key
            mp.export_plan(
                make_plan(Point(chosen, {}), simulator), model, target, target="onnxruntime"
            )
            files[key] = target / "model.onnx"
        timings: Mapping[str, Timing] = time_models(
            files, feeds, runtime, tolerance=NOISE, budget_s=60 * minutes
        )
        three = {key: files[key] for key in (FLOAT, UNIFORM, FOUND)}
        duel = time_models(three, feeds, runtime, tolerance=0.001, budget_s=30 * minutes)
        scored = {} if name in SIZES else three  # held-out data have their own sizes
        scores = {key: quality(name, file, folder) for key, file in scored.items()}
    network = read_network(graph, device)
    rows = [
        {
            "plan": key,
            "int8_groups": sum(chosen),
            "measured_us": round(timings[key].us, 1),
            "stderr_us": round(timings[key].stderr_us, 2),
            "executed_us": round(network_us(network, layer_schemes(graph, chosen)), 1),
            "table_us": round(table_us(costs, chosen), 1),
        }
        for key, chosen in plans.items()
    ]
    random = [row for row in rows if str(row["plan"]).startswith("random")]
    return {
        "model": name,
        "runtime": runtime.version,
        "machine": platform.machine(),
        "sizes": {key: list(x.shape) for key, x in feeds.items()},
        "profile_s": round(profile_s, 1),
        "profile_noise": device.measured.noise if device.measured else None,
        "executed": agreement(random, "executed_us"),
        "table": agreement(random, "table_us"),
        "found_beside_uniform": {
            key: [round(timing.us, 1), round(timing.stderr_us, 2)] for key, timing in duel.items()
        },
        "quality": scores,
        "plans": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.closed_loop", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--minutes", type=float, default=3.0)
    arguments = parser.parse_args()
    found = run(arguments.name, arguments.folder, arguments.runtime, arguments.minutes)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results[f"{arguments.name} {arguments.runtime}"] = found
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for row in found["plans"]:
        print(row)
    print({key: found[key] for key in KEYS})


if __name__ == "__main__":
    main()
