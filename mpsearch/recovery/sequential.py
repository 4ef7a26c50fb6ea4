"""Methods that recover layer by layer as the plan runs: second-order rounding, bias correction."""

import warnings
from collections.abc import Sequence

from mpsearch.losses.outputs import find_mask
from mpsearch.program.schedule import make_schedule
from mpsearch.recovery.layer_choice import Rounding
from mpsearch.recovery.lockstep import Pass, recover_in_lockstep
from mpsearch.recovery.task import Method, Recovered, RecoveryTask
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.memory_budget import MemoryWarning, free_memory, live_bytes
from mpsearch.simulate.reference import head_slots


def round_weights(task: RecoveryTask) -> Recovered:
    """Weights rounded so that errors make up for each other, on the plan's own inputs, towards fp32's outputs."""
    return run_pass(task, rounding="gptq", bias=task.bias)


def learn_weights(task: RecoveryTask) -> Recovered:
    """The same, and then learned for each weight which way it is rounded (AdaRound)."""
    return run_pass(task, rounding="round", bias=task.bias)


def prune_weights(task: RecoveryTask) -> Recovered:
    """Weights of sparse schemes pruned in the Gram matrix, kept ones made up, then rounded plainly."""
    return run_pass(task, rounding="obs", bias=task.bias)


def correct_biases(task: RecoveryTask) -> Recovered:
    """Biases that take off the mean error of each layer's output."""
    return run_pass(task, rounding=None, bias=True)


def run_pass(task: RecoveryTask, *, rounding: Rounding | None, bias: bool) -> Recovered:
    """Return what one pass over the task's data gives."""
    made, judge = task.made, task.judge
    calibrated = made.calibrated
    heads = head_slots(calibrated.program, made.heads)
    share = _share_that_fits(task, heads)
    runs = [made.feed_run(i) for i in range(max(1, int(share * made.n_runs)))]
    judging = (
        []
        if judge is None
        else [judge.feed_run(i) for i in range(max(1, int(share * judge.n_runs)))]
    )
    changes, layers = recover_in_lockstep(
        Pass(
            calibrated,
            layer_schemes(calibrated, task.assignment),
            heads,
            runs,
            judging,
            rounding=rounding,
            bias=bias,
            mask=find_mask(calibrated.graph, made.batches),
            progress=task.progress,
            deadline=task.deadline,
        )
    )
    errors = {
        layer: (found.before, found.after) for layer, found in layers.items() if found.changed
    }
    return Recovered(changes, errors)


def _share_that_fits(task: RecoveryTask, heads: Sequence[int]) -> float:
    """Of the runs, the share whose values of both models fit in memory at once; warns where that is not all."""
    made, program = task.made, task.made.calibrated.program
    alive = live_bytes(make_schedule(program, heads), made.reference.slot_bytes)
    runs = made.n_runs + (0 if task.judge is None else task.judge.n_runs)
    needed = 2 * alive * runs
    left = free_memory(made.calibrated.max_memory)
    if needed <= left:
        return 1.0
    warnings.warn(
        f"recovering a plan holds the values of all samples, about {needed / 1e6:.0f} MB, but {left / 1e6:.0f} MB are "
        f"free: it goes on with {left / needed:.0%} of the samples; raise the memory given, or give fewer",
        MemoryWarning,
        stacklevel=2,
    )
    return left / needed


GPTQ = Method(round_weights, takes_bias=True)
ROUND = Method(learn_weights, takes_bias=True)
OBS = Method(prune_weights, takes_bias=True)
BIAS = Method(correct_biases, kind="bias")
