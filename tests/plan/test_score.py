"""A plan's file alone says what it loses on any data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpsearch as mp
from mpsearch.data.batches import Batches, make_batches
from mpsearch.errors import DataError, MpsearchError, PlanError
from mpsearch.plan.files import read_plan, weights_file, write_plan
from mpsearch.plan.plan import Plan
from mpsearch.plan.score import measure_plan
from mpsearch.schemes import find_scheme
from tests.support.command_line import Mpsearch
from tests.support.tiny_job import draw, write_model

RECOVERED = replace(find_scheme("fp8_2of4"), recovery="obs")
SPACE = mp.SearchSpace("s", (*map(find_scheme, ("fp16", "fp8", "nvfp4")), RECOVERED), "fp16")
FOREIGN = "must be used with the weights that it was made for"


def batches(n: int, seed: int, *, labels: bool = False) -> Batches:
    arrays = draw(n, seed=seed, labels=labels)
    return make_batches(arrays, batch_size=5)


def made(folder: Path) -> tuple[Path, mp.Simulator, np.ndarray, Plan]:
    """A model, a simulator of it, an assignment with a recovered layer, and its plan, read from its file."""
    model = write_model(folder / "tiny.onnx")
    simulator = mp.Simulator(mp.import_onnx(model), SPACE, batches(12, 0))
    chosen = np.array([1, 2, 3, 0])
    plan = mp.make_plan(mp.Point(tuple(map(int, chosen)), {}), simulator)
    write_plan(plan, folder / "plan.json")
    return model, simulator, chosen, read_plan(folder / "plan.json")


@pytest.mark.parametrize("loss", [None, "kl"])
def test_a_plan_scores_what_the_simulator_that_it_came_from_measures(
    tmp_path: Path, loss: str | None
) -> None:
    model, simulator, chosen, plan = made(tmp_path)
    held = batches(17, 1)
    wanted = simulator.on_data(held, loss=loss).loss(chosen)
    np.testing.assert_allclose(mp.score_plan(plan, model, held, loss=loss), wanted, rtol=1e-5)


def test_squared_errors_are_relative_to_the_variance_of_the_data_themselves(tmp_path: Path) -> None:
    model, simulator, chosen, plan = made(tmp_path)
    wanted = simulator.by_loss("mse").loss(chosen)
    found = mp.score_plan(plan, model, simulator.batches, loss="mse")
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_labels_say_what_the_plan_and_the_fp32_model_score(tmp_path: Path) -> None:
    model, simulator, chosen, plan = made(tmp_path)
    held = batches(17, 1, labels=True)
    found = measure_plan(plan, model, held)
    on_held = simulator.on_data(held)
    for assignment, scores in ((chosen, found.scores), (None, found.reference)):
        wanted = on_held.scores(assignment)
        assert scores.keys() == {"nll", "accuracy"} == wanted.keys()
        for name, values in wanted.items():
            assert scores[name].mean == pytest.approx(values.mean())
    assert found.loss.mean == pytest.approx(found.scores["nll"].mean - found.reference["nll"].mean)


def test_labels_that_a_named_loss_has_no_use_for_are_left_out(tmp_path: Path) -> None:
    model, simulator, chosen, plan = made(tmp_path)
    arrays = draw(9, seed=1) | {"labels": np.full((9, 3), 2)}
    held = make_batches(arrays, batch_size=5)
    found = measure_plan(plan, model, held, loss="kl")
    np.testing.assert_allclose(found.loss, simulator.on_data(batches(9, 1)).loss(chosen), rtol=1e-5)
    assert not found.scores
    with pytest.raises(DataError, match="labels must have shape"):
        measure_plan(plan, model, held)


def test_check_says_what_changed_a_plan_and_looks_for_its_weights(
    tmp_path: Path, mpsearch: Mpsearch
) -> None:
    _, _, _, plan = made(tmp_path)
    write_plan(replace(plan, recovery=("gptq",)), tmp_path / "other.json")
    said = mpsearch("check", tmp_path / "other.json")
    assert said.code == 0
    assert "changed by gptq" in said.out
    weights_file(tmp_path / "other.json").unlink()
    said = mpsearch("check", tmp_path / "other.json")
    assert said.code == 1
    assert "must lie beside it" in said.out + said.err


def test_the_command_says_the_same(tmp_path: Path, mpsearch: Mpsearch) -> None:
    model, _, _, plan = made(tmp_path)
    arrays = draw(17, seed=1, labels=True)
    np.savez(tmp_path / "held.npz", **arrays)
    command = ["score", tmp_path / "plan.json", "--model", model, "--data", tmp_path / "held.npz"]
    found = mpsearch(*command, "--json").json
    wanted = measure_plan(plan, model, mp.read_batches(tmp_path / "held.npz"))
    assert found["loss"]["mean"] == pytest.approx(wanted.loss.mean)
    assert found["scores"]["accuracy"]["mean"] == pytest.approx(wanted.scores["accuracy"].mean)
    assert found["samples"] == 17
    shown = mpsearch(*command)
    assert shown.code == 0
    assert {"loss", "nll", "accuracy", "fp32"} <= set(shown.out.replace(",", " ").split())


def other_weights(folder: Path) -> None:
    write_model(folder / "tiny.onnx", seed=5)


def no_weights(folder: Path) -> None:
    weights_file(folder / "plan.json").unlink()


def changed_weights(folder: Path) -> None:
    file = weights_file(folder / "plan.json")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_weights, FOREIGN),
        (no_weights, "must lie beside it"),
        (changed_weights, "must be the weights that the plan names"),
    ],
)
def test_a_plan_that_cannot_be_had_is_refused_in_one_line(
    tmp_path: Path, mpsearch: Mpsearch, damage: object, message: str
) -> None:
    model, _, _, plan = made(tmp_path)
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(PlanError, match=message):
        mp.score_plan(plan, model, batches(4, 1))
    np.savez(tmp_path / "held.npz", **draw(4, seed=1))
    said = mpsearch(
        "score", tmp_path / "plan.json", "--model", model, "--data", tmp_path / "held.npz"
    )
    assert said.code == 1
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_data_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    model, _, _, plan = made(tmp_path)
    with pytest.raises(DataError) as raised:
        mp.score_plan(plan, model, make_batches({"z": np.zeros((4, 3), np.float32)}))
    assert "\n" not in str(raised.value)
    with pytest.raises(MpsearchError, match="Batches"):
        mp.score_plan(plan, model, {"x": np.zeros((4, 3), np.float32)})  # type: ignore[arg-type]  # the mistake
