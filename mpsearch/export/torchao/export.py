"""A plan as torchao's ``FqnToConfig``: how each module of the user's model is quantised, by torchao itself."""

import json
from pathlib import Path

from mpsearch.errors import PlanError
from mpsearch.export.checkpoint.modules import module_of
from mpsearch.export.planned import PlannedWeights
from mpsearch.export.torchao.configs import find_config, for_modules
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan


def export(plan: Plan, graph: ModelGraph, weights: PlannedWeights, folder: Path) -> list[Path]:
    """Write ``fqn_to_config.json``, what ``torchao.core.config.config_from_dict`` reads, into ``folder``.

    torchao chooses scales and rounds the weights itself, from the module's own.

    Raises:
        PlanError: The plan does not fit, changes weights, or one module would run in two ways.
    """
    if weights.changes:
        raise PlanError(
            "torchao rounds the model's own weights, but the plan changes them; make it without recovery and transforms"
        )
    found: dict[str, dict[str, object] | None] = {}
    for layer, scheme in zip(graph.layers, plan_schemes(plan, graph), strict=True):
        if not layer.has_weight:
            continue
        config = None if scheme.weight.is_cast else find_config(scheme)
        module = module_of(layer)
        if found.setdefault(module, config) != config:
            raise PlanError(f"{module!r} must run in one scheme wherever it is called, got two")
    quantized = {module: config for module, config in found.items() if config is not None}
    path = folder / "fqn_to_config.json"
    path.write_text(json.dumps(for_modules(quantized), indent=1) + "\n")
    return [path]
