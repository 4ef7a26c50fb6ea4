"""Times of many things on a machine that others use: thread CPU time against a reference, in shuffled rounds.

What a neighbour takes shows in wall-clock time and, through shared cores, caches and clocks, in CPU time too, but only
ever as more. So a reference of the same kind is timed before and behind each thing: a round says how many references the
thing takes, which a neighbour changes little, and the rounds beside the fastest references count. What the reference
takes undisturbed is its least time of all rounds, of which there are many.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import Protocol

import numpy as np

from mpsearch.problem.tables import Progress

_QUANTILE = 0.25
_ROUND_US = 8000.0
"""CPU time that one round gives one thing, where two runs do not take longer, behind one that warms the caches."""
_MOST_RUNS, _REFERENCE_RUNS = 60, 3
_FEWEST_ROUNDS, _MOST_ROUNDS, _COUNTED = 12, 400, 9
_SHARE = 0.5
"""Of the rounds: those beside the fastest references count."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timing:
    """What runs of one thing took.

    Attributes:
        us: Microseconds: references that it takes, in the median of the rounds that count, times the fastest reference.
        stderr_us: Standard error of ``us``.
        rounds: Rounds that were run.
        disturbed: How much slower than the fastest the references of the rounds that count were, in the median.
    """

    us: float
    stderr_us: float
    rounds: int
    disturbed: float = 0.0

    @property
    def noise(self) -> float:
        """Relative standard error."""
        return self.stderr_us / self.us if self.us else 0.0


class Rounds(Protocol):
    """Where rounds are kept as they are run, and found again by whoever goes on."""

    def rounds_of(self, name: str) -> Sequence[tuple[float, float]]:
        """Return (microseconds, those of the references beside them) of a thing's rounds before."""
        ...

    def add_round(self, took: Mapping[str, tuple[float, float]]) -> None:
        """Keep one round: name to the same."""
        ...


@dataclass(slots=True)
class _Watched:
    run: Callable[[], None]
    runs: int = 1
    rounds: list[tuple[float, float]] = field(default_factory=list)
    """(microseconds, those of the references beside them)."""

    def timing(self, fastest: float) -> Timing:
        count = max(min(_COUNTED, len(self.rounds)), int(_SHARE * len(self.rounds)))
        counted = np.array(sorted(self.rounds, key=lambda both: both[1])[:count])
        ratios = counted[:, 0] / counted[:, 1]
        middle = float(np.median(ratios))
        spread = 1.4826 * float(np.median(np.abs(ratios - middle)))
        error = 1.2533 * spread / count**0.5  # of a median
        disturbed = float(np.median(counted[:, 1])) / fastest - 1
        return Timing(middle * fastest, error * fastest, len(self.rounds), disturbed)


def time_all(
    runs: Mapping[str, Callable[[], None]],
    *,
    reference: Callable[[], None] | None = None,
    tolerance: float = 0.01,
    budget_s: float = 120.0,
    kept: Rounds | None = None,
    progress: Progress | None = None,
    settled: Callable[[str, Timing], None] | None = None,
    clock: Clock = thread_time,
) -> dict[str, Timing]:
    """Return what each of ``runs`` takes, measured in shuffled rounds until each is known well enough.

    Args:
        runs: Name to what one run is; each is run twice before it counts.
        reference: Work of the same kind that never changes; None is arithmetic of numpy.
        tolerance: Relative standard error at which a thing is known.
        budget_s: Wall-clock time after which no further round begins (twelve are always run).
        kept: Keeps each round, and gives those that were run before.
        progress: Called with (things that are stable, things, what goes on).
        settled: Called with a thing's name and timing when it is stable, again if it was measured better since.
        clock: Seconds of CPU time of the thread that runs.
    """
    rng, begun = np.random.default_rng(0), perf_counter()
    reference = reference or _arithmetic()
    watched = {name: _Watched(run) for name, run in runs.items()}
    if kept is not None:
        for name, thing in watched.items():
            thing.rounds += kept.rounds_of(name)
    for thing in watched.values():
        took = max(_time(thing.run, 2, clock)[-1], 1.0)
        thing.runs = int(np.clip(_ROUND_US / took, 2, _MOST_RUNS))
    told: dict[str, float] = {}
    waiting = list(watched)
    first = min((len(thing.rounds) for thing in watched.values()), default=0)
    for number in range(min(first, _MOST_ROUNDS - 1) + 1, _MOST_ROUNDS + 1):
        rng.shuffle(waiting)
        before = _low(reference, _REFERENCE_RUNS, clock)
        for name in waiting:
            took = _low(watched[name].run, watched[name].runs, clock)
            behind = _low(reference, _REFERENCE_RUNS, clock)
            watched[name].rounds.append((took, (before + behind) / 2))
            before = behind
        if kept is not None:
            kept.add_round({name: watched[name].rounds[-1] for name in waiting})
        if number < _FEWEST_ROUNDS:
            continue
        fastest = min(ref for thing in watched.values() for _, ref in thing.rounds)
        timings = {name: thing.timing(fastest) for name, thing in watched.items()}
        is_last = number == _MOST_ROUNDS or perf_counter() - begun > budget_s
        waiting = [name for name, found in timings.items() if found.noise > tolerance]
        for name, found in timings.items():
            is_done = is_last or name not in waiting
            if settled is not None and is_done and told.get(name) != found.us:
                told[name] = found.us
                settled(name, found)
        if progress is not None:
            done = len(watched) if is_last else len(watched) - len(waiting)
            progress(done, len(watched), f"round {number}")
        if is_last or not waiting:
            break
    return timings


def _low(run: Callable[[], None], runs: int, clock: Clock) -> float:
    """A low quantile of ``runs`` runs; one before them finds the caches as what ran before it left them."""
    run()
    return float(np.quantile(_time(run, runs, clock), _QUANTILE))


def _time(run: Callable[[], None], runs: int, clock: Clock) -> list[float]:
    """Microseconds of each of ``runs`` runs."""
    times = []
    for _ in range(runs):
        start = clock()
        run()
        times.append((clock() - start) * 1e6)
    return times


def _arithmetic() -> Callable[[], None]:
    """Arithmetic on what fits the second level of a cache: about 100 microseconds in one thread."""
    values = np.linspace(-1, 1, 1 << 15, dtype=np.float32)
    out = np.empty_like(values)

    def run() -> None:
        np.exp(values, out=out)
        np.sqrt(out, out=out)
        np.multiply(out, values, out=out)

    return run
