"""mpsearch: which layer may run in which number format, on this hardware, at what cost in accuracy.

``import mpsearch as mp`` is free of heavy packages; every public name is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mpsearch._version import __version__

_PUBLIC = {
    "Batches": "mpsearch.data.batches",
    "Costs": "mpsearch.problem.tables",
    "Estimate": "mpsearch.stats.estimates",
    "Front": "mpsearch.problem.front",
    "ModelGraph": "mpsearch.graph.model",
    "MpsearchError": "mpsearch.errors",
    "Plan": "mpsearch.plan.plan",
    "Point": "mpsearch.problem.front",
    "Problem": "mpsearch.problem.problem",
    "Run": "mpsearch.runs.run",
    "SearchSpace": "mpsearch.space.space",
    "Simulator": "mpsearch.simulate.simulator",
    "Table": "mpsearch.problem.tables",
    "apply_plan": "mpsearch.plan.torch_module.apply",
    "build_problem": "mpsearch.problem.build",
    "choose_point": "mpsearch.search.choose_point",
    "estimate_costs": "mpsearch.cost.estimate_costs",
    "export_plan": "mpsearch.export.export_plan",
    "fake_quantize": "mpsearch.numerics.quantize",
    "find_front": "mpsearch.search.find_front",
    "gemm_latency": "mpsearch.cost.gemm",
    "import_onnx": "mpsearch.graph.importer",
    "import_torch": "mpsearch.graph.torch_export",
    "make_plan": "mpsearch.plan.make",
    "open_run": "mpsearch.runs.run",
    "plot_front": "mpsearch.figures.front",
    "prune": "mpsearch.numerics.sparsity",
    "read_batches": "mpsearch.data.batches",
    "read_device": "mpsearch.cost.device",
    "read_space": "mpsearch.space.files",
    "read_trained": "mpsearch.plan.torch_module.trained",
    "recover_plan": "mpsearch.plan.recover",
    "score_plan": "mpsearch.plan.score",
    "score_sensitivity": "mpsearch.sensitivity.score_sensitivity",
    "train_plan": "mpsearch.plan.train",
    "verify_plan": "mpsearch.verify.verify_plan",
}

__all__ = ["__version__", *_PUBLIC]  # resolved lazily below


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mpsearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from mpsearch.cost.device import read_device as read_device
    from mpsearch.cost.estimate_costs import estimate_costs as estimate_costs
    from mpsearch.cost.gemm import gemm_latency as gemm_latency
    from mpsearch.data.batches import Batches as Batches
    from mpsearch.data.batches import read_batches as read_batches
    from mpsearch.errors import MpsearchError as MpsearchError
    from mpsearch.export.export_plan import export_plan as export_plan
    from mpsearch.figures.front import plot_front as plot_front
    from mpsearch.graph.importer import import_onnx as import_onnx
    from mpsearch.graph.model import ModelGraph as ModelGraph
    from mpsearch.graph.torch_export import import_torch as import_torch
    from mpsearch.numerics.quantize import fake_quantize as fake_quantize
    from mpsearch.numerics.sparsity import prune as prune
    from mpsearch.plan.make import make_plan as make_plan
    from mpsearch.plan.plan import Plan as Plan
    from mpsearch.plan.recover import recover_plan as recover_plan
    from mpsearch.plan.score import score_plan as score_plan
    from mpsearch.plan.torch_module.apply import apply_plan as apply_plan
    from mpsearch.plan.torch_module.trained import read_trained as read_trained
    from mpsearch.plan.train import train_plan as train_plan
    from mpsearch.problem.build import build_problem as build_problem
    from mpsearch.problem.front import Front as Front
    from mpsearch.problem.front import Point as Point
    from mpsearch.problem.problem import Problem as Problem
    from mpsearch.problem.tables import Costs as Costs
    from mpsearch.problem.tables import Table as Table
    from mpsearch.runs.run import Run as Run
    from mpsearch.runs.run import open_run as open_run
    from mpsearch.search.choose_point import choose_point as choose_point
    from mpsearch.search.find_front import find_front as find_front
    from mpsearch.sensitivity.score_sensitivity import score_sensitivity as score_sensitivity
    from mpsearch.simulate.simulator import Simulator as Simulator
    from mpsearch.space.files import read_space as read_space
    from mpsearch.space.space import SearchSpace as SearchSpace
    from mpsearch.stats.estimates import Estimate as Estimate
    from mpsearch.verify.verify_plan import verify_plan as verify_plan
