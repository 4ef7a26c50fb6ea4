"""What a plan changes goes through its file without losing a bit, and comes back from no stranger's."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

import mpsearch as mp
from mpsearch.errors import PlanError, SpaceError
from mpsearch.graph.importer import import_onnx
from mpsearch.losses.losses import sample_losses
from mpsearch.numerics.quantized import QuantizedTensor
from mpsearch.plan.changes import bring_changes, changes_of, hold_changes
from mpsearch.plan.files import read_plan, weights_file, write_plan
from mpsearch.plan.plan import Change, Plan
from mpsearch.plan.weights import PlanWeights
from mpsearch.schemes import SCHEMES
from mpsearch.simulate.changes import Changes, digest_changes
from tests.support.changed_plans import (
    change_all,
    change_weight,
    changed_plan,
    every_kind,
    some_data,
)
from tests.support.graph_models import save as save_model

Edit = Callable[[dict[str, NDArray[np.generic]]], object]


def assert_same(found: QuantizedTensor, wanted: QuantizedTensor) -> None:
    for name in ("spec", "layout", "tensor_scale", "sparsity"):
        assert getattr(found, name) == getattr(wanted, name)
    for name in ("codes", "scales", "zeros", "mask"):
        mine, other = getattr(found, name), getattr(wanted, name)
        assert (mine is None) == (other is None)
        assert mine is None or torch.equal(mine, other)
    assert torch.equal(found.dequantize(), wanted.dequantize())


@pytest.mark.parametrize("name", SCHEMES)
def test_every_code_and_scale_of_every_scheme_comes_back(tmp_path: Path, name: str) -> None:
    path = save_model(every_kind(groups=3), tmp_path)
    graph, scheme = import_onnx(path), SCHEMES[name]
    fits = [
        i
        for i, layer in enumerate(graph.layers)
        if scheme.sparsity is None or (layer.k // layer.gemms[0].positions) % 8 == 0
    ]
    base = SCHEMES["fp16"]
    simulator = mp.Simulator(graph, mp.SearchSpace("s", (base,), "fp16"), some_data())
    plain = mp.make_plan(mp.Point((0,) * len(graph.groups), {}), simulator)
    plan = replace(
        plain,
        schemes={name: scheme, "fp16": base},
        decisions=tuple(
            replace(d, scheme=name) if i in fits else d for i, d in enumerate(plain.decisions)
        ),
    )
    changes = Changes({(i, 0): change_weight(graph, i, 0, scheme) for i in fits})
    write_plan(bring_changes(plan, graph, changes), tmp_path / "plan.json")
    found = changes_of(read_plan(tmp_path / "plan.json"), graph)
    assert found.weights.keys() == changes.weights.keys()
    assert len(fits) == (10 if scheme.sparsity is None else 8)
    for at, weight in changes.weights.items():
        assert_same(found.weights[at], weight)
    assert digest_changes(found) == digest_changes(changes)


def test_biases_and_constants_come_back(tmp_path: Path) -> None:
    path, _, _, changes, plan = changed_plan(tmp_path, "nvfp4")
    write_plan(plan, tmp_path / "plan.json")
    found = changes_of(read_plan(tmp_path / "plan.json"), import_onnx(path))
    assert found.biases.keys() == changes.biases.keys()
    assert all(torch.equal(found.biases[i], bias) for i, bias in changes.biases.items())
    assert found.constants.keys() == {"gain"}
    np.testing.assert_array_equal(found.constants["gain"], changes.constants["gain"])
    keys = load_file(weights_file(tmp_path / "plan.json")).keys()
    assert {"codes::conv::w0", "scales::conv::w0", "bias::matmul", "constant::gain"} <= keys


@pytest.mark.parametrize("name", ["nvfp4", "fp8_2of4"])
def test_a_changed_plan_scores_what_the_changed_simulator_measures(
    tmp_path: Path, name: str
) -> None:
    path, simulator, chosen, changes, plan = changed_plan(tmp_path, name)
    write_plan(plan, tmp_path / "plan.json")
    wanted = simulator.change(changes).loss(chosen)
    found = mp.score_plan(read_plan(tmp_path / "plan.json"), path, some_data())
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert simulator.loss(chosen).mean != pytest.approx(wanted.mean, rel=1e-3)
    again = simulator.change(changes).change(Changes())
    assert again.loss(chosen) == simulator.loss(chosen)


def test_what_is_changed_shows_in_the_fingerprint_and_no_loss_is_taken_over(
    tmp_path: Path,
) -> None:
    _, simulator, chosen, changes, _ = changed_plan(tmp_path, "fp8")
    before = simulator.loss(chosen)
    changed = simulator.change(changes)
    other = simulator.change(replace(changes, biases={0: changes.biases[0]}))
    losses = [before, changed.loss(chosen), other.loss(chosen)]
    assert len(set(losses)) == 3
    assert simulator.loss(chosen) == before
    prints = [s.fingerprint.get("changes") for s in (simulator, changed, other)]
    assert prints[0] is None
    assert len(set(prints)) == 3


def test_a_changed_model_refuses_to_run_in_another_plan(tmp_path: Path) -> None:
    _, simulator, chosen, changes, _ = changed_plan(tmp_path, "fp8")
    with pytest.raises(SpaceError, match="must be run in the plan that it was changed for"):
        simulator.change(changes).loss(np.zeros_like(chosen))


def test_a_changed_plan_that_starts_in_the_base_runs_from_kept_values(tmp_path: Path) -> None:
    _, simulator, chosen, _, _ = changed_plan(tmp_path, "fp8")
    mixed = np.where(np.arange(len(chosen)) < 8, 0, chosen)
    schemes = [simulator.space.schemes[s] for s in mixed]
    changes = change_all(simulator.graph, schemes)
    changed = simulator.change(changes)
    whole = [changed.head_values(mixed, run)[0] for run in range(changed.n_runs)]
    losses = changed.losses(mixed)
    right = [
        sample_losses("mse", changed.heads, (value,), target)
        for value, target in zip(whole, changed.targets, strict=True)
    ]
    np.testing.assert_allclose(losses, torch.cat(right).numpy(), rtol=1e-5)


def test_a_plan_made_by_a_changed_simulator_brings_the_changes(tmp_path: Path) -> None:
    _, simulator, chosen, changes, plan = changed_plan(tmp_path, "fp8")
    made = mp.make_plan(mp.Point(tuple(map(int, chosen)), {}), simulator.change(changes))
    assert made.weights == plan.weights
    assert made.weights_digest == plan.weights_digest


def test_sizes_count_the_biases_that_are_added(tmp_path: Path) -> None:
    _, simulator, chosen, changes, plan = changed_plan(tmp_path, "fp8")
    plain = mp.make_plan(
        mp.Point(tuple(map(int, chosen)), {"weight_bytes": mp.Estimate(1000.0)}), simulator
    )
    graph = simulator.graph
    made = bring_changes(plain, graph, changes)
    # depthwise, transposed, bare, scaled_bias (its own is halved), matmul, last
    added = 4 * (5 * 24 + 40)
    assert made.predicted["weight_bytes"].mean == 1000 + added
    weights = sum(layer.parameters for layer in graph.layers)
    more = made.coverage.effective_bits - plain.coverage.effective_bits
    assert more == pytest.approx(8 * added / weights)
    assert bring_changes(made, graph, Changes()).predicted == plain.predicted
    assert plan.recovery == ("gptq", "bias")
    assert bring_changes(plan, graph, changes, recovery=("train",)).recovery == (
        *plan.recovery,
        "train",
    )


def test_what_was_done_survives_the_round_trip(tmp_path: Path) -> None:
    _, simulator, _, changes, plan = changed_plan(tmp_path, "fp8")
    done = (Change(plan.decisions[0].site, ("gptq", "bias"), 0.2, 0.05),)
    made = bring_changes(plan, simulator.graph, changes, transforms=("smooth",), done=done)
    write_plan(made, tmp_path / "plan.json")
    found = read_plan(tmp_path / "plan.json")
    assert found == made
    assert (found.recovery, found.transforms) == (("gptq", "bias"), ("smooth",))
    assert found.changes == done


def test_a_weight_that_is_not_stored_as_its_scheme_says_is_refused(tmp_path: Path) -> None:
    _, simulator, _, _, plan = changed_plan(tmp_path, "fp8")
    other = change_weight(simulator.graph, 0, 0, SCHEMES["int8"])
    with pytest.raises(PlanError, match="must be stored as fp8 says"):
        bring_changes(plan, simulator.graph, Changes({(0, 0): other}))


def put(key: str, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Edit:
    def edit(tensors: dict[str, NDArray[np.generic]]) -> None:
        tensors[key] = np.asarray(change(tensors[key]))

    return edit


def fill(value: float) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
    return lambda array: np.full_like(array, value)


HOSTILE: Mapping[str, tuple[str, Edit, str]] = {
    "codes lacking": ("nvfp4", lambda t: t.pop("codes::conv::w0"), "must be whole, but lacks codes"),
    "scales lacking": ("nvfp4", lambda t: t.pop("scales::bare::w6"), "lacks scales"),
    "tensor scale lacking": ("nvfp4", lambda t: t.pop("tensor_scale::bare::w6"), "lacks tensor_s"),
    "mask lacking": ("fp8_2of4", lambda t: t.pop("mask::conv::w0"), "lacks mask"),
    "an unknown layer": ("fp8", lambda t: t.update({"codes::a::b": np.zeros(3, np.uint8)}), "'codes"),
    "an unknown part": ("fp8", lambda t: t.update({"x::conv::w0": np.zeros(3, np.uint8)}), "must not"),
    "a bias where none can be": ("fp8", lambda t: t.update({"bias::relu": np.zeros(24, "f4")}), "not"),
    "an integer constant": ("fp8", lambda t: t.update({"constant::z": np.zeros(2, "i8")}), "must not"),
    "codes of another shape": ("nvfp4", put("codes::conv::w0", lambda a: a[1:]), "must be uint8 of"),
    "codes of another type": ("fp8", put("codes::conv::w0", lambda a: a.astype("f4")), "must be uint8"),
    "codes beyond the format": ("nvfp4", put("codes::conv::w0", fill(200)), "must be at most 15"),
    "a NaN code": ("fp8", put("codes::conv::w0", fill(0x7F)), "NaN"),
    "an integer below the format": ("int8", put("codes::conv::w0", fill(0x80)), "at least -127"),
    "a NaN scale": ("nvfp4", put("scales::conv::w0", fill(0x7F)), "NaN"),
    "an infinite scale": ("fp8", put("scales::conv::w0", fill(np.inf)), "NaN or Inf"),
    "a negative scale": ("fp8", put("scales::conv::w0", fill(-1.0)), "at least 0"),
    "a negative tensor scale": ("nvfp4", put("tensor_scale::conv::w0", fill(-1.0)), "at least 0"),
    "a mask of another pattern": ("fp8_2of4", put("mask::conv::w0", fill(255)), "keep 2:4 of every"),
    "codes under the mask": ("fp8_2of4", put("codes::conv::w0", fill(0x38)), "must be 0 where"),
    "an infinite bias": ("fp8", put("bias::conv", fill(np.inf)), "NaN or Inf"),
    "a long bias": ("fp8", put("bias::conv", lambda a: np.concatenate([a, a])), "must be float32 of"),
    "a NaN constant": ("fp8", put("constant::gain", fill(np.nan)), "NaN or Inf"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name, edit, message = HOSTILE[case]
    path, _, _, _, plan = changed_plan(tmp_path, name)
    write_plan(plan, tmp_path / "plan.json")
    file = weights_file(tmp_path / "plan.json")
    tensors = load_file(file)
    edit(tensors)
    data = save(tensors)
    file.write_bytes(data)
    named = PlanWeights(hashlib.sha256(data).hexdigest(), path=file)
    with pytest.raises(PlanError, match=message) as raised:
        changes_of(replace(plan, weights=named), import_onnx(path))
    assert "\n" not in str(raised.value)


def test_names_that_two_tensors_share_are_refused(tmp_path: Path) -> None:
    _, simulator, _, changes, _ = changed_plan(tmp_path, "fp8")
    graph = simulator.graph
    layers = list(graph.layers)
    for i, name, source in ((5, "a", "b::c"), (6, "a::b", "c")):
        gemm = layers[i].gemms[0]
        right = replace(gemm.right, source=source)
        layers[i] = replace(layers[i], name=name, gemms=(replace(gemm, right=right),))
    weights = {at: changes.weights[at] for at in ((5, 0), (6, 0))}
    with pytest.raises(PlanError, match="must have names that differ"):
        hold_changes(Changes(weights), replace(graph, layers=tuple(layers)))


def test_plans_without_changes_say_nothing_of_them(tmp_path: Path) -> None:
    _, simulator, chosen, _, _ = changed_plan(tmp_path, "fp8")
    plain: Plan = mp.make_plan(mp.Point(tuple(map(int, chosen)), {}), simulator)
    write_plan(plain, tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    assert not {'"recovery": [', '"changes"', '"weights": {'} & set(text.split("\n"))
    assert not changes_of(plain, simulator.graph)
