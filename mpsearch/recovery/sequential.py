"""Methods that recover layer by layer as the plan runs: second-order rounding, bias correction."""

from mpsearch.losses.outputs import find_mask
from mpsearch.recovery.lockstep import Pass, recover_in_lockstep
from mpsearch.recovery.task import Method, Recovered, RecoveryTask
from mpsearch.simulate.assignments import layer_schemes
from mpsearch.simulate.reference import head_slots


def round_weights(task: RecoveryTask) -> Recovered:
    """Weights rounded so that errors make up for each other, on the plan's own inputs, towards fp32's outputs."""
    return run_pass(task, rounds=True, bias=task.bias)


def correct_biases(task: RecoveryTask) -> Recovered:
    """Biases that take off the mean error of each layer's output."""
    return run_pass(task, rounds=False, bias=True)


def run_pass(task: RecoveryTask, *, rounds: bool, bias: bool) -> Recovered:
    """Return what one pass over the task's data gives."""
    made, judge = task.made, task.judge
    calibrated = made.calibrated
    runs = [made.feed_run(i) for i in range(made.n_runs)]
    judging = [] if judge is None else [judge.feed_run(i) for i in range(judge.n_runs)]
    changes, layers = recover_in_lockstep(
        Pass(
            calibrated,
            layer_schemes(calibrated, task.assignment),
            head_slots(calibrated.program, made.heads),
            runs,
            judging,
            rounds=rounds,
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


GPTQ = Method(round_weights, takes_bias=True)
BIAS = Method(correct_biases, kind="bias")
