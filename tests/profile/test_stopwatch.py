"""Times come out right although a neighbour slows everything down, and their error says how sure they are."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mpsearch.profile.journal import Journal
from mpsearch.profile.stopwatch import Timing, time_all


class Machine:
    """Work in made-up time, slowed down by a neighbour that comes and goes."""

    def __init__(self, seed: int = 0, slowest: float = 1.6) -> None:
        self.now, self.slow = 0.0, 1.0
        self._rng, self._slowest = np.random.default_rng(seed), slowest
        self._left = 0

    def clock(self) -> float:
        return self.now

    def work(self, us: float) -> None:
        if self._left == 0:
            self._left = int(self._rng.integers(20, 200))
            self.slow = float(self._rng.uniform(1.0, self._slowest))
        self._left -= 1
        self.now += us * self.slow * float(self._rng.uniform(1.0, 1.03)) / 1e6


def test_a_neighbour_that_slows_everything_down_does_not_change_what_things_take() -> None:
    machine = Machine()
    takes = {"a": 300.0, "b": 309.0, "c": 40.0, "d": 2500.0}
    found = time_all(
        {name: (lambda us=us: machine.work(us)) for name, us in takes.items()},
        reference=lambda: machine.work(150.0),
        clock=machine.clock,
    )
    for name, us in takes.items():
        assert abs(found[name].us / us - 1) < 0.03, name
        assert found[name].noise < 0.01
    assert found["a"].us < found["b"].us


def test_what_is_stable_is_told_and_the_rest_goes_on() -> None:
    machine = Machine(slowest=1.0)
    erratic = np.random.default_rng(1)
    told: list[str] = []
    found = time_all(
        {
            "steady": lambda: machine.work(50),
            "erratic": lambda: machine.work(erratic.uniform(100, 900)),
        },
        reference=lambda: machine.work(100.0),
        tolerance=0.002,
        budget_s=1.0,
        settled=lambda name, timing: told.append(name),
        clock=machine.clock,
    )
    assert told[0] == "steady"
    assert set(told) == {"steady", "erratic"}
    assert found["erratic"].rounds > found["steady"].rounds


def test_rounds_that_were_run_before_an_interruption_count(tmp_path: Path) -> None:
    machine = Machine(slowest=1.0)
    runs = []

    def watched() -> None:
        runs.append(1)
        if len(runs) == 140:
            raise KeyboardInterrupt
        machine.work(500.0)

    def measure() -> dict[str, Timing]:
        kept = Journal(tmp_path / "journal", {})
        work = {"a": watched, "b": lambda: machine.work(50.0)}
        reference = partial(machine.work, 100.0)
        return time_all(work, reference=reference, kept=kept, clock=machine.clock)

    with pytest.raises(KeyboardInterrupt):
        measure()
    before = len(Journal(tmp_path / "journal", {}).rounds_of("b"))
    assert before > 5
    assert measure()["b"].rounds >= before + 1
    assert len(runs) < 300  # it did not begin again


def test_nothing_took_nothing() -> None:
    assert Timing(0.0, 0.0, 3).noise == 0.0
