"""The layout as a test: one direction of imports, light entry points, small files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpsearch.registry import BUILT_IN

PACKAGE = Path(__file__).resolve().parents[1] / "mpsearch"

# From the ground up. A module imports only from rows above its own in this list, or leftwards.
ROWS = (
    (
        "_version",
        "errors",
        "deadline",
        "settings",
        "registry",
        "artifacts",
        "formats",
        "notations",
        "schemes",
        "shown",
    ),
    ("stats",),
    ("problem",),
    ("search",),
    ("graph",),
    ("data",),
    ("space",),
    ("numerics",),
    ("program",),
    ("losses",),
    ("simulate",),
    ("recovery",),
    ("cost",),
    ("runtimes", "profile"),
    ("sensitivity",),
    ("plan",),
    ("export",),
    ("verify",),
    ("choose",),
    ("figures",),
    ("report",),
    ("runs",),
    ("jobs",),
    ("workers",),
    ("dashboard",),
    ("demo", "testing"),
    ("cli",),
    ("__main__",),
)
RANK = {name: (row, column) for row, names in enumerate(ROWS) for column, name in enumerate(names)}
FOLDERS_OF_ARRAYS = {"search"}
HEAVY = ("torch", "onnx", "onnxruntime", "optuna", "pymoo", "scipy", "networkx", "plotly", "numpy")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_types(node: ast.stmt) -> bool:
    """Whether ``node`` is ``if TYPE_CHECKING:``, which imports nothing when it runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path: Path) -> Iterator[str]:
    """Yield every module that ``path`` imports anywhere, names of a ``from`` import included."""
    tree = ast.parse(path.read_text())
    if path == PACKAGE / "registry.py":  # it names what plug-ins are, for those who read types
        tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_in_one_direction(path: Path) -> None:
    room = module_name(path).split(".")[1]
    assert room in RANK, f"{room} has no row in the layout"
    for imported in imports(path):
        parts = imported.split(".")
        if parts[0] != "mpsearch" or len(parts) < 2 or parts[1] in ("__version__", room):
            continue
        assert RANK[parts[1]] < RANK[room], f"{module_name(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_plugins_of_one_folder_do_not_import_each_other(path: Path) -> None:
    plugins = {target.partition(":")[0] for names in BUILT_IN.values() for target in names.values()}
    own = module_name(path)
    for imported in imports(path):
        owner = imported.rpartition(".")[0]
        if owner in plugins and owner != own and owner.split(".")[1] == own.split(".")[1]:
            assert own not in plugins, f"{own} imports the plug-in {owner}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_searchers_know_arrays_only(path: Path) -> None:
    if module_name(path).split(".")[1] not in FOLDERS_OF_ARRAYS:
        return
    foreign = {name.split(".")[0] for name in imports(path)} & {"torch", "onnx", "onnxruntime"}
    assert not foreign


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


FOLDERS = sorted({path.parent for path in MODULES})
MOST_PARAMETERS = 8
MANY_PARAMETERS = {
    "problem/problem.py:__init__": "public signature: each is an array of the problem",
    "search/find_front.py:find_front": "public signature: each is a field of the task",
    "search/additive/compiled.py:merge_fronts": "compiled: takes arrays alone",
    "data/pictures.py:read_pictures": "each is an option of `mpsearch data`",
    "cli/commands/plan/recover.py:recover": "each is an option of the command",
    "cli/commands/plan/train.py:train": "each is an option of the command",
    "cli/commands/plan/verify.py:verify": "each is an option of the command",
    "cli/commands/search/search.py:search": "each is an option of the command",
    "cli/commands/prepare/data.py:data": "each is an option of the command",
    "cli/commands/run/profile.py:profile": "each is an option of the command",
    "program/operators/contrib.py:kernel": "one an input of the ONNX operator",
    "program/operators/convolution.py:kernel": "one an input of the ONNX operator",
    "program/operators/recurrent.py:kernel": "one an input of the ONNX operator",
}
"""Functions with more than eight parameters, and why."""


def many_parameters(path: Path) -> Iterator[str]:
    """Yield the functions of ``path`` that take more parameters than most."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if sum(argument.arg not in ("self", "cls") for argument in taken) > MOST_PARAMETERS:
                yield f"{path.relative_to(PACKAGE).as_posix()}:{node.name}"


def test_only_functions_with_a_reason_take_more_than_eight_parameters() -> None:
    found = {name for path in MODULES for name in many_parameters(path)}
    assert found == MANY_PARAMETERS.keys()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_folders_stay_small(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= 20


@pytest.mark.parametrize("module", ["mpsearch", "mpsearch.cli", "mpsearch.registry"])
def test_entry_points_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in BUILT_IN.items() for name in names]
)
def test_built_in_plugins_are_where_the_registry_says(kind: str, name: str) -> None:
    module, _, attribute = BUILT_IN[kind][name].partition(":")
    path = PACKAGE.parent / (module.replace(".", "/") + ".py")
    defined: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {name.id for name in node.targets if isinstance(name, ast.Name)}
    assert attribute in defined
