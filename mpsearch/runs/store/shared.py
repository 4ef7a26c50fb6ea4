"""A store of losses for all runs: model × data × fingerprint × assignment to a float32 a sample.

What a loss depends on beside the assignment is one digest, its context: model, weights, samples of a
batch, calibration, schemes, loss, and the fingerprint of what computed it. Losses of different contexts never meet.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mpsearch.errors import JobError
from mpsearch.runs.store.database import Database, StoreTrouble, connect
from mpsearch.stats.estimates import Floats

SCHEMA = 1
_RUN_TABLE = "evaluations"


class SharedStore:
    """Losses by context and assignment; whatever several processes write at once, the first stays."""

    __slots__ = ("_contexts", "_db")

    def __init__(self, where: str, *, durable: bool = False) -> None:
        """Open the store at a path or a ``postgresql://`` URL, or make it.

        Raises:
            JobError: It is no store, of a newer version, damaged, or does not answer; it is left as it is.
            MissingExtraError: PostgreSQL's client is not installed.
        """
        self._db: Database = connect(where, durable=durable)
        self._contexts: dict[str, int] = {}
        try:
            self._prepare(self._db.tables())
        except StoreTrouble as error:
            self._db.close()
            raise JobError(
                f"store {self.name}: must be a store that can be read, but {error}; nothing was written to it"
            ) from None
        except JobError:
            self._db.close()
            raise

    @property
    def name(self) -> str:
        """What messages call it: neither a path nor a password."""
        return self._db.name

    def _prepare(self, tables: set[str]) -> None:
        if not tables:
            self._make()
        elif "mpsearch_store" not in tables:
            if _RUN_TABLE in tables:
                raise JobError(
                    f"store {self.name}: is a run's own evaluations; take them over with `mpsearch store import RUN "
                    "--store STORE` into another one"
                )
            raise JobError(
                f"store {self.name}: holds other tables and is no store; give another one"
            )
        (found,) = self._db.rows("SELECT version FROM mpsearch_store") or [(0,)]
        if int(found[0]) != SCHEMA:
            raise JobError(
                f"store {self.name}: is of version {found[0]}, this mpsearch reads version {SCHEMA}; "
                "install the mpsearch that made it, or give another --store"
            )

    def _make(self) -> None:
        blob = self._db.blob
        key = "INTEGER PRIMARY KEY" if blob == "BLOB" else "SERIAL PRIMARY KEY"
        tail = " WITHOUT ROWID" if blob == "BLOB" else ""
        for statement in (
            f"CREATE TABLE IF NOT EXISTS contexts (id {key}, digest TEXT UNIQUE NOT NULL, about TEXT NOT NULL)",
            f"CREATE TABLE IF NOT EXISTS schemes (id {key}, definition TEXT UNIQUE NOT NULL)",
            f"CREATE TABLE IF NOT EXISTS losses (context INTEGER NOT NULL, assignment {blob} NOT NULL, "
            f"losses {blob} NOT NULL, PRIMARY KEY (context, assignment)){tail}",
            f"CREATE TABLE IF NOT EXISTS artifacts (digest TEXT PRIMARY KEY, kind TEXT NOT NULL, content {blob} NOT NULL)",
            "CREATE TABLE IF NOT EXISTS mpsearch_store (one INTEGER PRIMARY KEY, version INTEGER NOT NULL)",
        ):
            self._db.rows(statement)
        self._db.rows("INSERT INTO mpsearch_store VALUES (1, ?) ON CONFLICT DO NOTHING", (SCHEMA,))

    def close(self) -> None:
        """End the connection."""
        self._db.close()

    def __enter__(self) -> "SharedStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self, context: str, about: Mapping[str, Any]) -> None:
        """Say what a context stands for: model, data, fingerprint; what was said first stays."""
        text = json.dumps(about, sort_keys=True, default=str)
        self._db.rows(
            "INSERT INTO contexts (digest, about) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING",
            (context, text),
        )

    def number_schemes(self, definitions: Sequence[str]) -> tuple[int, ...]:
        """Return the number of each scheme in this store: assignments of all search spaces are told in them."""
        for text in definitions:
            self._db.rows(
                "INSERT INTO schemes (definition) VALUES (?) ON CONFLICT (definition) DO NOTHING",
                (text,),
            )
        known = {
            str(text): int(n) for n, text in self._db.rows("SELECT id, definition FROM schemes")
        }
        return tuple(known[text] for text in definitions)

    def schemes(self) -> dict[int, str]:
        """Return number to definition of all schemes."""
        return {
            int(n): str(text) for n, text in self._db.rows("SELECT id, definition FROM schemes")
        }

    def put(self, context: str, assignment: Sequence[int], losses: Floats) -> None:
        """Keep the [n] ``losses`` of ``assignment`` [G] as float32; what is there already stays.

        Raises:
            StoreTrouble: The disk is full, or the server does not answer.
        """
        self.put_many(context, [(assignment, losses)])

    def put_many(self, context: str, rows: Sequence[tuple[Sequence[int], Floats]]) -> None:
        """Keep many at once."""
        number = self._context(context)
        values = [(number, encode(key), as_bytes(losses)) for key, losses in rows]
        statement = "INSERT INTO losses VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        if len(values) == 1:
            self._db.rows(statement, values[0])
        elif values:
            self._db.many(statement, values)

    def get(self, context: str, assignment: Sequence[int]) -> Floats | None:
        """Return the [n] losses of ``assignment`` [G], or None."""
        number = self._known(context)
        if number is None:
            return None
        query = "SELECT losses FROM losses WHERE context = ? AND assignment = ?"
        found = self._db.rows(query, (number, encode(assignment)))
        return from_bytes(found[0][0]) if found else None

    def items(self, context: str) -> Iterator[tuple[tuple[int, ...], Floats]]:
        """Yield every assignment of ``context`` with its [n] losses."""
        query = "SELECT assignment, losses FROM losses WHERE context = ? ORDER BY assignment"
        for key, losses in self._db.rows(query, (self._known(context),)):
            yield decode(key), from_bytes(losses)

    def contexts(self) -> dict[str, dict[str, Any]]:
        """Return digest of each context to what it stands for, ``{}`` where nobody said."""
        found = self._db.rows("SELECT digest, about FROM contexts ORDER BY id")
        return {str(digest): json.loads(about) for digest, about in found}

    def counts(self) -> dict[str, int]:
        """Return digest of each context to how many assignments are kept."""
        query = (
            "SELECT digest, COUNT(*) FROM losses JOIN contexts ON contexts.id = losses.context "
            "GROUP BY digest"
        )
        return {str(digest): int(count) for digest, count in self._db.rows(query)}

    def keep(self, digest: str, kind: str, content: bytes) -> None:
        """Keep an artifact, such as calibrated ranges or recovered weights; the first stays."""
        self._db.rows(
            "INSERT INTO artifacts VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (digest, kind, content)
        )

    def take(self, digest: str) -> bytes | None:
        """Return an artifact, None where there is none."""
        found = self._db.rows("SELECT content FROM artifacts WHERE digest = ?", (digest,))
        return bytes(found[0][0]) if found else None

    def artifacts(self) -> dict[str, str]:
        """Return digest to kind of all artifacts."""
        return {str(d): str(k) for d, k in self._db.rows("SELECT digest, kind FROM artifacts")}

    def check(self) -> str:
        """Return what is damaged in the file, "" where nothing is."""
        return self._db.check()

    def size_bytes(self) -> int:
        """Return what the store takes on disk."""
        return self._db.size_bytes()

    def _known(self, context: str) -> int | None:
        """The number of a context, None where it has none."""
        if context not in self._contexts:
            found = self._db.rows("SELECT id FROM contexts WHERE digest = ?", (context,))
            if not found:
                return None
            self._contexts[context] = int(found[0][0])
        return self._contexts[context]

    def _context(self, context: str) -> int:
        """The number of a context, which is given one if it has none."""
        number = self._known(context)
        if number is None:
            self.describe(context, {})
            number = self._known(context)
        assert number is not None  # it was just put there
        return number


def encode(assignment: Sequence[int]) -> bytes:
    """Return an assignment [G] as a key: a byte a group, two where a scheme's index needs them."""
    wide = any(scheme > 255 for scheme in assignment)
    return np.array(assignment, "<u2" if wide else "u1").tobytes() + (b"\x02" if wide else b"\x01")


def decode(key: bytes) -> tuple[int, ...]:
    """Return the assignment of a key."""
    raw = bytes(key)
    return tuple(np.frombuffer(raw[:-1], "<u2" if raw[-1] == 2 else "u1").tolist())


def as_bytes(losses: Floats) -> bytes:
    """Return [n] losses as little-endian float32."""
    return np.ascontiguousarray(losses, "<f4").tobytes()


def from_bytes(raw: bytes) -> Floats:
    """Return [n] losses."""
    return np.frombuffer(bytes(raw), "<f4").astype(np.float64)


def rounded(losses: Floats) -> Floats:
    """Return [n] losses as a shared store gives them back."""
    return np.asarray(losses, "<f4").astype(np.float64)
