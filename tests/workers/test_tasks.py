"""Tasks are given once, given back when a worker dies, and given up when it is no accident."""

import time

from mpsearch.workers.tasks import ATTEMPTS, Tasks


def tasks(n_workers: int = 2, batches: int = 2, plans: int = 3) -> Tasks:
    made = Tasks(n_workers)
    made.add(((p,), b) for p in range(plans) for b in range(batches))
    return made


def test_each_task_is_given_once_and_batches_keep_to_their_worker() -> None:
    made, seen = tasks(), []
    for _ in range(3):
        for worker in (0, 1):
            task = made.next(worker)
            assert task is not None
            assert task[1] == worker
            seen.append(task)
            assert made.finish(worker) == (task, True)
    assert len(set(seen)) == 6
    assert made.left == 0
    assert made.next(0) is None


def test_a_worker_without_work_helps_another() -> None:
    made = tasks(n_workers=3)
    task = made.next(2)
    assert task is not None
    assert task[1] in (0, 1)


def test_what_a_worker_died_of_is_given_to_the_next_and_then_given_up() -> None:
    made = tasks(n_workers=1, batches=1, plans=2)
    for _ in range(ATTEMPTS):
        assert made.next(0) == ((0,), 0)
        made.die(0, "was ended by SIGKILL")
    assert made.lost == {((0,), 0): "3 workers died of it: was ended by SIGKILL"}
    assert made.next(0) == ((1,), 0)
    made.finish(0)
    assert made.left == 0


def test_a_task_that_lags_is_begun_by_an_idle_worker_as_well_and_counts_once(
    monkeypatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made = tasks(n_workers=2, batches=1, plans=2)
    assert made.next(0) == ((0,), 0)
    assert made.next(1) == ((1,), 0)
    now = 0.1
    made.finish(1)
    assert made.next(1) is None
    now = 60.0
    assert made.next(1) == ((0,), 0)
    assert made.finish(1) == (((0,), 0), True)
    assert made.finish(0) == (((0,), 0), False)
    assert made.left == 0
