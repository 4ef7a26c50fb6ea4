"""The simulator's semantics, against a slow reference written from the formats' definitions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from mpsearch.data.batches import make_batches
from mpsearch.errors import DataError, NumericsError, SpaceError
from mpsearch.program.program import Program
from mpsearch.schemes import find_scheme
from mpsearch.simulate import calibrated as calibrated_module
from mpsearch.simulate.probe import capture, replay, simulated_weight
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import uniform
from mpsearch.space.space import SearchSpace
from tests.support.counting import CountingLosses
from tests.support.torch_models import attention_net, conv_net, images, imported, sentences

F64 = NDArray[np.float64]
SCHEMES = ("fp16", "fp8", "int8", "nvfp4", "nvfp4a16", "fp8_2of4", "mxfp8")


def space_of(*names: str, base: str = "fp16") -> SearchSpace:
    return SearchSpace("test", tuple(map(find_scheme, names)), base)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


# ---- the slow reference ------------------------------------------------------------------------


def to_e4m3(x: F64) -> F64:
    return np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)


def to_e2m1(x: F64) -> F64:
    return np.clip(x, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float64)


def slow_nvfp4(x: F64, tensor_amax: float) -> F64:
    """Blocks of 16 along the last axis; the last one may be short."""
    g = np.float32(tensor_amax) / np.float32(6 * 448)
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape[:-1]):
        for start in range(0, x.shape[-1], 16):
            block = x[index][start : start + 16]
            scale = to_e4m3(np.abs(block).max() / (6.0 * g))
            if scale > 0:
                out[index][start : start + 16] = to_e2m1(block / (scale * g)) * scale * g
    return out


def slow_weight(w: F64, scheme: str, channel_last: int) -> F64:
    """[out, channels, …] weights; ``channel_last`` is the reduction axis within them."""
    if scheme == "fp16":
        return w.astype(np.float16).astype(np.float64)
    if scheme == "fp8":
        axes = tuple(range(1, w.ndim))
        scale = np.float32(np.abs(w).max(axis=axes, keepdims=True)) / np.float32(448)
        return to_e4m3(w / scale) * scale
    moved = np.moveaxis(w, channel_last, -1)
    return np.moveaxis(slow_nvfp4(moved, np.abs(w).max()), -1, channel_last)


def slow_activation(x: F64, scheme: str, amax: float, axis: int, groups: int) -> F64:
    if scheme == "fp16":
        return x.astype(np.float16).astype(np.float64)
    if scheme == "fp8":
        scale = np.float32(amax) / np.float32(448)
        return to_e4m3(x / scale) * scale
    moved = np.moveaxis(x, axis, -1)
    split = moved.reshape(*moved.shape[:-1], groups, -1)
    return np.moveaxis(slow_nvfp4(split, amax).reshape(moved.shape), -1, axis)


def slow_conv_net(
    model: onnx.ModelProto, x: F64, schemes: list[str] | None, amax: dict[str, float]
) -> tuple[F64, dict[str, F64]]:
    """Logits of ``conv_net`` in fp64 between the roundings, and each layer's input."""
    w = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    inputs: dict[str, F64] = {}

    def layer(
        i: int, x: F64, weight: F64, bias: F64 | None, axis: int, groups: int, **conv: int
    ) -> F64:
        inputs[str(i)] = x
        if schemes is not None:
            weight = slow_weight(weight, schemes[i], 1)
            x = slow_activation(x, schemes[i], amax[str(i)], axis, groups)
        if weight.ndim == 2:
            y = x @ weight.T
        else:
            y = torch.conv2d(
                torch.tensor(x), torch.tensor(weight), None, groups=groups, **conv
            ).numpy()
        if bias is not None:
            y = y + bias.reshape((1, -1) + (1,) * (y.ndim - 2))
        if schemes is None:
            return y
        return y.astype(np.float32).astype(np.float16).astype(np.float64)

    y = np.maximum(layer(0, x, w["w0"], w["b0"], 1, 1, stride=2, padding=1), 0)
    y = layer(1, y, w["w1"], None, 1, 20, padding=1)
    y = y * np.clip(y / 6 + 0.5, 0, 1)
    y = layer(2, y, w["w2"], w["b2"], 1, 1).mean((2, 3))
    return layer(3, y, w["w3"].T, w["b3"], 1, 1), inputs


def log_softmax(z: F64) -> F64:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


