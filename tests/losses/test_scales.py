"""Squared errors are relative to what an output varies by, group by group."""

import numpy as np
import pytest
import torch

from mpsearch.losses.losses import Target, sample_losses
from mpsearch.losses.outputs import Head
from mpsearch.losses.scales import Scale, make_scale

HEAD = Head("out", "out", "numbers", 0)


def detector(n: int = 6, anchors: int = 50) -> torch.Tensor:
    """[n, 4 boxes + 3 scores, anchors]: boxes over hundreds, scores over hundredths."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 320, (n, 4, anchors))
    scores = rng.uniform(0, 0.05, (n, 3, anchors)) * np.array([1, 0.6, 0.3])[:, None]
    return torch.from_numpy(np.concatenate([boxes, scores], 1)).float()


def loss(reference: torch.Tensor, value: torch.Tensor, scale: Scale) -> float:
    target = Target((reference,), None, None, (scale,))
    return float(sample_losses("mse", (HEAD,), (value,), target).mean())


def relative(reference: torch.Tensor, value: torch.Tensor) -> float:
    return float(((value - reference).double() ** 2).mean() / reference.double().var(correction=0))


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_and_boxes_of_a_detector_count_alike(axis: int) -> None:
    full = detector().movedim(1, axis)
    noise = torch.randn(full.shape, generator=torch.Generator().manual_seed(1))
    scale = make_scale([full[:4], full[4:]])
    assert (scale.axis, scale.groups) == (axis, (0, 0, 0, 0, 1, 1, 1))
    assert [scale.name("out", g) for g in (0, 1)] == ["out[0:4]", "out[4:7]"]
    boxes, scores = full.split([4, 3], axis)
    moved = [boxes + noise.narrow(axis, 0, 4), scores * 1.3 + 0.01 * noise.narrow(axis, 4, 3)]
    expected = (relative(boxes, moved[0]) + relative(scores, moved[1])) / 2
    assert loss(full, torch.cat(moved, axis), scale) == pytest.approx(expected, rel=1e-4)


def test_what_30_percent_of_the_scores_costs_does_not_depend_on_the_unit_of_the_boxes() -> None:
    full = detector()
    changed = full.clone()
    changed[:, 4:] *= 1.3
    losses = []
    for unit in (1.0, 1e-2, 1e3):
        scaled, moved = full.clone(), changed.clone()
        scaled[:, :4] *= unit
        moved[:, :4] *= unit
        losses.append(loss(scaled, moved, make_scale([scaled])))
    assert losses[0] > 0.02
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-3)


def test_channels_of_like_magnitude_are_one_group() -> None:
    scales = np.geomspace(1, 300, 40)  # each less than a decade from the next
    x = torch.randn(16, 40, generator=torch.Generator().manual_seed(2)) * torch.from_numpy(scales)
    scale = make_scale([x])
    assert scale.n_groups == 1
    assert scale.weights == pytest.approx([1 / float(x.double().var(correction=0))])


def test_an_offset_does_not_hide_errors() -> None:
    x = 300 + torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    assert loss(x, x + 1, make_scale([x])) == pytest.approx(1.0, rel=0.1)


def test_outputs_that_do_not_vary_have_finite_losses() -> None:
    for x in (torch.zeros(4, 3), torch.full((4, 3), 2.0)):
        assert 0 < loss(x, x + 0.1, make_scale([x])) < 1


def test_dead_channels_belong_to_the_smallest_group() -> None:
    x = detector()
    x[:, 5] = 0
    assert make_scale([x]).groups == (0, 0, 0, 0, 1, 1, 1)
