"""The shared store at a million evaluations: ``python -m experiments.bench.store --out RESULT.json``.

Rows are as a batch of 32 samples of the orientation model writes them: 54 groups, 32 losses.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.postgres import can_serve, server
from mpsearch.artifacts import write_text
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.store.layered import LayeredStore
from mpsearch.runs.store.shared import SharedStore

GROUPS, SAMPLES, SCHEMES = 54, 32, 5
_CHUNK = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=5000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {"sqlite": measure(str(folder / "store.sqlite"), args.rows, args.lookups)}
        found["layered"] = overhead(folder)
    if can_serve():
        with server() as url:
            found["postgresql"] = measure(url, args.rows // 10, args.lookups)
    found["machine"] = {"load": os.getloadavg()[0], "cores": os.cpu_count() or 0}
    if args.out:
        write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def measure(where: str, rows: int, lookups: int) -> dict[str, Any]:
    """Fill a store and look rows up in it at random."""
    rng = np.random.default_rng(0)
    chosen = random.Random(0)
    asked: list[tuple[int, ...]] = []
    with SharedStore(where) as store:
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(rows // _CHUNK):
            keys = rng.integers(0, SCHEMES, (_CHUNK, GROUPS))
            losses = rng.random((_CHUNK, SAMPLES))
            chunk = [(tuple(k.tolist()), v) for k, v in zip(keys, losses, strict=True)]
            asked += chosen.sample([key for key, _ in chunk], max(1, lookups * _CHUNK // rows))
            store.put_many("context", chunk)
        filled = time.perf_counter() - started, time.process_time() - cpu
        size = store.size_bytes()
        chosen.shuffle(asked)
        known = timed(lambda key: store.get("context", key), asked)
        unknown = timed(lambda key: store.get("context", (*key[::-1], 1)), asked)
        fresh = [tuple(row) for row in rng.integers(0, SCHEMES, (2000, GROUPS)).tolist()]
        one = rng.random(SAMPLES)
        put = timed(lambda key: store.put("context", key, one), fresh)
    return {
        "rows": rows // _CHUNK * _CHUNK,
        "bytes": size,
        "bytes_a_row": round(size / (rows // _CHUNK * _CHUNK), 1),
        "fill_wall_s": round(filled[0], 1),
        "fill_processor_s": round(filled[1], 1),
        "lookup_ms": known,
        "lookup_of_what_is_not_there_ms": unknown,
        "single_write_ms": put,
    }


def timed(call: Any, values: list[tuple[int, ...]]) -> dict[str, float]:
    """Wall times of calls, in milliseconds, and what the processor took of it."""
    walls, cpu = [], time.process_time()
    for value in values:
        started = time.perf_counter()
        call(value)
        walls.append((time.perf_counter() - started) * 1e3)
    return {
        "median": round(float(np.median(walls)), 4),
        "p99": round(float(np.quantile(walls, 0.99)), 4),
        "mean_processor": round((time.process_time() - cpu) * 1e3 / len(values), 4),
    }


def overhead(folder: Path) -> dict[str, Any]:
    """What a run pays for keeping one batch of an evaluation: asked for, not there, written, in both stores."""
    rng = np.random.default_rng(1)
    keys = [tuple(row) for row in rng.integers(0, SCHEMES, (2000, GROUPS)).tolist()]
    losses = rng.random(SAMPLES)

    def keep(store: LayeredStore, key: tuple[int, ...]) -> None:
        if store.get("c", key) is None:
            store.put("c", key, losses)

    found: dict[str, Any] = {}
    with EvaluationStore(folder / "own.sqlite") as own:
        alone = LayeredStore(own)
        found["own_file_ms"] = timed(lambda key: keep(alone, key), keys)
    with (
        EvaluationStore(folder / "other.sqlite") as own,
        SharedStore(str(folder / "shared.sqlite")) as shared,
    ):
        both = LayeredStore(own, shared)
        both.share({"c": "anywhere"}, [str(s) for s in range(SCHEMES)], {})
        found["with_shared_file_ms"] = timed(lambda key: keep(both, key), keys)
    return found


if __name__ == "__main__":
    main()
