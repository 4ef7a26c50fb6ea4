"""Plug-ins by name: built-in ones as strings, third parties' through entry points.

Nothing is imported before it is asked for, so listing names is free of heavy packages.
"""

import ast
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, overload

from mpsearch.errors import DuplicateNameError, MissingExtraError, PluginError, UnknownNameError

if TYPE_CHECKING:  # what plug-ins are, for those who read types: nothing here needs them to run
    from mpsearch.cost.estimate_costs import CostModel
    from mpsearch.recovery.task import Method
    from mpsearch.search.task import Searcher
    from mpsearch.sensitivity.task import Metric

DataFolder = Literal["search_spaces", "search_spaces/targets", "cost_models"]
Kind = Literal[
    "metrics",
    "cost_models",
    "searchers",
    "rules",
    "recoveries",
    "recovery_methods",
    "exporters",
    "export_limits",
    "runtimes",
]

BUILT_IN: Mapping[Kind, Mapping[str, str]] = MappingProxyType(
    {
        "metrics": {
            "sqnr": "mpsearch.sensitivity.sqnr:METRIC",
            "perturbation": "mpsearch.sensitivity.perturbation:METRIC",
            "fisher": "mpsearch.sensitivity.fisher:METRIC",
            "calibrated": "mpsearch.sensitivity.calibrated:METRIC",
            "output_perturbation": "mpsearch.sensitivity.output_perturbation:METRIC",
            "model_output_perturbation": "mpsearch.sensitivity.output_perturbation:MODEL_OUTPUT",
            "gradient": "mpsearch.sensitivity.gradient:METRIC",
            "hessian": "mpsearch.sensitivity.hessian:METRIC",
            "gauss_newton": "mpsearch.sensitivity.hessian:GAUSS_NEWTON",
            "eigenvalue": "mpsearch.sensitivity.hessian:EIGENVALUE",
            "information": "mpsearch.sensitivity.information:METRIC",
            "interactions": "mpsearch.sensitivity.interactions:METRIC",
            "cross_terms": "mpsearch.sensitivity.cross_terms:METRIC",
            "kl": "mpsearch.sensitivity.kl:METRIC",
            "weight_only": "mpsearch.sensitivity.weight_only:METRIC",
        },
        "cost_models": {
            "roofline": "mpsearch.cost.roofline:estimate",
            "npu": "mpsearch.cost.npu:estimate",
            "measured": "mpsearch.cost.executed.estimate:estimate",
        },
        "searchers": {
            "exact": "mpsearch.search.exact:SEARCHER",
            "milp": "mpsearch.search.milp:SEARCHER",
            "hull": "mpsearch.search.hull:SEARCHER",
            "refine": "mpsearch.search.refine:SEARCHER",
            "nsga2": "mpsearch.search.nsga2:SEARCHER",
            "nsga3": "mpsearch.search.nsga2:BY_DIRECTIONS",
            "de": "mpsearch.search.de:SEARCHER",
            "optuna": "mpsearch.search.optuna:SEARCHER",
            "relaxed": "mpsearch.search.relaxed:SEARCHER",
            "policy": "mpsearch.search.policy:SEARCHER",
            "greedy": "mpsearch.search.greedy:SEARCHER",
            "random": "mpsearch.search.random:SEARCHER",
        },
        "rules": {
            "first_last": "mpsearch.choose.rules_of_thumb:first_last",
            "embeddings_heads": "mpsearch.choose.rules_of_thumb:embeddings_heads",
            "snr_15db": "mpsearch.choose.rules_of_thumb:snr_15db",
        },
        "recoveries": {
            "obs": "mpsearch.recovery.gram:Recovery",
        },
        "recovery_methods": {
            "gptq": "mpsearch.recovery.sequential:GPTQ",
            "round": "mpsearch.recovery.sequential:ROUND",
            "obs": "mpsearch.recovery.sequential:OBS",
            "bias": "mpsearch.recovery.sequential:BIAS",
            "smooth": "mpsearch.recovery.transforms:SMOOTH",
            "awq": "mpsearch.recovery.transforms:AWQ",
            "rotate": "mpsearch.recovery.transforms:ROTATE",
            "blocks": "mpsearch.recovery.blocks:BLOCKS",
        },
        "exporters": {
            "onnx": "mpsearch.export.onnx.export:export",
            "onnxruntime": "mpsearch.export.onnxruntime.export:export",
            "npu": "mpsearch.export.npu.export:export",
            "compressed_tensors": "mpsearch.export.compressed_tensors.export:EXPORTER",
            "openvino": "mpsearch.export.openvino.export:export",
            "tensorrt": "mpsearch.export.tensorrt.export:export",
            "modelopt": "mpsearch.export.modelopt.export:EXPORTER",
            "torchao": "mpsearch.export.torchao.export:export",
            "aimet": "mpsearch.export.aimet.export:export",
        },
        # exporter to what it cannot write, asked before anything is measured
        "export_limits": {
            "onnx": "mpsearch.export.onnx.can_write:can_write",
            "onnxruntime": "mpsearch.export.onnxruntime.can_write:can_write",
            "npu": "mpsearch.export.npu.can_write:can_write",
            "compressed_tensors": "mpsearch.export.compressed_tensors.can_write:can_write",
            "openvino": "mpsearch.export.openvino.can_write:can_write",
            "tensorrt": "mpsearch.export.tensorrt.can_write:can_write",
            "modelopt": "mpsearch.export.modelopt.can_write:can_write",
            "torchao": "mpsearch.export.torchao.can_write:can_write",
            "aimet": "mpsearch.export.aimet.can_write:can_write",
        },
        "runtimes": {
            "reference": "mpsearch.runtimes.reference:open_session",
            "openvino": "mpsearch.runtimes.openvino:open_session",
            "onnxruntime": "mpsearch.runtimes.onnxruntime:open_session",
            "iree": "mpsearch.runtimes.iree:open_session",
            "transformers": "mpsearch.runtimes.transformers:RUNTIME",
        },
    }
)
_DECLARED: Mapping[Kind, str] = {
    "metrics": "mpsearch.sensitivity.task:Metric",
    "searchers": "mpsearch.search.task:Searcher",
    "recovery_methods": "mpsearch.recovery.task:Method",
}
"""What a plug-in must be an instance of; of the other kinds it is a function."""
_NOUNS: Mapping[Kind, str] = {
    "metrics": "metric",
    "cost_models": "cost model",
    "searchers": "search method",
    "rules": "rule of thumb",
    "recoveries": "recovery",
    "recovery_methods": "method of recovery",
    "exporters": "export target",
    "export_limits": "limits of an export target",
    "runtimes": "runtime",
}


