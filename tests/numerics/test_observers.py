"""Ranges come out the same whatever the order of batches, and as good as a search over the raw data."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mpsearch.errors import NumericsError, SchemeError
from mpsearch.numerics import dispatch
from mpsearch.numerics.quantize import fake_quantize, quantize_activation
from mpsearch.numerics.range import range_from_json
from mpsearch.numerics.ranges import RangeObserver, make_range
from mpsearch.schemes import SCHEMES, Spec

ESTIMATORS = ["amax", "percentile", "mse", "entropy"]


def heavy_tailed(count: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_t(3, count).astype(np.float32))


def observe(*batches: Tensor) -> RangeObserver:
    observer = RangeObserver(name="fc1.input")
    for batch in batches:
        observer.observe(batch)
    return observer


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_order_size_and_merging_of_batches_never_matter(estimator: str, symmetric: bool) -> None:
    spec = Spec("int8", estimator=estimator, symmetric=symmetric)
    x = heavy_tailed(70_000)
    want = observe(x).finish(spec)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    assert observe(*shuffled.split(999)).finish(spec) == want
    left, right = observe(shuffled[:100].reshape(10, 10)), observe(shuffled[100:])
    left.merge(right)
    assert left.finish(spec) == want
    right.merge(observe(shuffled[:100]))
    assert right.finish(spec) == want


def test_the_histogram_is_the_same_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, x = Spec("int8", estimator="mse"), heavy_tailed(50_000)
    want = observe(x).finish(spec)
    monkeypatch.setattr(dispatch, "load_kernels", lambda: None)
    assert observe(x).finish(spec) == want


def test_amax_is_the_scale_of_the_formulas() -> None:
    observer = observe(torch.tensor([0.5, -3.0]), torch.tensor([2.0]))
    assert observer.finish(Spec("int8")).scale == np.float32(3) / np.float32(127)
    assert observer.finish(Spec("e4m3")).scale == np.float32(3) / np.float32(448)
    assert observer.finish(SCHEMES["nvfp4"].activation).scale == np.float32(3) / np.float32(2688)
    assert observer.finish(SCHEMES["fp16"].activation).scale == 0
    found = observer.finish(Spec("int8"))
    assert (found.amax, found.low, found.high) == (3.0, -3.0, 2.0)


@pytest.mark.parametrize("spread", [1e-20, 1.0, 1e20])
def test_percentile_is_numpys_up_to_a_bin(spread: float) -> None:
    x = heavy_tailed(100_000) * spread
    scale = observe(x).finish(Spec("int8", estimator="percentile")).scale
    want = np.percentile(np.abs(x.numpy()), 99.99)
    assert scale * 127 == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize("fmt", ["int8", "int4", "e2m1", "e4m3"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_close_to_the_best_clip_of_the_raw_data(fmt: str, symmetric: bool) -> None:
    if not symmetric and not fmt.startswith("int"):
        return
    x = heavy_tailed(50_000).clamp(-8, 20)
    spec = Spec(fmt, symmetric=symmetric)

    def error(found) -> float:
        quantized = quantize_activation(x, spec, reduction_axis=-1, range=found)
        return float((quantized - x).double().square().mean())

    low, high = float(x.min()), float(x.max())
    least = min(error(make_range(low * r, high * r, spec)) for r in np.linspace(0.1, 1, 91))
    found = observe(x).finish(replace(spec, estimator="mse"))
    assert error(found) <= 1.03 * least


def divergence_of_clip(x: np.ndarray, bins: int, levels: int) -> float:
    """TensorRT's calibration as its authors describe it, on the raw magnitudes."""
    counts, edges = np.histogram(np.abs(x), bins=bins, range=(0, np.abs(x).max()))
    best, least = 0.0, np.inf
    for stop in range(levels, bins + 1, 16):
        reference = counts[:stop].astype(float)
        reference[-1] += counts[stop:].sum()
        quantized = np.zeros(stop)
        for part in np.array_split(np.arange(stop), levels):
            filled = counts[part] > 0
            if filled.any():
                quantized[part[filled]] = counts[part].sum() / filled.sum()
        p, q = reference / reference.sum(), quantized / quantized.sum()
        used = p > 0
        divergence = (p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))).sum()
        if divergence < least:
            best, least = edges[stop], divergence
    return best


@pytest.mark.parametrize("seed", [0, 1])
def test_entropy_clips_where_tensorrts_calibration_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.laplace(size=400_000).astype(np.float32)
    x[:40] *= 5
    clip = observe(torch.from_numpy(x)).finish(Spec("int8", estimator="entropy")).scale * 127
    want = divergence_of_clip(x, 2048, 128)
    assert clip < 0.8 * np.abs(x).max()
    assert clip == pytest.approx(want, rel=0.25)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (-1e-3, 7.0)])
@pytest.mark.parametrize("fmt", ["int8", "int4"])
def test_asymmetric_integers_represent_zero_exactly(fmt: str, low: float, high: float) -> None:
    spec = Spec(fmt, symmetric=False)
    found = make_range(low, high, spec)
    levels = 255 if fmt == "int8" else 15
    lowest = -128 if fmt == "int8" else -8
    assert found.scale == pytest.approx((max(high, 0) - min(low, 0)) / levels, rel=1e-6)
    assert found.zero_point == round(lowest - min(low, 0) / found.scale)
    x = torch.linspace(low - 1, high + 1, 999)
    x = torch.cat([x, torch.zeros(1)])
    got = quantize_activation(x, spec, reduction_axis=0, range=found)
    assert got[-1] == 0
    codes = (got / found.scale).round() + found.zero_point
    assert codes.min() >= lowest
    assert codes.max() <= -lowest - 1
    inside = (x >= min(low, 0)) & (x <= max(high, 0))
    assert (got - x)[inside].abs().max() <= found.scale * 1.01


