"""When work has to end, as a value that is handed on."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant from which on nothing more is begun.

    Attributes:
        end: The instant, by ``time.monotonic``.
        given_s: Seconds that there were in all.
    """

    end: float
    given_s: float

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0 when it has passed."""
        return max(0.0, self.end - time.monotonic())


def deadline_in(seconds: float | None) -> Deadline | None:
    """Return the deadline in so many seconds from now; None: there is none."""
    return None if seconds is None else Deadline(time.monotonic() + seconds, seconds)


def has_passed(deadline: Deadline | None) -> bool:
    """Return whether ``deadline`` has passed; without one never."""
    return deadline is not None and deadline.passed
