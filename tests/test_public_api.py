"""What `import mpsearch as mp` offers, and the shape of each call."""

import inspect
import pkgutil

import pytest

import mpsearch as mp

PARAMETERS = {
    "import_onnx": ["path", "shapes"],
    "import_torch": ["module", "example_inputs"],
    "read_space": ["name_or_path", "target", "base"],
    "read_device": ["name_or_path"],
    "read_batches": ["path", "limit"],
    "score_sensitivity": ["simulator", "metric", "costs", "budget", "settings", "seed"],
    "gemm_latency": ["device", "scheme", "m", "n", "k"],
    "estimate_costs": ["graph", "space", "device", "batch", "tokens"],
    "build_problem": ["table", "costs", "constraints"],
    "find_front": ["problem", "method", "objectives", "evaluator", "budget", "settings", "seed"],
    "choose_point": ["front", "limits", "knee"],
    "make_plan": ["point", "simulator", "costs"],
    "recover_plan": ["plan", "simulator", "methods", "seed"],
    "export_plan": ["plan", "model", "out_dir", "target"],
    "verify_plan": ["plan", "model", "exported", "batches", "runtime"],
    "score_plan": ["plan", "model", "batches", "loss"],
    "open_run": ["path"],
    "plot_front": ["front"],
    "fake_quantize": ["x", "format", "axis", "range"],
    "prune": ["x", "pattern", "axis", "score"],
    "Simulator": ["graph", "space", "batches", "loss", "seed", "device", "max_memory"],
    "Problem": [
        "objectives",
        "allowed",
        "stderr",
        "edges",
        "pair_terms",
        "parameters",
        "schemes",
        "constraints",
    ],
}


@pytest.mark.parametrize("name", mp.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(mp, name)
    if name != "__version__":
        assert inspect.getdoc(value)


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_public_calls_take_the_documented_parameters_in_order(
    name: str, expected: list[str]
) -> None:
    found = [p for p in inspect.signature(getattr(mp, name)).parameters if p != "self"]
    assert [p for p in found if p in expected] == expected


def test_no_public_name_equals_a_submodule() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(mp.__path__)}
    assert not submodules & set(mp.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mp.nothing  # noqa: B018  # the access is the test
