"""Checks of a gate on what is fed: samples alone and together, twice the same, and extreme inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mpsearch.data.batches import Array, Batches
from mpsearch.errors import NumericsError, PlanError
from mpsearch.plan.match import plan_schemes
from mpsearch.stats.digits import number
from mpsearch.verify.gate import GateCheck, Limits
from mpsearch.verify.opened import Opened
from mpsearch.verify.verify_plan import least_divergence
from mpsearch.verify.whole import Outputs, at_outputs, divergence, make_scales

_TOGETHER = 32
_EXTREME = 4  # samples of extreme inputs
_DENORMAL = 1e-40


def check_batches_alone(opened: Opened) -> GateCheck:
    """Compare the outputs of samples run one by one with those of the same samples run together."""
    name, form = "batch size", opened.form.keep_size(opened.graph)
    axes = form.outputs
    if form.rows is not None:
        told = f"the model takes {form.rows} samples at a time, and no other number"
        return GateCheck(name, "skipped", detail=told)
    heads = at_outputs(opened.heads, opened.graph, axes)
    taken = opened.batches.take(_TOGETHER)
    if len(taken) < 2 or any(axes.get(head.output, 0) is None for head in heads):
        return GateCheck(name, "skipped", detail="there is no batch to run samples in")
    whole = form.apply(replace(taken, batch_size=len(taken)))
    together = opened.run(whole)[0]
    alone = opened.run(form.apply(replace(taken, batch_size=1)))
    joined = {
        head.output: torch.cat([o[head.output] for o in alone], axes.get(head.output, 0) or 0)
        for head in heads
    }
    fp32 = opened.run_fp32(whole)[0]
    scales = make_scales(heads, [fp32])
    found = divergence(heads, opened.kind, scales, [(together, joined)])
    changed = divergence(heads, opened.kind, scales, [(fp32, together)])
    limit = max(least_divergence(opened.graph), changed / 10)
    most = max(_largest_difference(together[h.output], joined[h.output]) for h in heads)
    told = (
        f"one sample alone and {len(taken)} together differ by {number(most)} at most; the plan itself "
        f"changes {number(changed)}"
    )
    if found <= limit:
        return GateCheck(name, "pass", found, limit, told)
    live = _live_ranges(opened)
    told += f"; live ranges of whole tensors: {', '.join(live[:3])}" if live else ""
    return GateCheck(name, "fail", found, limit, told)


def check_determinism(opened: Opened) -> GateCheck:
    """Run the same samples twice, and once more in a session of its own."""
    chosen = opened.chosen(_TOGETHER)
    first, second = opened.run(chosen), opened.run(chosen)
    third = replace(opened, session=opened.reopen()).run(chosen)
    most = max(
        _largest_difference(a[name], b[name])
        for other in (second, third)
        for a, b in zip(first, other, strict=True)
        for name in a
    )
    told = "the same samples twice in one session, and in a new one"
    return GateCheck("determinism", "pass" if most == 0 else "fail", most, 0.0, told)


def check_extremes(opened: Opened, limits: Limits) -> Iterator[GateCheck]:
    """Yield a check for each kind of extreme inputs: what the runtime gives must be finite where fp32 is."""
    taken = opened.batches.take(_EXTREME)
    floats = [name for name, array in taken.arrays.items() if array.dtype.kind == "f"]
    makers: Mapping[str, Callable[[Array], Array]] = {
        "zeros": lambda x: np.zeros_like(x),
        "constant": lambda x: np.full_like(x, x.mean()),
        "huge": lambda x: (x * limits.extreme_factor).astype(x.dtype),
        "denormal": lambda x: np.full_like(x, _DENORMAL),
    }
    for name, make in makers.items():
        if name == "denormal" and not floats:
            yield GateCheck("denormal", "skipped", detail="no input is in floating point")
            continue
        arrays = {
            key: make(array) if key in floats else _extreme_whole(name, array)
            for key, array in taken.arrays.items()
        }
        yield _check_finite(opened, name, replace(taken, arrays=arrays), _told(name, limits))


def check_overflow(opened: Opened, chosen: Batches, outputs: Sequence[Outputs]) -> GateCheck:
    """Look for NaN and Inf in what layers and the model give on the data, and how close they come to the largest number."""
    bad = [name for o in outputs for name, x in o.items() if not bool(torch.isfinite(x).all())]
    layers = {layer.output: layer.name for layer in opened.graph.layers}
    outer = {name for node in opened.graph.nodes for name in node.outputs}
    shown = [name for name in layers if name in outer]
    largest = dict.fromkeys(shown, 0.0)
    try:
        for feed in chosen.iterate():
            for name, x in opened.session.run(feed, shown).items():
                size = float(np.abs(np.asarray(x, np.float32)).max(initial=0.0))
                largest[name] = max(largest[name], size if np.isfinite(size) else np.inf)
    except PlanError:
        told = f"of the model's outputs; {opened.runtime} shows no other values"
        verdict = "fail" if bad else "pass"
        return GateCheck("overflow", verdict, float(len(bad)), 0.0, told)  # type: ignore[arg-type]
    top = opened.plan.schemes[opened.plan.base].activation.element.max_value
    worst = max(largest, key=lambda name: largest[name], default="")
    wrong = [name for name in shown if not np.isfinite(largest[name])]
    if bad or wrong:
        first = repr(layers[wrong[0]]) if wrong else f"output {bad[0]!r}"
        told = f"{len(wrong)} layers give NaN or Inf, the first is {first}"
        return GateCheck("overflow", "fail", float(max(len(wrong), 1)), 0.0, told)
    told = (
        f"no NaN or Inf; the largest value is {number(largest[worst])} of {number(top)}, in {layers[worst]!r}"
        if worst
        else "no NaN or Inf"
    )
    return GateCheck("overflow", "pass", 0.0, 0.0, told)


def _check_finite(opened: Opened, name: str, data: Batches, told: str) -> GateCheck:
    chosen = opened.form.keep_size(opened.graph).apply(data)
    try:
        opened.run_fp32(chosen)
    except NumericsError as error:
        return GateCheck(name, "skipped", detail=f"{told}: fp32 itself is not finite: {error}")
    wrong = [
        output
        for found in opened.run(chosen)
        for output, x in found.items()
        if x.is_floating_point() and not bool(torch.isfinite(x).all())
    ]
    if not wrong:
        return GateCheck(name, "pass", 0.0, 0.0, told)
    told += f": {wrong[0]!r} holds NaN or Inf where fp32 does not{_first_bad(opened, chosen)}"
    return GateCheck(name, "fail", float(len(set(wrong))), 0.0, told)


def _first_bad(opened: Opened, chosen: Batches) -> str:
    """Which layer gives the first value that is not finite, as a part of a sentence; "" where nothing shows it."""
    outer = {name for node in opened.graph.nodes for name in node.outputs}
    shown = {x.output: x.name for x in opened.graph.layers if x.output in outer}
    try:
        found = opened.run(chosen, list(shown))
    except PlanError:
        return ""
    for value, layer in shown.items():
        if any(not bool(torch.isfinite(o[value]).all()) for o in found):
            return f", first after {layer!r}"
    return ""


def _extreme_whole(name: str, array: Array) -> Array:
    """Whole numbers (ids, masks) stay among those of the data: they index tables."""
    low, high = array.min(), array.max()
    if name == "zeros":
        return np.full_like(array, low)
    if name == "huge":
        return np.full_like(array, high)
    return np.full_like(array, array.reshape(-1)[0]) if name == "constant" else array


def _told(name: str, limits: Limits) -> str:
    return {
        "zeros": "inputs of zeros",
        "constant": "inputs that are the same everywhere",
        "huge": f"inputs {limits.extreme_factor:g} times as large as the data",
        "denormal": f"inputs of {_DENORMAL:g}",
    }[name]


def _live_ranges(opened: Opened) -> list[str]:
    """Layers whose activations have one scale for a whole live tensor: it depends on what else is in the batch."""
    found = []
    for layer, scheme in zip(
        opened.graph.layers, plan_schemes(opened.plan, opened.graph), strict=True
    ):
        spec = scheme.activation
        whole = spec.tensor_scale or (spec.granularity == "tensor" and not spec.is_cast)
        if whole and spec.range == "dynamic":
            found.append(layer.name)
    return found


def _largest_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; Inf where only one of them is finite."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel() or torch.equal(a, b):
        return 0.0
    difference = (a.double() - b.double()).abs()
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, difference).nan_to_num(nan=torch.inf).max())
