"""A profile is a device file that a search takes: native schemes only, and sums that are of executed kernels."""

import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpsearch.cost.device import Device, read_device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.cost.executed.device_file import device_text
from mpsearch.cost.executed.network import read_network
from mpsearch.cost.executed.steps import network_us
from mpsearch.errors import DeviceError, MissingExtraError, UnknownNameError
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.profile import profile_model as module
from mpsearch.profile.journal import Journal
from mpsearch.profile.profile_model import Subject, profile_model
from mpsearch.profile.stopwatch import Timing
from mpsearch.profile.timed_runtime import find_timed
from mpsearch.schemes import find_scheme
from mpsearch.space.space import SearchSpace
from tests.support.integer_models import branching_net, pictures

FEEDS = {"x": pictures().arrays["x"][:1]}
SPACE = SearchSpace("s", tuple(map(find_scheme, ("fp32", "int8", "fp16", "int8_dynamic"))), "fp32")


def profiled(folder: Path) -> tuple[ModelGraph, Device]:
    path = folder / "net.onnx"
    onnx.save(branching_net(), path)
    graph = import_onnx(path)
    journal = Journal(folder / "journal", {})
    runtime = find_timed("onnxruntime")
    return graph, profile_model(
        Subject(graph, path, FEEDS),
        SPACE.schemes,
        runtime,
        name="mine",
        journal=journal,
        budget_s=0.1,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelGraph, Device]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NOISY", 1e9)  # a test must not depend on who else is at work
        return profiled(tmp_path_factory.mktemp("profile"))


def test_every_kernel_is_measured_once_and_read_back_from_its_file(
    made: tuple[ModelGraph, Device], tmp_path: Path
) -> None:
    _, device = made
    assert device.measured is not None
    rows = [(kernel.kernel, kernel.form) for kernel in device.measured.kernels]
    assert len(rows) == len(set(rows)) == 18  # nine shapes, in fp32 and on integers
    assert set(device.measured.emulated) == {"fp16", "int8_dynamic"}
    path = tmp_path / "mine.toml"
    path.write_text(device_text(device))
    assert read_device(path) == device
    assert tomllib.loads(path.read_text())["model"] == "measured"


def test_what_the_runtime_emulates_is_not_offered(made: tuple[ModelGraph, Device]) -> None:
    graph, device = made
    costs = estimate_costs(graph, SPACE, device)
    assert costs.allowed[:, :2].all()
    assert not costs.allowed[:, 2:].any()
    assert "no kernels for int8_dynamic" in costs.reasons[graph.groups[0].name, "int8_dynamic"]


def test_the_table_is_the_executed_sum_of_uniform_plans_and_of_neighbours(
    made: tuple[ModelGraph, Device],
) -> None:
    graph, device = made
    network = read_network(graph, device)
    costs = estimate_costs(graph, SPACE, device)

    def table(chosen: np.ndarray) -> float:
        total = costs.constants["latency_us"]
        total += costs.objectives["latency_us"][np.arange(len(chosen)), chosen].sum()
        pairs = zip(costs.edges, costs.pair_terms["latency_us"], strict=True)
        return total + sum(term[chosen[a], chosen[b]] for (a, b), term in pairs)

    def executed(chosen: np.ndarray) -> float:
        return network_us(network, [SPACE.schemes[s] for s in chosen])  # every group is one layer

    G = len(graph.groups)
    plans = [np.zeros(G, int), *np.eye(G, dtype=int)]
    names = [group.name for group in graph.groups]
    for a, b in (("narrow", "residual"), ("last", "hidden"), ("hidden", "head")):
        plans.append(np.isin(names, [a, b]).astype(int))
    plans.append(np.isin(names, ["stem", "left", "right"]).astype(int))  # read by two
    for chosen in plans:
        assert table(chosen) == pytest.approx(executed(chosen), abs=0.01)
    assert executed(plans[0]) == pytest.approx(device.measured.models[0].float_us)  # type: ignore[union-attr]  # made so


def test_an_interrupted_profile_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NOISY", 1e9)
    asked: list[set[str]] = []

    def interrupted(runs, *, settled, **_):  # type: ignore[no-untyped-def]  # as time_all
        asked.append(set(runs))
        for name in sorted(runs):
            settled(name, Timing(10.0, 0.1, 12))
            if len(asked) == 1 and name.startswith("i Conv"):
                raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(module, "time_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        profiled(tmp_path)
    _, device = profiled(tmp_path)
    assert asked[1] < asked[0]
    assert not any(name.startswith("f ") for name in asked[1])
    assert device.measured is not None
    assert len(device.measured.kernels) == 18


def test_a_machine_that_is_too_noisy_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter((2.0, 0.1))  # the neighbour leaves, and what was not known is measured again

    def measured(runs, *, settled, **_):  # type: ignore[no-untyped-def]  # as time_all
        error = next(errors)
        for name in runs:
            settled(name, Timing(10.0, error, 12))

    monkeypatch.setattr(module, "time_all", measured)
    with pytest.raises(DeviceError, match=r"quiet enough .* known to 20% .*--minutes"):
        profiled(tmp_path)
    _, device = profiled(tmp_path)
    assert device.measured is not None
    assert device.measured.noise == pytest.approx(0.01)


def test_a_model_that_was_not_measured_is_named(
    made: tuple[ModelGraph, Device], tmp_path: Path
) -> None:
    onnx.save(branching_net(), tmp_path / "net.onnx")
    larger = import_onnx(tmp_path / "net.onnx", shapes={"x": (4, 3, 8, 8)})
    with pytest.raises(
        DeviceError, match=r"must have measured net.onnx at batch 4.* profile MODEL"
    ):
        estimate_costs(larger, SPACE, made[1], batch=4)
    with pytest.raises(DeviceError, match="was measured at batch 1, got batch 2"):
        estimate_costs(made[0], SPACE, made[1], batch=2)


def test_runtimes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UnknownNameError, match=r"one of onnxruntime, openvino, or torch .* got 'tvm'"
    ):
        find_timed("tvm")

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name="openvino")

    monkeypatch.setattr("mpsearch.profile.timed_runtime.import_module", missing)
    with pytest.raises(MissingExtraError, match="pip install openvino"):
        find_timed("openvino")
