"""Two plans of one model side by side: which layers differ, and what that is said to buy."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any

from mpsearch.errors import PlanError
from mpsearch.plan.plan import Plan
from mpsearch.stats.estimates import Estimate


@dataclass(frozen=True, slots=True)
class LayerDiff:
    """A layer that two plans treat in different ways.

    Attributes:
        node: Its name.
        before: Name of its scheme in the first plan.
        after: The same in the second.
        methods_before: What recovered or transformed it in the first plan.
        methods_after: The same in the second.
        redefined: Whether the two schemes have one name and two definitions.
    """

    node: str
    before: str
    after: str
    methods_before: tuple[str, ...] = ()
    methods_after: tuple[str, ...] = ()
    redefined: bool = False


@dataclass(frozen=True, slots=True)
class FigureDiff:
    """A quantity in two plans.

    Attributes:
        before: In the first plan.
        after: In the second.
        difference: Second less first; its standard error holds if the two were estimated apart from each other, and is too
            wide where they share samples.
        is_comparable: Whether both are in one unit, for one device and batch.
    """

    before: Estimate
    after: Estimate
    difference: Estimate
    is_comparable: bool = True


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """What differs between two plans.

    Attributes:
        model: File name of the model.
        layers: Layers that differ, in schedule order.
        same: How many layers do not.
        fields: Name of a field of the plan to its two values, where they differ.
        predicted: Quantity to its predicted values, of those that both plans have.
        measured: The same of measured ones.
        effective_bits: Of the decided weights.
    """

    model: str
    layers: tuple[LayerDiff, ...]
    same: int
    fields: Mapping[str, tuple[str, str]]
    predicted: Mapping[str, FigureDiff]
    measured: Mapping[str, FigureDiff]
    effective_bits: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "model": self.model,
            "layers": [
                {
                    "node": layer.node,
                    "before": layer.before,
                    "after": layer.after,
                    "methods_before": list(layer.methods_before),
                    "methods_after": list(layer.methods_after),
                    "redefined": layer.redefined,
                }
                for layer in self.layers
            ],
            "same_layers": self.same,
            "fields": {name: list(values) for name, values in self.fields.items()},
            "effective_bits": list(self.effective_bits),
            **{
                word: {
                    name: {
                        "before": figure.before._asdict(),
                        "after": figure.after._asdict(),
                        "difference": figure.difference._asdict(),
                        "comparable": figure.is_comparable,
                    }
                    for name, figure in figures.items()
                }
                for word, figures in (("predicted", self.predicted), ("measured", self.measured))
            },
        }


_FIELDS = ("base", "unit", "device", "batch", "method", "recovery", "transforms", "weights_digest")


def diff_plans(first: Plan, second: Plan) -> PlanDiff:
    """Return what differs between two plans of one model.

    Raises:
        PlanError: They are for models of different structure.
    """
    if first.structure_digest != second.structure_digest:
        raise PlanError(
            f"two plans must be for one model to be compared, but they are for {first.model} "
            f"(structure {first.structure_digest[:12]}) and {second.model} ({second.structure_digest[:12]})"
        )
    before, after = _decided(first), _decided(second)
    names = list(dict.fromkeys((*before, *after)))
    layers = []
    for name in names:
        left, right = before.get(name, first.base), after.get(name, second.base)
        methods = _methods(first, name), _methods(second, name)
        redefined = left == right and first.schemes[left] != second.schemes[right]
        if left != right or redefined or methods[0] != methods[1]:
            layers.append(LayerDiff(name, left, right, *methods, redefined))
    fields = {name: (_text(first, name), _text(second, name)) for name in _FIELDS}
    fields["tensors"] = tuple(  # type: ignore[assignment]  # of two
        "none" if plan.weights is None else plan.weights.digest[:12] for plan in (first, second)
    )
    return PlanDiff(
        first.model,
        tuple(layers),
        len(names) - len(layers),
        {name: values for name, values in fields.items() if values[0] != values[1]},
        _figures(first, second, "predicted"),
        _figures(first, second, "measured"),
        (first.coverage.effective_bits, second.coverage.effective_bits),
    )


def _decided(plan: Plan) -> dict[str, str]:
    return {decision.site.node: decision.scheme for decision in plan.decisions}


def _methods(plan: Plan, node: str) -> tuple[str, ...]:
    return next((change.methods for change in plan.changes if change.site.node == node), ())


def _text(plan: Plan, name: str) -> str:
    value = getattr(plan, name)
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return (text[:12] if name.endswith("digest") else text) or "none"


def _figures(first: Plan, second: Plan, word: str) -> dict[str, FigureDiff]:
    before: Mapping[str, Estimate] = getattr(first, word)
    after: Mapping[str, Estimate] = getattr(second, word)
    found = {}
    for name in before:
        if name not in after:
            continue
        left, right = before[name], after[name]
        difference = Estimate(right.mean - left.mean, hypot(left.stderr, right.stderr))
        found[name] = FigureDiff(left, right, difference, _comparable(first, second, name))
    return found


def _comparable(first: Plan, second: Plan, quantity: str) -> bool:
    if quantity in ("weight_bytes", "effective_bits"):
        return True
    if quantity == "loss":
        same = first.unit == second.unit and first.weights_digest == second.weights_digest
        return same and _data(first) == _data(second)
    return (first.device, first.batch) == (second.device, second.batch)


def _data(plan: Plan) -> str:
    return plan.fingerprint.get("calibration", "")
