"""What was measured, kept in SQLite: assignment to per-sample losses, so that no work is done twice.

Rows are kept by context: a digest of everything that a loss depends on beside the assignment (model,
data, schemes, seed, and the fingerprint of what computed it). Losses of different contexts never meet.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np

from mpsearch.artifacts import digest_json
from mpsearch.data.batches import Batches
from mpsearch.errors import JobError
from mpsearch.simulate.simulator import Simulator
from mpsearch.simulate.variant import simulate_like
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Estimate, Floats, Ints

_SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (
    context TEXT NOT NULL,
    assignment TEXT NOT NULL,  -- scheme index of each group, space-separated
    losses BLOB NOT NULL,      -- little-endian float64, one a sample
    PRIMARY KEY (context, assignment)
) WITHOUT ROWID
"""
_SETTINGS = "CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)"


class EvaluationStore:
    """Per-sample losses of whole assignments in one file."""

    __slots__ = ("_connection", "_name")

    def __init__(self, path: Path) -> None:
        """Open the store at ``path``, or make it.

        Raises:
            JobError: The file is no store.
        """
        self._name = path.name
        try:
            self._connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(_SCHEMA)
            self._connection.execute(_SETTINGS)
        except sqlite3.DatabaseError as error:
            raise JobError(f"{path.name}: must be a store of evaluations: {error}") from None

    def close(self) -> None:
        """Close the file, its write-ahead log folded in."""
        with closing(self._connection) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def __enter__(self) -> "EvaluationStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, context: str, assignment: Sequence[int], losses: Floats) -> None:
        """Keep the [n] ``losses`` of ``assignment`` [G]; what is there already stays."""
        self._connection.execute(
            "INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?)",
            (context, _key(assignment), np.ascontiguousarray(losses, "<f8").tobytes()),
        )

    def get(self, context: str, assignment: Sequence[int]) -> Floats | None:
        """Return the [n] losses of ``assignment`` [G], or None."""
        query = "SELECT losses FROM evaluations WHERE context = ? AND assignment = ?"
        row = self._connection.execute(query, (context, _key(assignment))).fetchone()
        return None if row is None else np.frombuffer(row[0], "<f8").astype(np.float64)

    def settle(self, name: str, value: str) -> str:
        """Return what setting ``name`` was when it was first settled; it is ``value`` if it is now."""
        self._connection.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (name, value))
        query = "SELECT value FROM settings WHERE name = ?"
        return str(self._connection.execute(query, (name,)).fetchone()[0])

    def items(self, context: str) -> Iterator[tuple[tuple[int, ...], Floats]]:
        """Yield every assignment of ``context`` with its [n] losses."""
        query = "SELECT assignment, losses FROM evaluations WHERE context = ? ORDER BY assignment"
        for text, blob in self._connection.execute(query, (context,)):
            losses = np.frombuffer(blob, "<f8").astype(np.float64)
            yield tuple(int(part) for part in text.split()), losses

    def count(self, context: str) -> int:
        """Return how many assignments of ``context`` are kept."""
        query = "SELECT COUNT(*) FROM evaluations WHERE context = ?"
        return int(self._connection.execute(query, (context,)).fetchone()[0])


class StoredSimulator:
    """A simulator whose losses are read from a store where they are there, and kept where not.

    Everything but ``losses``, ``loss`` and ``evaluate`` is the simulator's own. Losses are kept by
    batch, so that a run on more data of which the first batches are the same measures the new ones
    only, and as a whole under the run's own context. Variants of it, with other schemes or by another
    loss, keep theirs in the same store.
    """

    __slots__ = ("_batches", "_calibration", "_context", "_simulator", "_store")

    def __init__(
        self,
        simulator: Simulator,
        store: EvaluationStore,
        context: str,
        batches: Sequence[str] = (),
        calibration: Batches | None = None,
    ) -> None:
        """Read and keep losses.

        Args:
            simulator: Measures what is not there.
            store: Keeps it.
            context: What losses on all the data are kept under.
            batches: [n_batches] What losses on each batch are kept under; () keeps none by batch.
            calibration: What the simulator was calibrated to; None: all its data.
        """
        self._simulator = simulator
        self._store = store
        self._context = context
        self._batches = tuple(batches)
        self._calibration = calibration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._simulator, name)

    def variant(self, space: SearchSpace, loss: str | None) -> Simulator:
        """Return a simulator in ``space`` by ``loss``, calibrated to the same samples, that keeps its losses too."""
        whole = self._simulator.batches
        first = self._calibration or whole
        made = simulate_like(self._simulator, first, space, loss)
        if len(first) < len(whole):
            made = made.on_data(whole)
        own = digest_json([[repr(scheme) for scheme in space.schemes], made.loss_kind, loss])
        contexts = [f"{context} {own}" for context in self._batches]
        stored = StoredSimulator(made, self._store, f"{self._context} {own}", contexts, first)
        return cast(Simulator, stored)

    def losses(self, assignment: Ints, batches: Sequence[int] | None = None) -> Floats:
        """Return the [n] losses of ``assignment`` [G] on all ``batches``, or some."""
        key = tuple(int(scheme) for scheme in np.asarray(assignment).ravel())
        if batches is not None:
            return np.concatenate([self._on_batch(key, b) for b in batches])
        known = self._store.get(self._context, key)
        if known is None:
            if self._batches:
                known = np.concatenate([self._on_batch(key, b) for b in range(len(self._batches))])
            else:
                known = np.asarray(self._simulator.losses(np.array(key, np.int64)), np.float64)
            self._store.put(self._context, key, known)
        return known

    def _on_batch(self, key: tuple[int, ...], b: int) -> Floats:
        context = self._batches[b] if self._batches else None
        known = None if context is None else self._store.get(context, key)
        if known is None:
            known = np.asarray(self._simulator.losses(np.array(key, np.int64), [b]), np.float64)
            if context is not None:
                self._store.put(context, key, known)
        return known

    def loss(self, assignment: Ints) -> Estimate:
        """Return mean and standard error of the losses of ``assignment`` [G]."""
        return self._simulator.estimate(self.losses(assignment))

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Return the loss of each of ``assignments`` [P, G]; parts of the data are not kept."""
        if fraction < 1.0:
            return self._simulator.evaluate(assignments, fraction=fraction)
        return [self.loss(row) for row in _rows(assignments)]


def _rows(assignments: Ints) -> Ints:
    rows = np.asarray(assignments, np.int64)
    return rows[None] if rows.ndim == 1 else rows


def _key(assignment: Sequence[int]) -> str:
    return " ".join(str(int(scheme)) for scheme in assignment)
