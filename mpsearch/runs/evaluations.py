"""What was measured, kept in SQLite: assignment to per-sample losses, so that no work is done twice.

Rows are kept by context: a digest of everything that a loss depends on beside the assignment (model,
data, schemes, seed, and the fingerprint of what computed it). Losses of different contexts never meet.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from mpsearch.errors import JobError
from mpsearch.stats.estimates import Floats

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
            JobError: The file is no store, or the disk is full.
        """
        self._name = path.name
        try:
            self._connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"):
                self._connection.execute(statement)
            for statement in (_SCHEMA, _SETTINGS):
                self._connection.execute(statement)
        except sqlite3.OperationalError as error:
            raise self._refusal(error) from None
        except sqlite3.DatabaseError as error:
            raise JobError(f"{path.name}: must be a store of evaluations: {error}") from None

    def close(self) -> None:
        """Close the file, its write-ahead log folded in; where the disk is full it stays beside the file."""
        with closing(self._connection) as connection, suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def __enter__(self) -> "EvaluationStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _execute(self, statement: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: sqlite3.DatabaseError) -> JobError:
        return JobError(
            f"{self._name}: must be written, but {error}; what was measured before is kept, and the "
            "same command goes on from there"
        )

    def put(self, context: str, assignment: Sequence[int], losses: Floats) -> Floats:
        """Keep the [n] ``losses`` of ``assignment`` [G] and return them; what is there already stays.

        Raises:
            JobError: The disk is full, or the file was damaged.
        """
        self._execute(
            "INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?)",
            (context, _key(assignment), np.ascontiguousarray(losses, "<f8").tobytes()),
        )
        return losses

    def get(self, context: str, assignment: Sequence[int]) -> Floats | None:
        """Return the [n] losses of ``assignment`` [G], or None."""
        query = "SELECT losses FROM evaluations WHERE context = ? AND assignment = ?"
        row = self._execute(query, (context, _key(assignment))).fetchone()
        return None if row is None else np.frombuffer(row[0], "<f8").astype(np.float64)

    def settle(self, name: str, value: str) -> str:
        """Return what setting ``name`` was when it was first settled; it is ``value`` if it is now."""
        self._execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (name, value))
        query = "SELECT value FROM settings WHERE name = ?"
        return str(self._execute(query, (name,)).fetchone()[0])

    def note(self, name: str, value: str) -> None:
        """Keep ``value`` as setting ``name``, in the place of what it was."""
        self._execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def setting(self, name: str) -> str | None:
        """Return setting ``name``, None where it was never settled."""
        query = "SELECT value FROM settings WHERE name = ?"
        row = self._execute(query, (name,)).fetchone()
        return None if row is None else str(row[0])

    def items(self, context: str) -> Iterator[tuple[tuple[int, ...], Floats]]:
        """Yield every assignment of ``context`` with its [n] losses."""
        query = "SELECT assignment, losses FROM evaluations WHERE context = ? ORDER BY assignment"
        for text, blob in self._execute(query, (context,)):
            losses = np.frombuffer(blob, "<f8").astype(np.float64)
            yield tuple(int(part) for part in text.split()), losses

    def count(self, context: str) -> int:
        """Return how many assignments of ``context`` are kept."""
        query = "SELECT COUNT(*) FROM evaluations WHERE context = ?"
        return int(self._execute(query, (context,)).fetchone()[0])


def _key(assignment: Sequence[int]) -> str:
    return " ".join(str(int(scheme)) for scheme in assignment)
