"""What a target does not take of a plan: its rules, what it fuses, and what its exporter cannot write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from mpsearch.errors import RefusedPlanError
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.schemes import SCHEMES, Scheme
from mpsearch.space.allowed import export_limits_of, structural_refusal
from mpsearch.space.nearest import nearest_scheme
from mpsearch.space.targets import Refusal, Target, fused_layers, target_refusals


@dataclass(frozen=True, slots=True)
class Refused:
    """A layer that cannot have its scheme.

    Attributes:
        layer: Its name.
        scheme: Name of the scheme.
        refusal: Why.
        nearest: Name of the nearest scheme that the target takes for the layer; "" where it takes none.
    """

    layer: str
    scheme: str
    refusal: Refusal
    nearest: str = ""

    def __str__(self) -> str:
        why = self.refusal
        reason = why.reason.removeprefix(f"{self.layer!r}: ")
        reason = reason.removeprefix(f"{self.layer!r} in {self.scheme}: ")
        said = f"{self.layer!r} in {self.scheme}: {reason}"
        said += f" [{why.rule}: {why.source}]" if why.source else f" [{why.rule}]"
        return f"{said}; nearest: {self.nearest}" if self.nearest else said


def find_refused(
    graph: ModelGraph, schemes: Sequence[Scheme], exporter: str, target: Target | None, base: str
) -> Iterator[Refused]:
    """Yield what ``target`` or its exporter says against the schemes of layers, notes and warnings included.

    Args:
        graph: The model.
        schemes: [L] scheme of each layer.
        exporter: Name of the exporter.
        target: The runtime's facts; None asks the exporter alone.
        base: The plan's base.
    """
    can_write = export_limits_of(exporter)
    for index, scheme in enumerate(schemes):
        layer = graph.layers[index]
        found = [] if target is None else list(target_refusals(target, graph, index, scheme, base))
        if any(refusal.rule != "scheme" and refusal.severity == "error" for refusal in found):
            found = [refusal for refusal in found if refusal.rule != "scheme"]
        reason = can_write(graph, layer, scheme)
        if reason and not any(refusal.severity == "error" for refusal in found):
            found.append(Refusal(f"exporter {exporter}", reason))
        near = ""
        if any(refusal.severity == "error" for refusal in found):
            takes = partial(_takes, graph, index, exporter, target, base)
            among = {other.name: other for other in (*schemes, *SCHEMES.values())}
            found_near = nearest_scheme(scheme, takes, among.values())
            near = "" if found_near is None else found_near.name
        for refusal in found:
            yield Refused(layer.name, scheme.name, refusal, near * (refusal.severity == "error"))
    for rule, layers in fused_layers(target, graph):
        names = list(dict.fromkeys(schemes[i].name for i in layers))
        if len(names) > 1:
            members = ", ".join(f"{graph.layers[i].name!r} in {schemes[i].name}" for i in layers)
            reason = f"{rule.reason}, but {members}"
            first = layers[0]
            refusal = Refusal(rule.id, reason, rule.source, todo="one scheme for all of them")
            yield Refused(graph.layers[first].name, schemes[first].name, refusal)


def check_takes(plan: Plan, graph: ModelGraph, exporter: str, target: Target | None) -> None:
    """Check that every layer can be written in its scheme.

    Raises:
        RefusedPlanError: Some cannot: a line for each, with the rule, its source and the nearest scheme that can.
    """
    schemes = plan_schemes(plan, graph)
    if target is not None and plan.base not in target.bases:
        raise RefusedPlanError(
            f"{target.name} must be able to leave layers in the base, which is {plan.base}; it leaves them in "
            f"{', '.join(target.bases)}: search with --base"
        )
    if target is not None and target.changes == "none" and plan.weights is not None:
        raise RefusedPlanError(
            f"{target.name} rounds the model's own weights, but the plan brings others; make it without recovery, "
            "transforms and training"
        )
    found = [
        refused
        for refused in find_refused(graph, schemes, exporter, target, plan.base)
        if refused.refusal.severity == "error"
    ]
    if not found:
        return
    if len(found) == 1:
        raise RefusedPlanError(str(found[0]))
    label = target.name if target is not None else f"the export {exporter}"
    layers = len({refused.layer for refused in found})
    raise RefusedPlanError(
        f"{plan.model}: {label} must take every layer's scheme, but does not of {layers} of {len(schemes)} layers:\n"
        + "\n".join(f"  {refused}" for refused in found)
    )


def _takes(
    graph: ModelGraph,
    index: int,
    exporter: str,
    target: Target | None,
    base: str,
    scheme: Scheme,
) -> bool:
    layer = graph.layers[index]
    if any(structural_refusal(layer, gemm, scheme) for gemm in layer.gemms):
        return False
    if export_limits_of(exporter)(graph, layer, scheme):
        return False
    found = () if target is None else target_refusals(target, graph, index, scheme, base)
    return all(refusal.severity == "note" for refusal in found)
