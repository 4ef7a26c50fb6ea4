"""Optuna's studies in a storage that several searchers share."""

import os
import time
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage

from mpsearch.errors import MissingExtraError, ProblemError

_ATTEMPTS = 8
_PAUSE_S = 0.25


def open_study(storage: str, name: str, n_objectives: int) -> optuna.Study:
    """Return the study ``name`` in ``storage``, made if there is none.

    Args:
        storage: URL of a database, or ``$NAME``, the environment variable that holds one: so no file need hold a password.
        name: Of the study.
        n_objectives: Objectives, all minimised.

    Raises:
        ProblemError: The storage does not answer, or its study has another number of objectives.
        MissingExtraError: The database's client is not installed.
    """
    url = _url(storage)
    opened = _open(url, name, n_objectives)
    if len(opened.directions) != n_objectives:
        raise ProblemError(
            f"study {name!r} has {len(opened.directions)} objectives, this search {n_objectives}; "
            "name another study"
        )
    return opened


def _url(storage: str) -> str:
    """The URL as SQLAlchemy takes it."""
    if storage.startswith("$"):
        found = os.environ.get(storage[1:], "")
        if not found:
            raise ProblemError(f"storage is {storage}, but that environment variable is not set")
        storage = found
    for scheme in ("postgresql://", "postgres://"):
        if storage.startswith(scheme):
            return f"postgresql+psycopg://{storage.removeprefix(scheme)}"
    return storage


def _open(url: str, name: str, n_objectives: int) -> optuna.Study:
    """The study; tables that another process makes at the same moment are waited for."""
    said = ""
    for attempt in range(_ATTEMPTS):
        try:
            return optuna.create_study(
                storage=_storage(url),
                study_name=name,
                directions=["minimize"] * n_objectives,
                load_if_exists=True,
            )
        except ImportError:
            raise MissingExtraError(
                "a study in PostgreSQL needs psycopg; pip install 'mpsearch[postgres]'"
            ) from None
        except (
            Exception
        ) as error:  # of SQLAlchemy or the database's client: neither need be installed
            said = str(error.__cause__ or error).strip().splitlines()[0]
            if attempt > 1 and "connect" in said.lower():
                break
            time.sleep(_PAUSE_S * (attempt + 1))
    parts = urlsplit(url)
    place = f"{parts.hostname or ''}{parts.path}"
    raise ProblemError(f"the study's storage {place!r} does not answer: {said}")


def _storage(url: str) -> str | BaseStorage:
    if not url.startswith("postgresql+"):
        return url
    from optuna.storages import RDBStorage

    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
