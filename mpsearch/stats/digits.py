"""Figures as people read them: a few significant digits, and as many places as an error leaves."""

import math


def number(value: float | None, digits: int = 3) -> str:
    """Return ``value`` in a few significant digits, without exponents where people need none.

    None, NaN and Inf are an en dash.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) < 10 ** -(digits + 1):
        return f"{value:.{max(0, digits - 2)}e}".replace("e-0", "e-").replace("-", "−")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}".replace(",", "\u202f").replace("-", "−")


def with_error(estimate: tuple[float, float]) -> str:
    """Return ``mean ± stderr`` with as many places as the error says anything about."""
    mean, stderr = estimate
    if not (stderr > 0 and math.isfinite(stderr)):
        return number(mean)
    places = max(0, 1 - math.floor(math.log10(stderr)))
    if places > 6:
        return f"{number(mean, 2)} ± {number(stderr, 2)}"
    if round(mean, places) == 0:
        return f"0 ± {number(stderr, 2)}"  # never a minus before a zero
    return f"{mean:.{places}f} ± {stderr:.{places}f}".replace("-", "−")