# ---- promises ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schemes",
    [["fp16"] * 4, ["fp8"] * 4, ["nvfp4"] * 4, ["nvfp4", "fp8", "fp16", "nvfp4"]],
    ids=lambda s: "-".join(s),
)
def test_losses_equal_a_slow_reference(schemes: list[str], tmp_path: Path) -> None:
    model, batches = conv_net(), images()
    simulator = Simulator(imported(model, tmp_path), space_of(*SCHEMES), batches)
    x = batches.arrays["x"].astype(np.float64)
    logits, inputs = slow_conv_net(model, x, None, {})
    amax = {name: float(np.abs(value.astype(np.float32)).max()) for name, value in inputs.items()}
    noisy, _ = slow_conv_net(model, x, schemes, amax)
    p, q = log_softmax(logits), log_softmax(noisy)
    expected = (np.exp(p) * (p - q)).sum(-1)
    found = simulator.losses(np.array([simulator.space.index(s) for s in schemes]))
    # single codes may flip where fp32 and fp64 round to different sides
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=2e-7)
    assert simulator.loss_kind == "kl"
    assert simulator.unit == "nats"


@pytest.mark.parametrize("softmax", [True, False])
def test_fp32_equals_onnxruntime(softmax: bool, tmp_path: Path) -> None:
    model, batches = conv_net(softmax=softmax), images()
    simulator = Simulator(imported(model, tmp_path), space_of("fp16"), batches)
    (expected,) = session(model).run(None, {"x": batches.arrays["x"]})
    (found,) = simulator.run({"x": batches.arrays["x"]}).values()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_attention_equals_onnxruntime_and_loss_ignores_masked_positions(tmp_path: Path) -> None:
    model, batches = attention_net(), sentences()
    simulator = Simulator(imported(model, tmp_path), space_of("fp16", "fp8", "nvfp4a16"), batches)
    feeds = dict(batches.arrays)
    (expected,) = session(model).run(None, feeds)
    (found,) = simulator.run(feeds).values()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    assignment = uniform(simulator.space, simulator.graph, "fp8", simulator.allowed)
    (noisy,) = simulator.run(feeds, assignment).values()
    p, q = log_softmax(expected.astype(np.float64)), log_softmax(noisy.double().numpy())
    divergence = (np.exp(p) * (p - q)).sum(-1)
    mask = batches.arrays["mask"]
    losses = (divergence * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(simulator.losses(assignment), losses, rtol=1e-3, atol=1e-8)


def test_products_of_activations_take_no_weight_only_and_no_sparse_scheme(tmp_path: Path) -> None:
    simulator = Simulator(
        imported(attention_net(), tmp_path), space_of("fp16", "nvfp4a16", "fp8_2of4"), sentences()
    )
    for name in ("scores", "mix"):
        g = simulator.groups.index(name)
        assert simulator.allowed[g].tolist() == [True, False, False]
        assert (name, "nvfp4a16") in simulator.reasons


def test_sparse_schemes_need_divisible_channels(tmp_path: Path) -> None:
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16", "fp8_2of4"), images())
    assert simulator.allowed[:, 1].tolist() == [False, False, True, True]  # 3, 1, 20, 24 channels
    with pytest.raises(SpaceError, match=r"'stem' may not take fp8_2of4.*channels % 4"):
        simulator.losses(np.array([1, 0, 0, 0]))
    weight = simulated_weight(simulator.calibrated, 2, 1).numpy()[:, :, 0, 0]
    assert ((weight.reshape(24, 5, 4) != 0).sum(-1) <= 2).all()


def test_changed_layers_restart_from_kept_values_with_the_same_bits(tmp_path: Path) -> None:
    graph = imported(conv_net(), tmp_path)
    kept = Simulator(graph, space_of(*SCHEMES), images())
    fresh = Simulator(graph, space_of(*SCHEMES), images(), max_memory=0)
    rng = np.random.default_rng(4)
    for _ in range(6):
        assignment = np.array([rng.choice(np.flatnonzero(row)) for row in kept.allowed])
        assert np.array_equal(kept.losses(assignment), fresh.losses(assignment))


def test_one_changed_layer_re_executes_only_what_depends_on_it(tmp_path: Path) -> None:
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16", "fp8"), images())
    simulator.losses(np.zeros(4, np.int64))
    spent = []
    for g in range(4):
        before = simulator.executed_flops
        simulator.losses(np.eye(4, dtype=np.int64)[g])
        spent.append(simulator.executed_flops - before)
    flops = [layer.flops for layer in simulator.graph.layers]
    assert spent == [10 * sum(flops[g:]) for g in range(4)]


def test_losses_of_an_assignment_are_computed_once(tmp_path: Path) -> None:
    store = CountingLosses()
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16", "fp8"), images())
    kept = simulator.keep_losses(store)
    first = kept.losses(np.zeros(4, np.int64))
    assert np.array_equal(kept.losses(np.zeros(4, np.int64)), first)
    assert store.batches == kept.n_batches
    kept.evaluate(np.zeros((1, 4), np.int64), fraction=0.5)
    assert store.batches == kept.n_batches


def test_the_graph_is_compiled_once_whatever_is_made_of_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    known = calibrated_module.compile_graph

    def counted(*args: Any, **kwargs: Any) -> Program:
        compiled.append(args)
        return known(*args, **kwargs)

    monkeypatch.setattr(calibrated_module, "compile_graph", counted)
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16", "fp8"), images())
    plan = np.ones(4, np.int64)
    simulator.on_data(images(n=4)).loss(plan)
    by_mse = simulator.by_loss("mse")
    others = simulator.in_space(space_of("fp16", "nvfp4"))
    assert (by_mse.unit, others.space.names) == ("relative MSE", ("fp16", "nvfp4"))
    assert others.loss(plan) != simulator.loss(plan) != by_mse.loss(plan)
    assert by_mse.ranges is simulator.ranges
    assert len(compiled) == 1


def test_another_loss_or_space_on_other_data_is_calibrated_to_the_same_samples(
    tmp_path: Path,
) -> None:
    graph, few, more = imported(conv_net(), tmp_path), images(), images(n=16, seed=3)
    calibrated = Simulator(graph, space_of("fp16", "fp8"), few)
    whole = calibrated.on_data(more)
    plan = np.ones(4, np.int64)
    by_mse = Simulator(graph, space_of("fp16", "fp8"), few, loss="mse").on_data(more)
    assert np.array_equal(whole.by_loss("mse").losses(plan), by_mse.losses(plan))
    lower = Simulator(graph, space_of("fp16", "int8"), few).on_data(more)
    in_space = whole.in_space(space_of("fp16", "int8"))
    assert in_space.ranges == lower.ranges
    assert np.array_equal(in_space.losses(plan), lower.losses(plan))


def test_a_fraction_uses_the_same_batches_again(tmp_path: Path) -> None:
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16", "fp8"), images(n=12))
    part = simulator.evaluate(np.ones((1, 4), np.int64), fraction=0.34)
    whole = simulator.losses(np.ones(4, np.int64))
    assert part[0].mean == pytest.approx(np.concatenate([whole[:4], whole[8:]]).mean())
    assert simulator.evaluate(np.ones((2, 4), np.int64))[1] == simulator.loss(np.ones(4, np.int64))


def test_labels_make_the_loss_the_paired_increase_of_the_nll(tmp_path: Path) -> None:
    labels = np.arange(10) % 5
    model, batches = conv_net(), images(labels=labels)
    simulator = Simulator(imported(model, tmp_path), space_of("fp16", "fp8"), batches)
    assert simulator.loss_kind == "nll"
    (p,) = session(model).run(None, {"x": batches.arrays["x"]})
    nll = -np.log(p[np.arange(10), labels])
    np.testing.assert_allclose(simulator.reference_losses(), nll, rtol=1e-4)
    scores = simulator.scores(np.ones(4, np.int64))
    np.testing.assert_allclose(
        simulator.losses(np.ones(4, np.int64)), scores["nll"] - simulator.reference_losses()
    )
    assert np.array_equal(simulator.scores(None)["accuracy"], (p.argmax(1) == labels) * 1.0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.arange(10), "below the 5 classes"), (np.zeros((10, 7), np.int64), "shape")],
)
def test_labels_that_do_not_fit_are_refused(
    labels: NDArray[np.int64], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        Simulator(imported(conv_net(), tmp_path), space_of("fp16"), images(labels=labels))


def test_regression_is_relative_to_the_variance(tmp_path: Path) -> None:
    model, batches = conv_net(softmax=False), images()
    simulator = Simulator(imported(model, tmp_path), space_of("fp16", "fp8"), batches, loss="mse")
    (y,) = session(model).run(None, {"x": batches.arrays["x"]})
    (noisy,) = simulator.run({"x": batches.arrays["x"]}, np.ones(4, np.int64)).values()
    expected = ((noisy.numpy() - y) ** 2).mean(1) / y.var()
    np.testing.assert_allclose(simulator.losses(np.ones(4, np.int64)), expected, rtol=1e-3)
    assert simulator.unit == "relative MSE"


def test_a_base_that_overflows_proposes_bf16(tmp_path: Path) -> None:
    graph = imported(conv_net(scale=300.0), tmp_path)
    with pytest.raises(NumericsError, match=r"base fp16.*layer '\w+' has amax .*--base bf16"):
        Simulator(graph, space_of("fp16", "fp8"), images())
    simulator = Simulator(graph, space_of("bf16", "fp16", "fp8", base="bf16"), images())
    assert not simulator.allowed[:, 1].all()
    assert simulator.allowed[:, 2].all()
    assert any("overflows" in reason for reason in simulator.reasons.values())


def test_replay_on_captured_inputs_gives_the_layer_s_output(tmp_path: Path) -> None:
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16", "fp8"), images())
    batch = next(simulator.batches.iterate())
    captured = capture(simulator.calibrated, range(4), batch)
    for index, layer in enumerate(simulator.graph.layers):
        replayed = replay(simulator.calibrated, index, None, captured)
        torch.testing.assert_close(replayed, captured[layer.output])
        noisy = replay(simulator.calibrated, index, 1, captured)
        assert 0 < float((noisy - replayed).abs().max()) < 0.2


def test_the_mixture_s_corners_are_the_assignments(tmp_path: Path) -> None:
    simulator = Simulator(imported(conv_net(), tmp_path), space_of(*SCHEMES), images())
    rng = np.random.default_rng(5)
    assignment = np.array([rng.choice(np.flatnonzero(row)) for row in simulator.allowed])
    corner = np.eye(len(SCHEMES))[assignment]
    estimate, gradient = simulator.loss_and_gradient(corner)
    assert estimate.mean == pytest.approx(simulator.loss(assignment).mean, rel=1e-3)
    assert gradient.shape == corner.shape
    assert (gradient[~simulator.allowed] == 0).all()


def test_the_mixture_s_gradient_points_where_the_loss_grows(tmp_path: Path) -> None:
    """Against a difference in the direction from fp16 to nvfp4, at a mixed point."""
    simulator = Simulator(
        imported(conv_net(), tmp_path), space_of("fp32", "nvfp4a16", base="fp32"), images()
    )
    p = np.tile([0.6, 0.4], (4, 1))
    _, gradient = simulator.loss_and_gradient(p)
    step = 0.2  # the loss is about quadratic: central differences are exact for that
    for g in range(4):
        moved = []
        for sign in (1, -1):
            q = p.copy()
            q[g] += np.array([-step, step]) * sign
            moved.append(simulator.loss_and_gradient(q)[0].mean)
        slope = (moved[0] - moved[1]) / (2 * step)
        # activations are fp16 steps: the rest of the path is smooth
        assert gradient[g, 1] - gradient[g, 0] == pytest.approx(slope, rel=0.1, abs=1e-5)


def test_nan_names_the_first_node(tmp_path: Path) -> None:
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16"), images())
    x = np.full((1, 3, 12, 16), 1e30, np.float32)
    with pytest.raises(NumericsError, match="'stem'"):
        simulator.run({"x": x}, np.zeros(4, np.int64))


def test_the_order_of_evaluations_does_not_matter(tmp_path: Path) -> None:
    graph = imported(conv_net(), tmp_path)
    some = [np.array(a) for a in ([1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0])]
    first = Simulator(graph, space_of("fp16", "fp8"), images())
    second = Simulator(graph, space_of("fp16", "fp8"), images())
    forward = [first.losses(a) for a in some]
    backward = [second.losses(a) for a in some[::-1]][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_a_wrong_assignment_is_refused(tmp_path: Path) -> None:
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16", "fp8"), images())
    for bad in (np.zeros(3, np.int64), np.array([0, 0, 0, 2]), np.zeros(4)):
        with pytest.raises(SpaceError):
            simulator.losses(bad)


def test_one_sample_is_enough(tmp_path: Path) -> None:
    x = images().arrays["x"][:1]
    simulator = Simulator(
        imported(conv_net(), tmp_path), space_of("fp16", "fp8"), make_batches({"x": x})
    )
    estimate = simulator.loss(np.ones(4, np.int64))
    assert estimate.stderr == abs(estimate.mean)


def test_other_data_keep_the_calibration(tmp_path: Path) -> None:
    simulator = Simulator(imported(conv_net(), tmp_path), space_of("fp16", "fp8"), images())
    other = simulator.on_data(images(n=6, seed=9))
    assert other.ranges == simulator.ranges
    assert other.n_samples == 6
    same = simulator.on_data(simulator.batches)
    assert np.array_equal(same.losses(np.ones(4, np.int64)), simulator.losses(np.ones(4, np.int64)))


def test_recovery_beats_magnitude_in_the_layer_s_output(tmp_path: Path) -> None:
    plain = find_scheme("fp16_2of4")
    schemes = (find_scheme("fp16"), plain, replace(plain, name="fp16_obs", recovery="obs"))
    simulator = Simulator(
        imported(conv_net(), tmp_path), SearchSpace("test", schemes), images(n=32, batch_size=16)
    )
    captured = capture(simulator.calibrated, [2], dict(simulator.batches.arrays))
    exact = replay(simulator.calibrated, 2, None, captured)
    magnitude, recovered = (
        float((replay(simulator.calibrated, 2, s, captured) - exact).square().sum()) for s in (1, 2)
    )
    assert recovered < 0.9 * magnitude
    kept = (simulated_weight(simulator.calibrated, 2, 2)[:, :, 0, 0].reshape(24, 5, 4) != 0).sum(-1)
    assert int(kept.max()) <= 2
