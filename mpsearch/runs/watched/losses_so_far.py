"""What a run that another process works on has measured so far, read without disturbing it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from mpsearch.errors import JobError
from mpsearch.stats.estimates import Floats


def read_losses(path: Path, context: str) -> dict[tuple[int, ...], Floats]:
    """Return assignment to its [n] losses of ``context`` in the store at ``path``.

    Nothing is written, not even an empty store; without one nothing is returned.

    Raises:
        JobError: The file is no store.
    """
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            query = "SELECT assignment, losses FROM evaluations WHERE context = ?"
            return {
                tuple(int(part) for part in text.split()): np.frombuffer(blob, "<f8").copy()
                for text, blob in connection.execute(query, (context,))
            }
    except sqlite3.DatabaseError as error:
        raise JobError(f"{path.name}: must be a store of evaluations: {error}") from None
