"""Who measures what next: tasks kept near the values that they start from, retried, doubled where they lag."""

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mpsearch.simulate.loss_store import Assignment

Task = tuple[Assignment, int]
"""(assignment, batch): what one measurement is of."""

ATTEMPTS = 3
"""Workers that may die of a task before it is given up."""

_LAGGING = 8.0  # times the mean: then an idle worker begins the task as well
_LEAST_LAG_S = 2.0


@dataclass(slots=True)
class Tasks:
    """The tasks of one announcement, and which worker is at which.

    A batch is measured by one worker where that can be: kept values, that a plan changes little of, lie there.

    Attributes:
        n_workers: Workers, numbered from 0.
        lost: Task to why it was given up.
    """

    n_workers: int
    lost: dict[Task, str] = field(default_factory=dict)
    _waiting: dict[int, deque[Task]] = field(default_factory=dict)
    _running: dict[int, tuple[Task, float]] = field(default_factory=dict)
    _deaths: Counter[Task] = field(default_factory=Counter)
    _done: set[Task] = field(default_factory=set)
    _seconds: list[float] = field(default_factory=list)

    def add(self, tasks: Iterable[Task]) -> None:
        """Put ``tasks`` into the queue of their batch."""
        for task in tasks:
            self._waiting.setdefault(task[1], deque()).append(task)

    @property
    def left(self) -> int:
        """Tasks that are neither done nor given up."""
        running = {task for task, _ in self._running.values()} - self._done
        return sum(map(len, self._waiting.values())) + len(running)

    def busy(self, worker: int) -> bool:
        """Return whether ``worker`` is at a task."""
        return worker in self._running

    def next(self, worker: int) -> Task | None:
        """Return what ``worker`` is to measure now, None where nothing is left for it."""
        full = [batch for batch, queue in self._waiting.items() if queue]
        if full:
            own = [batch for batch in full if batch % self.n_workers == worker]
            batch = max(own or full, key=lambda b: (len(self._waiting[b]), -b))
            task = self._waiting[batch].popleft()
        else:
            lagging = self._lagging()
            if lagging is None:
                return None
            task = lagging
        self._running[worker] = (task, time.monotonic())
        return task

    def finish(self, worker: int) -> tuple[Task, bool]:
        """Note that ``worker`` is through with its task; return that, and whether it was the first."""
        task, started = self._running.pop(worker)
        self._seconds.append(time.monotonic() - started)
        first = task not in self._done
        self._done.add(task)
        return task, first

    def die(self, worker: int, why: str) -> Task | None:
        """Note that ``worker`` died; its task is put back, or given up after :data:`ATTEMPTS`."""
        found = self._running.pop(worker, None)
        if found is None:
            return None
        task = found[0]
        if task in self._done or any(task == other for other, _ in self._running.values()):
            return task
        self._deaths[task] += 1
        if self._deaths[task] >= ATTEMPTS:
            self.lost[task] = f"{ATTEMPTS} workers died of it: {why}"
        else:
            self._waiting.setdefault(task[1], deque()).appendleft(task)
        return task

    def _lagging(self) -> Task | None:
        """A task that takes far longer than others did, and that one worker alone is at."""
        if not self._seconds:
            return None
        limit = max(_LEAST_LAG_S, _LAGGING * sum(self._seconds) / len(self._seconds))
        at = Counter(task for task, _ in self._running.values())
        late = [
            task
            for task, started in self._running.values()
            if at[task] == 1 and task not in self._done and time.monotonic() - started > limit
        ]
        return late[0] if late else None
