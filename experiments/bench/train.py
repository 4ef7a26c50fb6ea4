"""Time a step of training a plan beside plain forwards of the same batch.

Run from the repository: ``python -m experiments.bench.train [--scheme nvfp4] [--batch 32] [--threads 1]``.
Times are CPU time of this process, the least of several runs, so that ratios hold on a shared machine. The model is the
demo's (text orientation); a plain forward is the simulation of the plan without gradients, and the fp32 program is beside it.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.demo.demo import cache_folder, fetch_model
from mpsearch.demo.text_lines import orientation_arrays
from mpsearch.losses.losses import sample_losses
from mpsearch.program.schedule import make_schedule
from mpsearch.recovery.training.parameters import make_parameters
from mpsearch.recovery.training.recipe import Recipe
from mpsearch.recovery.training.run import Trainable
from mpsearch.recovery.training.samples import split_samples
from mpsearch.schemes import find_scheme
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.reference import head_slots
from mpsearch.simulate.runner import run_program


def best_time(run: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest of several runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def time_scheme(name: str, batch: int, repeats: int) -> None:
    """Print times of a uniform plan of ``name``, fp8 where it is not allowed."""
    model = fetch_model(cache_folder())
    space = mp.SearchSpace("b", tuple(map(find_scheme, dict.fromkeys(("fp16", "fp8", name)))))
    x = orientation_arrays(2 * batch, seed=31)["x"]
    simulator = mp.Simulator(mp.import_onnx(model), space, make_batches({"x": x}, batch_size=batch))
    order = [space.names.index(n) for n in (name, "fp8", "fp16")]
    chosen = np.array([next(s for s in order if row[s]) for row in simulator.allowed])
    indices = layer_schemes(simulator.calibrated, chosen)
    schemes = [space.schemes[s] for s in indices]
    recipe = Recipe()
    parameters = make_parameters(simulator.calibrated, schemes, recipe)
    slots = head_slots(simulator.program, simulator.heads)
    schedule = make_schedule(simulator.program, slots)
    model_run = Trainable(simulator.calibrated, schemes, parameters, schedule, slots, False)
    samples = split_samples(simulator.program, simulator.reference, batch=batch, held_out=0.5)
    feed, target = samples.take(list(range(batch)))
    optimizer = torch.optim.AdamW(parameters.groups(recipe), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        heads = model_run.run(feed)
        sample_losses("kl", simulator.heads, heads, target).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters.tensors.values(), 1.0, foreach=True)
        optimizer.step()

    def run(chosen: tuple[int, ...] | None) -> object:
        with torch.inference_mode():
            return run_program(simulator.calibrated, feed, chosen, schedule)

    exact = best_time(lambda: run(None), repeats)
    plain = best_time(lambda: run(indices), repeats)
    forward, whole = best_time(lambda: model_run.run(feed), repeats), best_time(step, repeats)
    print(
        f"{name}, batch {batch}: fp32 forward {1e3 * exact:.0f} ms, plain forward {1e3 * plain:.0f} ms, forward "
        f"with gradients {1e3 * forward:.0f} ms, step {1e3 * whole:.0f} ms: {whole / plain:.2f} plain forwards, "
        f"{whole / exact:.2f} of fp32",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", nargs="+", default=["nvfp4", "fp8", "fp8_2of4", "int8"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.scheme:
        time_scheme(name, options.batch, options.repeats)


if __name__ == "__main__":
    main()
