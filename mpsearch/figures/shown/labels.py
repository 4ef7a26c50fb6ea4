"""Places of labels beside points, so that none covers another."""

from collections.abc import Sequence

Place = tuple[float, float]
_HEIGHT = 15.0  # pixels of a line
_GAP = 4.0


def place_labels(
    points: Sequence[Place],
    widths: Sequence[float],
    size: Place,
    *,
    obstacles: Sequence[Place] = (),
) -> list[Place | None]:
    """Return, for each point, the offset of its label's centre in pixels; None where there is no room.

    Each label takes the nearest place that covers no other label, no point and no edge.

    Args:
        points: Where the points are, in pixels from the lower left corner.
        widths: Widths of their labels, in pixels.
        size: Width and height of the area, in pixels.
        obstacles: Other points that a label may not cover.
    """
    taken: list[tuple[float, float, float, float]] = []
    marks = [*points, *obstacles]
    found: list[Place | None] = []
    for (x, y), width in zip(points, widths, strict=True):
        chosen = None
        for dx, dy in _offsets(width):
            box = (
                x + dx - width / 2,
                y + dy - _HEIGHT / 2,
                x + dx + width / 2,
                y + dy + _HEIGHT / 2,
            )
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
            if inside and not _covers(box, marks) and not any(_meet(box, other) for other in taken):
                chosen = dx, dy
                taken.append(box)
                break
        found.append(chosen)
    return found


def _offsets(width: float) -> list[Place]:
    """Offsets of a label's centre, the nearest first."""
    beside = width / 2 + 10
    found = [(0.0, 16.0), (0.0, -16.0), (beside, 0.0), (-beside, 0.0)]
    for step in (26.0, 42.0, 60.0, 80.0, 104.0):
        for shift in (0.0, beside, -beside):
            found += [(shift, step), (shift, -step)]
    return found


def _covers(box: tuple[float, float, float, float], points: Sequence[Place]) -> bool:
    left, low, right, high = box
    return any(left - _GAP < x < right + _GAP and low - _GAP < y < high + _GAP for x, y in points)


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] + _GAP and b[0] < a[2] + _GAP and a[1] < b[3] and b[1] < a[3]
