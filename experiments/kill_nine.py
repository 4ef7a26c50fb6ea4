"""What is lost when a search is killed: ``python -m experiments.kill_nine --work WORK --out RESULT.json``.

The demo's model with its own lines is searched again and again, each process ended by SIGKILL at a random moment, and begun
anew in the same folder until it ends; then a new folder is begun, until so many were killed. Each finished front is compared, byte by
byte, with that of a search that nobody killed; the database is checked after each kill; and each evaluation leaves a mark
when it begins and when it is kept, so that what was measured twice can be told from what was in flight.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from mpsearch.artifacts import write_text
from mpsearch.demo.demo import BATCH, DEVICE, cache_folder, draw_data, fetch_model
from mpsearch.errors import MpsearchError
from mpsearch.jobs.prepare import prepare
from mpsearch.jobs.run import run_job
from mpsearch.runs.job import Job
from mpsearch.runs.sources import Sources
from mpsearch.runs.stored_losses import StoredLosses
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats
from mpsearch.workers.crews import Wanted, make_means

METRIC, MEASURE, REFINE = "perturbation", 8, 16


def main() -> None:
    """Kill, resume and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--longest", type=float, default=30.0, help="Seconds to a kill, at most.")
    parser.add_argument("--lines", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="0: the process measures by itself.")
    parser.add_argument(
        "--worker-kills", action="store_true", help="Kill one of the workers instead."
    )
    parser.add_argument(
        "--tmpfs", type=int, default=0, metavar="KB", help="Fill a disk of this size."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    draw_data(args.work / "lines", seed=args.seed)
    found = fill_disk(args) if args.tmpfs else kill(args)
    found |= {"lines": args.lines, "workers": args.workers, "metric": METRIC}
    if args.out:
        write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def search(args: argparse.Namespace) -> None:
    """Search in the folder ``args.child``, and mark each evaluation that begins and is kept."""
    marks = os.open(marks_of(args, args.child), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    measure, keep = Simulator._batch_losses, StoredLosses.put

    def measured(self: Simulator, key: tuple[int, ...], schemes: tuple[int, ...], b: int) -> Floats:
        if self._store.get(key, b) is None:
            os.write(marks, f"begin {key} {b} {os.getpid()}\n".encode())
        return measure(self, key, schemes, b)

    def kept(
        self: StoredLosses, assignment: tuple[int, ...], batch: int | None, losses: Floats
    ) -> Floats:
        found = keep(self, assignment, batch, losses)
        if batch is not None:
            os.write(marks, f"kept {assignment} {batch}\n".encode())
        return found

    setattr(Simulator, "_batch_losses", measured)  # noqa: B010  # instruments, for types to see
    setattr(StoredLosses, "put", kept)  # noqa: B010
    model = fetch_model(cache_folder())
    calibration = args.work / "lines" / "calibration.npz"
    sources = Sources(model, calibration, None, DEVICE, "")
    job = Job(
        model=model.name,
        data=calibration.name,
        device=DEVICE,
        batch=BATCH,
        samples=args.lines,
        metric=METRIC,
        measure=MEASURE,
        refine=REFINE,
        threads=1,
        seed=args.seed,
    )
    means = make_means(job, sources, args.child, Wanted(args.workers or None))
    run_job(prepare(job, sources), args.child, means=means)


def start(args: argparse.Namespace, run: Path) -> int:
    """Begin a search in ``run`` in a process of its own, packages imported already; return its number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    code = 1
    try:
        search(argparse.Namespace(**{**vars(args), "child": run}))
        code = 0
    except MpsearchError as error:
        (args.work / "small.said").write_text(" ".join(str(error).split()))
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def wait(pid: int, seconds: float | None) -> int | None:
    """Return the exit code of a process, None if it is still there after so long."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        found, status = os.waitpid(pid, 0 if end is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return None


def kill(args: argparse.Namespace) -> dict[str, Any]:
    """Kill searches, or their workers, and say what was lost."""
    rng = random.Random(args.seed)
    expected, seconds = reference(args)
    kills, fronts, same, damaged = 0, 0, 0, 0
    repeated, in_flight, evaluations = 0, 0, 0
    while kills < args.kills:
        run = args.work / f"run{fronts}"
        remove(args, run)
        done = False
        while not done:
            spared = kills >= args.kills
            wait_s = None if spared else rng.uniform(0, args.longest)
            done, killed = begin(args, run, wait_s)
            kills += killed
            damaged += not is_whole(args, run)
            print(f"{kills} kills, {damaged} damaged", file=sys.stderr, flush=True)
        fronts += 1
        same += (run / "front.json").read_bytes() == expected
        twice, flying, total = repetitions(args, run)
        repeated, in_flight, evaluations = repeated + twice, in_flight + flying, evaluations + total
        print(f"{kills} kills, {fronts} fronts, {same} the same", file=sys.stderr, flush=True)
    return {
        "kills": kills,
        "seconds_to_a_kill": args.longest,
        "fronts_finished": fronts,
        "fronts_the_same_bytes": same,
        "databases_damaged": damaged,
        "evaluations_of_one_batch": evaluations,
        "repeated_that_were_in_flight": in_flight,
        "repeated_that_were_kept": repeated,
        "seconds_uninterrupted": round(seconds, 1),
        "killed": "a worker" if args.worker_kills else "the whole process",
    }


def reference(args: argparse.Namespace) -> tuple[bytes, float]:
    """Return the front of a search that nobody kills and nobody helps, and how long it takes."""
    run = args.work / "reference"
    remove(args, run)
    alone = argparse.Namespace(**{**vars(args), "workers": 0})
    started = time.monotonic()
    if wait(start(alone, run), None) != 0:
        raise SystemExit("the search failed")
    return (run / "front.json").read_bytes(), time.monotonic() - started


def begin(args: argparse.Namespace, run: Path, wait_s: float | None) -> tuple[bool, int]:
    """Search until the end or for so long; return whether it ended, and how many were killed."""
    pid = start(args, run)
    code, killed = wait(pid, wait_s), 0
    if code is None and args.worker_kills:
        killed = kill_worker(pid)
        code = wait(pid, None)
    if code is None:
        os.killpg(pid, signal.SIGKILL)
        wait(pid, None)
        return False, 1
    if code != 0:
        raise SystemExit(f"a search failed with exit code {code}")
    return True, killed


def kill_worker(pid: int) -> int:
    """Kill one worker of the search; return how many were."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if not children:
        return 0
    os.kill(int(random.choice(children)), signal.SIGKILL)
    return 1


def marks_of(args: argparse.Namespace, run: Path) -> Path:
    """Where evaluations of a run leave their marks: never on a disk that is full."""
    return Path(args.work) / f"{run.name}.marks"


def is_whole(args: argparse.Namespace, run: Path) -> bool:
    """Return whether the database passes its integrity check, as it lies there."""
    path = run / "evaluations.sqlite"
    if not path.is_file():
        return True
    copy = Path(args.work) / "copy.sqlite"
    for ending in ("", "-wal", "-shm"):
        source = path.with_name(path.name + ending)
        if source.is_file():
            shutil.copy(source, copy.with_name(copy.name + ending))
    connection = sqlite3.connect(copy)
    found = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    for ending in ("", "-wal", "-shm"):
        copy.with_name(copy.name + ending).unlink(missing_ok=True)
    return bool(found == "ok")


def repetitions(args: argparse.Namespace, run: Path) -> tuple[int, int, int]:
    """Return how many evaluations were begun again although they were kept, or were in flight, and how many there are."""
    kept: set[str] = set()
    begun: Counter[str] = Counter()
    repeated = flying = 0
    for line in marks_of(args, run).read_text().splitlines():
        word, _, rest = line.partition(" ")
        key = rest.rpartition(" ")[0] if word == "begin" else rest
        if word == "kept":
            kept.add(key)
            continue
        repeated += key in kept
        flying += key not in kept and begun[key] > 0
        begun[key] += 1
    return repeated, flying, len(begun)


def fill_disk(args: argparse.Namespace) -> dict[str, Any]:
    """Search on a small disk that fills up, then make room and go on."""
    expected, _ = reference(args)
    place = args.work / "small"
    place.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={args.tmpfs}k", "tmpfs", str(place)], check=True
    )
    try:
        marks_of(args, place / "run").unlink(missing_ok=True)
        ballast = place / "ballast"
        free = shutil.disk_usage(place).free
        ballast.write_bytes(b"x" * int(free * 0.9))
        lines, stops = [], 0
        while True:
            if wait(start(args, place / "run"), None) == 0:
                break
            stops += 1
            lines.append((args.work / "small.said").read_text())
            whole = is_whole(args, place / "run")
            with ballast.open("r+b") as file:
                file.truncate(max(0, ballast.stat().st_size - free // 5))
            if not whole or stops > 30:
                raise SystemExit(f"damaged, or no end: {lines[-1]}")
        same = (place / "run" / "front.json").read_bytes() == expected
        twice, flying, total = repetitions(args, place / "run")
    finally:
        subprocess.run(["umount", str(place)], check=False)
    return {
        "disk_kb": args.tmpfs,
        "stops": stops,
        "said": sorted(set(lines)),
        "front_the_same_bytes": same,
        "evaluations_of_one_batch": total,
        "repeated_that_were_in_flight": flying,
        "repeated_that_were_kept": twice,
    }


def remove(args: argparse.Namespace, run: Path) -> None:
    """Remove a run and its marks."""
    shutil.rmtree(run, ignore_errors=True)
    marks_of(args, run).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
