import numpy as np

from mpsearch.figures.shown.labels import place_labels


def test_labels_cover_neither_each_other_nor_points() -> None:
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in rng.uniform(30, 370, (14, 2)).tolist()]
    widths = [70.0] * len(points)
    boxes = []
    for (x, y), offset in zip(points, place_labels(points, widths, (400, 400)), strict=True):
        if offset is not None:
            at = x + offset[0], y + offset[1]
            boxes.append((at[0] - 35, at[1] - 7, at[0] + 35, at[1] + 7))
    assert len(boxes) >= 12
    for i, a in enumerate(boxes):
        assert a[0] >= 0
        assert a[2] <= 400
        assert not any(a[0] < x < a[2] and a[1] < y < a[3] for x, y in points)
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_without_room_is_left_out() -> None:
    points = [(50.0, 10.0)] * 30
    found = place_labels(points, [90.0] * 30, (100, 20))
    assert found.count(None) >= 29