def test_live_ranges_equal_observed_ones() -> None:
    x = heavy_tailed(5000)
    for estimator in ("percentile", "entropy"):
        spec = Spec("int8", estimator=estimator)  # type: ignore[arg-type]
        found = observe(x).finish(spec)
        want = quantize_activation(x, spec, reduction_axis=0, range=found)
        assert torch.equal(fake_quantize(x, "int8", range=estimator), want)  # type: ignore[arg-type]
        assert torch.equal(fake_quantize(x, "int8", range=found), want)


def test_percentiles_and_mse_a_channel_are_taken_in_each_row() -> None:
    x = heavy_tailed(4 * 12_000).reshape(4, -1)
    for estimator in ("percentile", "mse"):
        spec = Spec("int8", "channel", estimator=estimator)  # type: ignore[arg-type]
        got = fake_quantize(x, spec)
        assert (got.abs().amax(1) < x.abs().amax(1)).all()
        for row, want in zip(x, got, strict=True):
            assert torch.equal(fake_quantize(row[None], spec)[0], want)


def test_ranges_survive_json() -> None:
    found = make_range(-0.1, 0.7, Spec("int8", symmetric=False))
    assert range_from_json(json.loads(json.dumps(found.to_json()))) == found


def test_zeros_and_nothing_have_a_range_too() -> None:
    for estimator in ESTIMATORS:
        spec = Spec("int8", estimator=estimator)  # type: ignore[arg-type]
        for observer in (observe(), observe(torch.zeros(5)), observe(torch.empty(0, 3))):
            assert observer.finish(spec).scale == 0
    zeros = torch.zeros(3)
    assert torch.equal(fake_quantize(zeros, "int8"), zeros)
    assert torch.equal(fake_quantize(zeros, Spec("int8", symmetric=False)), zeros)


def test_mistakes_are_named() -> None:
    observer = RangeObserver(name="fc1.input", histogram=False)
    with pytest.raises(NumericsError, match=r"'fc1\.input' must be finite"):
        observer.observe(torch.tensor([1.0, torch.nan]))
    observer.observe(torch.ones(3))
    assert observer.finish(Spec("int8")).scale > 0
    with pytest.raises(SchemeError, match="histogram=True"):
        observer.finish(Spec("int8", estimator="mse"))
    with pytest.raises(SchemeError, match="both have a histogram or both none"):
        observer.merge(RangeObserver())
    spec = Spec("int8", "channel", estimator="entropy")
    with pytest.raises(SchemeError, match="per channel must come from amax or mse"):
        fake_quantize(torch.ones(2, 4), spec)


def test_a_percentile_is_the_one_asked_for() -> None:
    x = heavy_tailed(100_000)
    for percent in (99.0, 99.9):
        spec = Spec("int8", estimator=f"percentile:{percent}")
        want = np.percentile(np.abs(x.numpy()), percent) / 127
        assert observe(x).finish(spec).scale == pytest.approx(want, rel=0.01)
    assert observe(x).finish(Spec("int8", estimator="percentile:99.99")) == replace(
        observe(x).finish(Spec("int8", estimator="percentile"))
    )


def test_moving_ranges_are_averaged_over_batches_in_their_order() -> None:
    batches = [torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]), torch.tensor([0.0, 8.0])]
    low, high = -1.0, 2.0
    for own_low, own_high in ((-3.0, 1.0), (0.0, 8.0)):
        low, high = 0.5 * low + 0.5 * own_low, 0.5 * high + 0.5 * own_high
    found = observe(*batches).finish(Spec("int8", estimator="moving:0.5"))
    assert found.scale == pytest.approx(max(-low, high) / 127, rel=1e-6)
    assert (found.low, found.high) == (-3.0, 8.0)
    affine = observe(*batches).finish(Spec("int8", estimator="moving:0.5", symmetric=False))
    assert affine.scale == pytest.approx((high - low) / 255, rel=1e-6)


def test_a_history_is_the_amax_of_the_last_batches() -> None:
    batches = [torch.tensor([9.0]), torch.tensor([-4.0]), torch.tensor([2.0])]
    for count, amax in ((1, 2.0), (2, 4.0), (3, 9.0), (16, 9.0)):
        found = observe(*batches).finish(Spec("int8", estimator=f"history:{count}"))
        assert found.scale == pytest.approx(amax / 127, rel=1e-6)
    left, right = observe(*batches[:1]), observe(*batches[1:])
    left.merge(right)
    assert left.finish(Spec("int8", estimator="history:2")).scale == pytest.approx(4 / 127)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("median", "must be one of amax, mse, entropy, percentile, moving, history; got 'median'"),
        ("percentile:40", "takes a percentage from 50 to 100"),
        ("percentile:nan", "takes a percentage from 50 to 100"),
        ("moving:1", "takes a momentum of at least 0 and below 1"),
        ("history:2.5", "takes a whole number of batches"),
        ("mse:2", "takes no number"),
    ],
)
def test_estimators_say_what_they_take(text: str, words: str) -> None:
    with pytest.raises(SchemeError, match=words):
        Spec("int8", estimator=text)


def test_batches_are_followed_for_static_ranges_of_whole_tensors_alone() -> None:
    with pytest.raises(SchemeError, match="needs a static range of the whole tensor"):
        Spec("int8", "token", "dynamic", estimator="moving")