@cache
def _third_party(kind: Kind) -> tuple[EntryPoint, ...]:
    """Entry points of ``kind``. Finding them reads the metadata of all installed packages: once a process."""
    return tuple(entry_points(group=f"mpsearch.{kind}"))


def _targets(kind: Kind) -> dict[str, str]:
    """Name to ``module:attribute`` of built-in and third-party plug-ins of ``kind``."""
    targets = dict(BUILT_IN[kind])
    for point in _third_party(kind):
        if point.name in targets:
            raise DuplicateNameError(
                f"a name must have one owner, but {_NOUNS[kind]} {point.name!r} is {targets[point.name]} "
                f"and also {point.value}"
            )
        targets[point.name] = point.value
    return targets


def list_names(kind: Kind) -> list[str]:
    """Return the names of all plug-ins of ``kind``, built-in ones first."""
    return list(_targets(kind))


def describe(kind: Kind, name: str) -> str:
    """Return a word on the plug-in ``name`` of ``kind``; "" where its source says none.

    That is the first line of its function's docstring, read from the source: nothing is imported.
    """
    module, _, attribute = _targets(kind)[name].partition(":")
    try:
        spec = find_spec(module)
        source = getattr(spec.loader, "get_source", lambda _: "")(module) if spec else ""
        body = ast.parse(source or "").body
    except (ImportError, SyntaxError):
        return ""
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    for node in body:  # a declaration names its function first: METRIC = Metric(score, …)
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        declared = [target.id for target in node.targets if isinstance(target, ast.Name)]
        first = node.value.args[0] if node.value.args else None
        if attribute in declared and isinstance(first, ast.Name):
            attribute = first.id
    found = functions.get(attribute)
    text = (ast.get_docstring(found) if found is not None else None) or ""
    return " ".join(text.partition("\n\n")[0].split()).partition("; see :")[0].replace("``", "")


@overload
def find(kind: Literal["metrics"], name: str) -> "Metric": ...
@overload
def find(kind: Literal["searchers"], name: str) -> "Searcher": ...
@overload
def find(kind: Literal["cost_models"], name: str) -> "CostModel": ...
@overload
def find(kind: Literal["recovery_methods"], name: str) -> "Method": ...
@overload
def find(
    kind: Literal["rules", "recoveries", "exporters", "export_limits", "runtimes"], name: str
) -> Any: ...
def find(kind: Kind, name: str) -> Any:
    """Import and return the plug-in ``name`` of ``kind``.

    Raises:
        UnknownNameError: Nothing is registered under ``name``; the message lists the choices.
        MissingExtraError: The plug-in needs a package that is not installed.
        DuplicateNameError: Two packages register one name.
        PluginError: What is registered is not declared as the kind; the message says how it must be.
    """
    targets = _targets(kind)
    if name not in targets:
        raise UnknownNameError(f"{_NOUNS[kind]} must be one of {', '.join(targets)}; got {name!r}")
    try:
        found = _import(targets[name])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mpsearch"):
            raise
        raise MissingExtraError(
            f"{_NOUNS[kind]} {name!r} needs the package {error.name!r}; "
            f"install it with: pip install 'mpsearch[{name}]' or pip install {error.name}"
        ) from error
    declared = _DECLARED.get(kind)
    if declared is not None and not isinstance(found, _import(declared)):
        raise PluginError(
            f"{_NOUNS[kind]} {name!r} must be declared as a {declared.replace(':', '.')}, such as "
            f"{declared.partition(':')[2]}(function), but {targets[name]} is a {type(found).__name__}"
        )
    return found


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def data_folder(name: DataFolder) -> Path:
    """Return the folder of data files that ships as ``name``: in the wheel or beside the package."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def data_file(folder: DataFolder, name_or_path: str | Path, noun: str) -> Path:
    """Return the TOML file that ships as ``name_or_path`` in ``folder``, or the user's own file.

    A string that ends in ``.toml`` or holds a separator is a path; anything else is a name.

    Raises:
        UnknownNameError: There is no such file; the message lists the names that ship.
    """
    text = str(name_or_path)
    own = isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text
    path = Path(text) if own else data_folder(folder) / f"{text}.toml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in data_folder(folder).glob("*.toml")))
        raise UnknownNameError(
            f"{noun} must be one of {names}, or the path of a .toml file that exists; got {text!r}"
        )
    return path
