"""Checks of a gate on what the export loses in the runtime: overall, against labels, slice by slice."""

from collections.abc import Iterator, Sequence

from mpsearch.data.batches import Batches
from mpsearch.errors import DataError
from mpsearch.losses.losses import loss_unit, worst_slice
from mpsearch.losses.outputs import parse_loss
from mpsearch.plan.plan import Plan
from mpsearch.stats.digits import number, with_error
from mpsearch.stats.estimates import Estimate, estimate_mean
from mpsearch.verify.gate import GateCheck, Limits
from mpsearch.verify.opened import Opened
from mpsearch.verify.whole import Judge, Outputs, make_judge

Z = 1.959964
"""Standard errors on each side of a 95 % interval."""


def check_losses(
    opened: Opened,
    chosen: Batches,
    fp32: Sequence[Outputs],
    outputs: Sequence[Outputs],
    limits: Limits,
) -> Iterator[GateCheck]:
    """Yield the checks of loss, accuracy and the worst slice.

    Args:
        opened: The export.
        chosen: The data as the runtime takes them.
        fp32: [n_runs] outputs of the fp32 model.
        outputs: [n_runs] outputs of the runtime.
        limits: What is asked for.

    Raises:
        DataError: The loss fits neither outputs nor labels.
    """
    axes = opened.form.outputs
    judge = make_judge(opened.graph, chosen, axes, fp32, limits.loss)
    losses = judge.losses(outputs)
    found = estimate_mean(losses)
    unit = loss_unit(parse_loss(limits.loss), judge.kind, judge.heads)
    yield _check_loss(opened.plan, found, limits, unit)
    yield _check_accuracy(judge, chosen, fp32, outputs, limits)
    if chosen.slice is None:
        yield GateCheck("worst slice", "skipped", detail="the data hold no array 'slice'")
        return
    worst, name = worst_slice(losses, chosen.slice)
    lower = worst.mean - Z * worst.stderr
    limit = found.mean + (limits.max_slice_ratio - 1) * abs(found.mean) + Z * found.stderr
    told = f"slice {name!r} loses {with_error(worst)}, all of them {with_error(found)}"
    yield GateCheck("worst slice", "pass" if lower <= limit else "fail", lower, limit, told)


def largest_loss(plan: Plan, found: Estimate) -> float | None:
    """Return what a loss measured anew may be: the plan's own, beyond the errors of both; None where it has none."""
    promised = plan.measured.get("loss")
    if promised is None:
        return None
    return promised.mean + Z * (promised.stderr**2 + found.stderr**2) ** 0.5


def _check_loss(plan: Plan, found: Estimate, limits: Limits, unit: str) -> GateCheck:
    upper = found.mean + Z * found.stderr
    told = f"{with_error(found)} {unit}, at most {number(upper)} with 95 % confidence"
    if limits.max_loss is not None:
        verdict = upper <= limits.max_loss
        return GateCheck("loss", "pass" if verdict else "fail", upper, limits.max_loss, told)
    limit = largest_loss(plan, found) if plan.unit in ("", unit) else None
    if limit is None and "loss" in plan.measured:
        told += (
            f"; the plan's loss is in {plan.unit}: give --loss as it was measured, or --max-loss"
        )
        return GateCheck("loss", "skipped", upper, None, told)
    if limit is None:
        told += "; the plan holds no measured loss to compare with: give --max-loss"
        return GateCheck("loss", "skipped", upper, None, told)
    told += f"; the plan measured {with_error(plan.measured['loss'])}"
    return GateCheck("loss", "pass" if found.mean <= limit else "fail", found.mean, limit, told)


def _check_accuracy(
    judge: Judge,
    chosen: Batches,
    fp32: Sequence[Outputs],
    outputs: Sequence[Outputs],
    limits: Limits,
) -> GateCheck:
    if chosen.labels is None:
        return GateCheck("accuracy", "skipped", detail="the data hold no labels")
    try:
        before, after = (judge.scores(side).get("accuracy") for side in (fp32, outputs))
    except DataError as error:
        return GateCheck("accuracy", "skipped", detail=str(error))
    if before is None or after is None:
        return GateCheck("accuracy", "skipped", detail="the output holds numbers, not classes")
    drop = estimate_mean(before - after)
    told = f"{number(float(after.mean()))} after {number(float(before.mean()))} in fp32: lost {with_error(drop)}"
    verdict = drop.mean <= limits.max_drop
    return GateCheck("accuracy", "pass" if verdict else "fail", drop.mean, limits.max_drop, told)
