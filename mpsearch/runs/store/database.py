"""One dialect of SQL over SQLite and PostgreSQL: what a shared store says to either."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from mpsearch.errors import JobError, MissingExtraError

URLS = ("postgresql://", "postgres://")
_WAIT_S = 60.0  # for another process that writes
_CONNECT_S = 8
_CACHE_KB = 32_000  # of pages: keys come in no order


class StoreTrouble(Exception):  # noqa: N818  # caught and said by the store alone
    """A database that does not answer, is full, or is damaged; the text says which."""


class Database(Protocol):
    """A connection that commits each statement by itself.

    Attributes:
        name: What it is called in messages: no path, no password.
        blob: Its type of bytes.
    """

    name: str
    blob: str

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run ``statement``, its places marked ``?``, and return what it gives.

        Raises:
            StoreTrouble: It could not be run.
        """

    def many(self, statement: str, values: Sequence[Sequence[Any]]) -> None:
        """Run ``statement`` for each of ``values`` in one transaction.

        Raises:
            StoreTrouble: It could not be run; then none was.
        """

    def tables(self) -> set[str]:
        """Return the names of the tables that are there."""

    def check(self) -> str:
        """Return what is damaged, "" where nothing is."""

    def size_bytes(self) -> int:
        """Return what it takes on disk."""

    def close(self) -> None:
        """End the connection."""


def connect(where: str, *, durable: bool = False) -> Database:
    """Return a connection to the database of a path or a ``postgresql://`` URL.

    Args:
        where: Path of an SQLite file, made if there is none, or URL.
        durable: Whether what was written also survives a loss of power, at a write to disk each.

    Raises:
        JobError: It cannot be opened.
        MissingExtraError: PostgreSQL's client is not installed.
    """
    if where.startswith(URLS):
        return _Postgres(where, durable)
    if "://" in where:
        raise JobError(
            f"a store must be a path or a postgresql:// URL, got one of {where.partition('://')[0]!r}"
        )
    return _Sqlite(Path(where), durable)


class _Sqlite:
    """A file in write-ahead mode: many processes read and write, and ``kill -9`` loses nothing."""

    blob = "BLOB"

    def __init__(self, path: Path, durable: bool) -> None:
        self.name, self._path = path.name, path
        if not path.parent.is_dir():
            raise JobError(f"store {path.name}: its folder {path.parent.name!r} must exist")
        try:
            self._connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            self.rows("PRAGMA journal_mode = WAL")
            self.rows(f"PRAGMA cache_size = -{_CACHE_KB}")
            self.rows(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        except (sqlite3.Error, StoreTrouble) as error:
            raise JobError(f"store {path.name}: {_explain(str(error))}") from None

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise StoreTrouble(str(error)) from None

    def many(self, statement: str, values: Sequence[Sequence[Any]]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(statement, values)
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreTrouble(str(error)) from None

    def tables(self) -> set[str]:
        found = self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {str(row[0]) for row in found}

    def check(self) -> str:
        found = [str(row[0]) for row in self.rows("PRAGMA integrity_check")]
        return "" if found == ["ok"] else "; ".join(found[:3])

    def size_bytes(self) -> int:
        sides = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(path.stat().st_size for path in sides if path.exists())

    def close(self) -> None:
        with closing(self._connection) as connection, suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class _Postgres:
    """A server that several machines share."""

    blob = "BYTEA"

    def __init__(self, url: str, durable: bool) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError(
                "a store in PostgreSQL needs psycopg; pip install 'mpsearch[postgres]'"
            ) from None
        parts = urlsplit(url)
        self.name = f"{parts.hostname or 'localhost'}{parts.path}"
        self._error = psycopg.Error
        try:
            self._connection = psycopg.connect(
                url, autocommit=True, connect_timeout=_CONNECT_S, prepare_threshold=2
            )
            self.rows("SET synchronous_commit = " + ("on" if durable else "off"))
        except (psycopg.Error, StoreTrouble) as error:
            raise JobError(
                f"store {self.name}: cannot be reached: {str(error).splitlines()[0]}"
            ) from None

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            done = self._connection.execute(_marked(statement), tuple(values))
            return [] if done.description is None else list(done.fetchall())
        except self._error as error:
            raise StoreTrouble(str(error).splitlines()[0]) from None

    def many(self, statement: str, values: Sequence[Sequence[Any]]) -> None:
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.executemany(_marked(statement), values)
        except self._error as error:
            raise StoreTrouble(str(error).splitlines()[0]) from None

    def tables(self) -> set[str]:
        found = self.rows("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return {str(row[0]) for row in found}

    def check(self) -> str:
        return ""  # the server's own business

    def size_bytes(self) -> int:
        return int(self.rows("SELECT pg_database_size(current_database())")[0][0])

    def close(self) -> None:
        self._connection.close()


def _marked(statement: str) -> Any:
    """``statement`` with its places marked as psycopg marks them; it is one of ours, not a user's."""
    return statement.replace("?", "%s")


def _explain(error: str) -> str:
    """What SQLite said, and what to do about it."""
    if "not a database" in error or "malformed" in error:
        return (
            f"must be a store, but {error}; nothing was written to it: give another --store, or get what can "
            "be read of it with `sqlite3 STORE .recover`"
        )
    return f"cannot be opened: {error}"
