"""What calibration gives, shared like losses: ranges of activations, and plans with the weights that recovery made."""

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from mpsearch.artifacts import digest_json, write_bytes
from mpsearch.errors import JobError
from mpsearch.plan.files import weights_file
from mpsearch.runs.store.layered import LayeredStore
from mpsearch.simulate.simulator import Simulator

_LENGTH = 8  # bytes that say how long the plan's JSON is, before it; the weights follow


def share_ranges(store: LayeredStore, contexts: Sequence[str], simulator: Simulator) -> None:
    """Keep the ranges that ``simulator`` was calibrated to, and check them against those that are there.

    Losses of other ranges must not be mixed, even where all versions are the same.

    Args:
        store: Where they are shared.
        contexts: [n_batches] contexts of the data in any space.
        simulator: The simulator.

    Raises:
        JobError: The store's losses were measured with other ranges.
    """
    tables: dict[str, dict[str, list[float]]] = {}
    for (value, spec), found in simulator.ranges.items():
        tables.setdefault(repr(spec), {})[value] = [float(part) for part in astuple(found)]
    for spec_text, table in tables.items():
        digest = digest_json(["ranges", list(contexts), spec_text])
        content = json.dumps(table, sort_keys=True).encode()
        store.keep(digest, "calibrated ranges", content)
        kept = store.take(digest)
        if kept is not None and json.loads(kept) != table:
            known = json.loads(kept)
            name = next(n for n in {**known, **table} if known.get(n) != table.get(n))
            raise JobError(
                f"the store's losses were measured with other ranges than this machine calibrates to, of {name!r} first, "
                "although all versions are the same; give another --store"
            )


def take_plan(store: LayeredStore, digest: str, path: Path) -> bool:
    """Write the plan that is shared under ``digest``, and its weights, to ``path``; return whether there is one."""
    kept = store.take(digest)
    if kept is None:
        return False
    size = int.from_bytes(kept[:_LENGTH], "little")
    weights = kept[_LENGTH + size :]
    if weights:
        write_bytes(weights_file(path), weights)
    write_bytes(path, kept[_LENGTH : _LENGTH + size])
    return True


def keep_plan(store: LayeredStore, digest: str, path: Path) -> None:
    """Share the plan at ``path`` and its weights under ``digest``."""
    plan, weights = path.read_bytes(), weights_file(path)
    tail = weights.read_bytes() if weights.is_file() else b""
    content = len(plan).to_bytes(_LENGTH, "little") + plan + tail
    store.keep(digest, "recovered plans", content)
