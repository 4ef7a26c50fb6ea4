"""mpsearch: which layer may run in which number format, on this hardware, at what cost in accuracy.

``import mpsearch as mp`` is free of heavy packages; every public name is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Batches": "mpsearch.data",
    "Costs": "mpsearch.tables",
    "Estimate": "mpsearch.tables",
    "Front": "mpsearch.pareto",
    "ModelGraph": "mpsearch.graph.model",
    "MpsearchError": "mpsearch.errors",
    "Plan": "mpsearch.plan",
    "Point": "mpsearch.pareto",
    "Problem": "mpsearch.problem",
    "SearchSpace": "mpsearch.space",
    "Simulator": "mpsearch.execute.simulator",
    "Table": "mpsearch.tables",
    "apply_plan": "mpsearch.apply",
    "build_problem": "mpsearch.problem",
    "choose_point": "mpsearch.search.choose",
    "estimate_costs": "mpsearch.cost.network",
    "export_plan": "mpsearch.export.dispatch",
    "fake_quantize": "mpsearch.numerics.quantize",
    "find_front": "mpsearch.search.front",
    "gemm_latency": "mpsearch.cost.kernel",
    "import_onnx": "mpsearch.graph.importer",
    "import_torch": "mpsearch.graph.torch_export",
    "make_plan": "mpsearch.plan",
    "plot_front": "mpsearch.report.figures",
    "prune": "mpsearch.numerics.sparsity",
    "read_batches": "mpsearch.data",
    "read_device": "mpsearch.cost.device",
    "read_space": "mpsearch.space",
    "score_sensitivity": "mpsearch.sensitivity.score",
    "verify_plan": "mpsearch.verify.compare",
}

__all__ = ["__version__", *_PUBLIC]  # resolved lazily below


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mpsearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from mpsearch.apply import apply_plan as apply_plan
    from mpsearch.cost.device import read_device as read_device
    from mpsearch.cost.kernel import gemm_latency as gemm_latency
    from mpsearch.cost.network import estimate_costs as estimate_costs
    from mpsearch.data import Batches as Batches
    from mpsearch.data import read_batches as read_batches
    from mpsearch.errors import MpsearchError as MpsearchError
    from mpsearch.execute.simulator import Simulator as Simulator
    from mpsearch.export.dispatch import export_plan as export_plan
    from mpsearch.graph.importer import import_onnx as import_onnx
    from mpsearch.graph.model import ModelGraph as ModelGraph
    from mpsearch.graph.torch_export import import_torch as import_torch
    from mpsearch.numerics.quantize import fake_quantize as fake_quantize
    from mpsearch.numerics.sparsity import prune as prune
    from mpsearch.pareto import Front as Front
    from mpsearch.pareto import Point as Point
    from mpsearch.plan import Plan as Plan
    from mpsearch.plan import make_plan as make_plan
    from mpsearch.problem import Problem as Problem
    from mpsearch.problem import build_problem as build_problem
    from mpsearch.report.figures import plot_front as plot_front
    from mpsearch.search.choose import choose_point as choose_point
    from mpsearch.search.front import find_front as find_front
    from mpsearch.sensitivity.score import score_sensitivity as score_sensitivity
    from mpsearch.space import SearchSpace as SearchSpace
    from mpsearch.space import read_space as read_space
    from mpsearch.tables import Costs as Costs
    from mpsearch.tables import Estimate as Estimate
    from mpsearch.tables import Table as Table
    from mpsearch.verify.compare import verify_plan as verify_plan
