"""A plan's model trains: as it runs, to what loses less on data that did not train, whatever happens on the way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from mpsearch.data.batches import make_batches
from mpsearch.errors import DataError, NumericsError, PlanError, SettingError
from mpsearch.graph.importer import import_onnx
from mpsearch.program.schedule import make_schedule
from mpsearch.recovery.training import loop
from mpsearch.recovery.training.checkpoint import Checkpoint
from mpsearch.recovery.training.loop import Effort, Trained, train
from mpsearch.recovery.training.parameters import make_parameters
from mpsearch.recovery.training.recipe import Recipe, read_recipe
from mpsearch.recovery.training.reestimate import correct_biases, reestimate_norms
from mpsearch.recovery.training.run import Trainable
from mpsearch.schemes import Scheme, find_scheme
from mpsearch.simulate.reference import head_slots
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.changed_plans import every_kind
from tests.support.graph_models import model as make_model
from tests.support.graph_models import noise, save
from tests.support.small_models import random_weights, write_mlp

NAMES = ("fp16", "int8", "fp8", "nvfp4", "mxfp4", "fp8_2of4", "w4a16")


def perceptron(folder: Path, *names: str, n: int = 240) -> tuple[Simulator, list[Scheme]]:
    """Three linear layers in the named schemes, on ``n`` samples."""
    path = write_mlp(folder / "mlp.onnx", random_weights(16, 48, 48, 5))
    return simulate(path, {"x": noise(n, 16)}, names)


def simulate(
    path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...]
) -> tuple[Simulator, list[Scheme]]:
    space = SearchSpace("s", tuple(map(find_scheme, dict.fromkeys(("fp16", *names)))), "fp16")
    simulator = Simulator(import_onnx(path), space, make_batches(arrays, batch_size=8))
    layers = len(simulator.graph.layers)
    return simulator, [find_scheme(names[i % len(names)]) for i in range(layers)]


def trainable(simulator: Simulator, schemes: list[Scheme], **recipe: object) -> Trainable:
    how = Recipe(**recipe)  # type: ignore[arg-type]  # settings by name
    slots = head_slots(simulator.program, simulator.heads)
    return Trainable(
        simulator.calibrated,
        schemes,
        make_parameters(simulator.calibrated, schemes, how),
        make_schedule(simulator.program, slots),
        slots,
        how.ranges == "pact",
    )


def run(simulator: Simulator, schemes: list[Scheme], steps: int = 60, **recipe: object) -> Trained:
    how = Recipe(batch=8, **recipe)  # type: ignore[arg-type]  # settings by name
    effort = Effort(600, steps)
    return train(simulator.calibrated, schemes, simulator.reference, how, effort)


def assignment(simulator: Simulator, schemes: list[Scheme]) -> np.ndarray:
    names = [simulator.space.names.index(scheme.name) for scheme in schemes]
    return np.array([names[group.layers[0]] for group in simulator.graph.groups])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_begins_as_the_plan_runs(tmp_path: Path, name: str) -> None:
    path = save(every_kind(), tmp_path)
    simulator, schemes = simulate(path, {"x": noise(8, 24, 4, 4)}, (name,))
    allowed = simulator.allowed[:, simulator.space.names.index(name)]
    for g, group in enumerate(simulator.graph.groups):
        for layer in group.layers:
            schemes[layer] = schemes[layer] if allowed[g] else find_scheme("fp16")
    model = trainable(simulator, schemes)
    chosen = assignment(simulator, schemes)
    with torch.no_grad():
        (found,) = model.run(simulator.feed_run(0))
    (wanted,) = simulator.head_values(chosen, 0)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    outcome = model.parameters.changes(simulator.calibrated)
    assert outcome.ranges.keys() == simulator.ranges.keys()
    (changed,) = simulator.change(outcome.changes).head_values(chosen, 0)
    torch.testing.assert_close(changed, wanted, rtol=1e-5, atol=1e-5)


def test_what_training_measures_is_what_the_changed_model_loses(tmp_path: Path) -> None:
    simulator, schemes = perceptron(tmp_path, "nvfp4", "fp8_2of4")
    done = run(simulator, schemes)
    assert done.outcome is not None
    assert done.after.mean < 0.8 * done.before.mean
    held = simulator.on_data(simulator.batches)
    calibrated = replace(held.calibrated, ranges=done.outcome.ranges)
    again = Simulator.of(calibrated, held.reference, 0, held._store).change(done.outcome.changes)
    losses = again.losses(assignment(simulator, schemes))[4::5]
    assert losses.mean() == pytest.approx(done.after.mean, rel=1e-3)


@pytest.mark.parametrize(
    "recipe",
    [
        {"masks": "reselected", "reselect": 5},
        {"masks": "linear"},
        {"masks": "cubic", "ramp": 0.8},
        {"ranges": "pact"},
        {"ranges": "fixed", "scales": False},
        {"lowering": 0.5},
        {"features": 0.1},
        {"optimizer": "sgd", "rate": 10.0},
        {"clip": 0.0, "decay": 0.01},
    ],
    ids=str,
)
def test_every_way_of_training_lowers_the_loss(tmp_path: Path, recipe: dict[str, object]) -> None:
    simulator, schemes = perceptron(tmp_path, "fp8_2of4", "int8", "nvfp4")
    done = run(simulator, schemes, **recipe)
    assert done.after.mean < (0.99 if "optimizer" in recipe else 0.95) * done.before.mean
    assert done.outcome is not None
    for weight in done.outcome.changes.weights.values():
        if weight.mask is not None:
            assert bool((weight.mask.reshape(-1, 4).sum(1) == 2).all())
            assert bool((weight.codes[~weight.mask] == 0).all())


def test_selecting_anew_changes_the_masks(tmp_path: Path) -> None:
    simulator, schemes = perceptron(tmp_path, "fp8_2of4")
    before = trainable(simulator, schemes).parameters
    done = run(simulator, schemes, masks="reselected", reselect=2, rate=0.05)
    assert done.outcome is not None
    masks = [done.outcome.changes.weights[m.products[0]].mask for m in before.masters]
    assert any(
        not torch.equal(m.like.mask, mask)
        for m, mask in zip(before.masters, masks, strict=True)
        if m.like.mask is not None and mask is not None
    )


def test_layers_are_lowered_one_after_another(tmp_path: Path) -> None:
    simulator, schemes = perceptron(tmp_path, "nvfp4")
    model, feed = trainable(simulator, schemes), simulator.feed_run(0)
    with torch.no_grad():
        outputs = [model.run(feed, lowered=count)[0] for count in range(4)]
    (exact,) = simulator.head_values(None, 0)
    torch.testing.assert_close(outputs[0], exact, rtol=1e-5, atol=1e-5)
    errors = [float((output - exact).square().mean()) for output in outputs]
    assert errors[0] < errors[1] < errors[3]


def test_what_cannot_get_better_stays(tmp_path: Path) -> None:
    simulator, schemes = perceptron(tmp_path, "fp16")
    done = run(simulator, schemes, steps=3, rate=10.0)
    assert done.after.mean <= done.before.mean


def test_steps_that_are_not_finite_are_taken_back_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator, schemes = perceptron(tmp_path, "nvfp4")
    whole, calls = loop.sample_losses, 0

    def failing(*args: object) -> torch.Tensor:
        nonlocal calls
        losses = whole(*args)  # type: ignore[arg-type]  # passed on
        if losses.requires_grad:
            calls += 1
            if calls == 5:
                return losses * float("nan")
            if calls == 7:
                raise NumericsError("outputs must be finite")
        return losses

    monkeypatch.setattr(loop, "sample_losses", failing)
    done = run(simulator, schemes)
    assert len(done.notes) == 2
    assert "the best state so far was taken again" in done.notes[0]
    assert done.after.mean < done.before.mean


def test_a_training_that_never_is_finite_ends_with_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator, schemes = perceptron(tmp_path, "nvfp4")
    whole = loop.sample_losses

    def failing(*args: object) -> torch.Tensor:
        losses = whole(*args)  # type: ignore[arg-type]  # passed on
        return losses * float("nan") if losses.requires_grad else losses

    monkeypatch.setattr(loop, "sample_losses", failing)
    done = run(simulator, schemes)
    assert done.steps < 60
    assert "stopped" in done.notes[-1]
    assert done.after.mean <= done.before.mean


def test_an_interrupted_training_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_EVALUATION_SHARE", 1.0)  # after each step, whatever time it takes
    simulator, schemes = perceptron(tmp_path, "nvfp4", "fp8")
    kept = Checkpoint(tmp_path / "kept.training.safetensors", "this one")
    recipe, effort = Recipe(batch=8), Effort(600, 12)

    def go(checkpoint: Checkpoint | None, stop: int = -1) -> Trained:
        def tell(done: int, total: int, said: str) -> None:
            if done == stop:
                raise KeyboardInterrupt

        return train(
            simulator.calibrated, schemes, simulator.reference, recipe, effort,
            checkpoint=checkpoint, tell=tell,
        )  # fmt: skip

    whole = go(None)
    first = go(kept, stop=5)
    assert first.interrupted
    assert first.steps == 5
    assert kept.path.is_file()
    other = Checkpoint(kept.path, "another one")
    assert other.read({}) is None
    second = go(kept)
    assert not second.interrupted
    assert second.steps == 12
    assert not kept.path.exists()
    assert second.after.mean == pytest.approx(whole.after.mean, rel=1e-4)
    assert second.before == whole.before


def test_a_damaged_checkpoint_is_not_read(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "kept.training.safetensors", "this one")
    assert kept.read({}) is None
    kept.path.write_bytes(b"nothing of the kind")
    assert kept.read({}) is None
    kept.write({"a": torch.ones(2)}, {"step": 1})
    assert kept.read({"a": (3,)}) is None
    found = kept.read({"a": (2,)})
    assert found is not None
    assert found[1] == {"step": 1}


def test_one_sample_is_too_few(tmp_path: Path) -> None:
    simulator, schemes = perceptron(tmp_path, "fp8", n=1)
    with pytest.raises(DataError, match="but there is but one"):
        run(simulator, schemes)


def test_two_samples_train(tmp_path: Path) -> None:
    simulator, schemes = perceptron(tmp_path, "nvfp4", n=2)
    done = run(simulator, schemes, steps=4)
    assert done.after.mean <= done.before.mean


def test_biases_make_up_for_means(tmp_path: Path) -> None:
    simulator, schemes = perceptron(tmp_path, "nvfp4")
    model, feed = trainable(simulator, schemes), simulator.feed_run(0)
    correct_biases(model, feed)
    means: dict[int, torch.Tensor] = {}

    def record(layer: int, output: torch.Tensor) -> torch.Tensor:
        means[layer] = output.mean(0)
        return output

    with torch.no_grad():
        model.run(feed, hook=record)
    w = [simulator.calibrated.weights.plain(i) for i in range(3)]
    h = feed["x"] @ w[0]
    exact = [h, torch.relu(h) @ w[1]]
    for layer, wanted in enumerate(exact):
        torch.testing.assert_close(means[layer], wanted.mean(0), rtol=2e-3, atol=2e-3)


def test_statistics_of_normalisations_are_estimated_anew(tmp_path: Path) -> None:
    channels = 6
    rng = np.random.default_rng(0)
    constants = {
        "w": noise(channels, channels, 1, 1),
        **{name: rng.uniform(0.5, 2, channels).astype(np.float32) for name in "gbmv"},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "conv"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),  # keeps the normalisation apart
        helper.make_node("BatchNormalization", ["r", "g", "b", "m", "v"], ["y"], "norm"),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    path = save(make_model(nodes, {"x": ("n", channels, 4, 4)}, ["y"], tensors), tmp_path)
    simulator, schemes = simulate(path, {"x": noise(20, channels, 4, 4)}, ("fp16",))
    model, feed = trainable(simulator, schemes), simulator.feed_run(0)
    trained = model.parameters.tensors
    assert not trained["constant.m"].requires_grad
    assert trained["constant.g"].requires_grad
    reestimate_norms(model, feed)
    r = torch.relu(torch.conv2d(feed["x"], torch.from_numpy(constants["w"]))).movedim(1, -1)
    flat = r.reshape(-1, channels)
    torch.testing.assert_close(trained["constant.m"], flat.mean(0), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(
        trained["constant.v"], flat.var(0, correction=0), rtol=1e-2, atol=1e-2
    )


def test_schedules_are_as_they_are_called() -> None:
    recipe = Recipe(warm_up=0.1, masks="cubic", ramp=0.5, lowering=0.4)
    assert recipe.rate_at(0.1) == 1
    assert recipe.rate_at(0.05) == pytest.approx(0.5, abs=0.01)
    assert recipe.rate_at(0.55) == pytest.approx(0.5)
    assert recipe.rate_at(1.0) == pytest.approx(0)
    assert [recipe.kept_at(at) for at in (0, 0.25, 0.5)] == [1, 0.125, 0]
    assert replace(recipe, masks="linear").kept_at(0.25) == 0.5
    assert [recipe.lowered_at(at, 10) for at in (0, 0.2, 0.4)] == [0, 5, 10]


def test_what_was_recovered_is_trained_more_slowly() -> None:
    assert Recipe().full_rate(recovered=True) < Recipe().full_rate(recovered=False)
    assert Recipe(rate=0.1).full_rate(recovered=True) == 0.1


def test_a_recipe_is_read_and_refused_by_name() -> None:
    read = read_recipe(["rate=0.01", "masks=cubic", "scales=false"])
    assert (read.rate, read.masks, read.scales) == (0.01, "cubic", False)
    with pytest.raises(SettingError, match="has no setting 'speed'"):
        read_recipe(["speed=3"])
    with pytest.raises(SettingError, match="masks of training must be"):
        read_recipe(["masks=square"])
    with pytest.raises(SettingError, match="NAME=VALUE"):
        read_recipe(["rate"])
    with pytest.raises(PlanError, match="held_out"):
        read_recipe(["held_out=1.5"])


def test_scaled_losses_train_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA does: forwards in fp16, gradients scaled, steps that overflow left out."""
    whole = loop._Training.begin

    def begin(self: loop._Training, checkpoint: Checkpoint | None) -> None:
        whole(self, checkpoint)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=1000)

    monkeypatch.setattr(loop._Training, "begin", begin)
    simulator, schemes = perceptron(tmp_path, "nvfp4", "int8")
    done = run(simulator, schemes, steps=160)
    assert not done.notes  # a gradient that overflows is no failure
    assert done.after.mean < 0.95 * done.before.mean
