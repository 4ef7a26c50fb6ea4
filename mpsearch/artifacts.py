"""Files between stages: JSON with a schema, a version, its own digest and its inputs' digests.

Writing is atomic: a reader sees the old file or the new one, never half of one.
"""

import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mpsearch.errors import ArtifactError, MpsearchError


class Content(BaseModel):
    """Parent of every file's content: frozen, unknown fields only under ``extensions``, no NaN or Inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    extensions: dict[str, Any] = Field(default_factory=dict)


C = TypeVar("C", bound=Content)


def digest_json(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically; the folder must exist."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically; the folder must exist."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # a write of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_artifact(
    path: Path, schema: str, content: Content, *, version: int = 1, inputs: Mapping[str, str] = {}
) -> str:
    """Write ``content`` under ``schema`` and return its digest.

    Args:
        path: The file; replaced atomically.
        schema: What the file is: ``table``, ``costs``, ``front``, ``plan``.
        content: What it says.
        version: Major version of the schema; readers refuse another one.
        inputs: Name to digest of what the content was computed from.
    """
    body = content.model_dump(mode="json")
    digest = digest_json(body)
    envelope = {
        "schema": f"mpsearch.{schema}",
        "version": version,
        "digest": digest,
        "inputs": dict(inputs),
        "content": body,
    }
    write_text(path, json.dumps(envelope, indent=1, allow_nan=False) + "\n")
    return digest


def read_artifact(path: Path, schema: str, kind: type[C], *, version: int = 1) -> C:
    """Read the content of a file that :func:`write_artifact` wrote.

    Raises:
        ArtifactError: The file is missing, not JSON, of another schema or version, or changed.
    """
    envelope = read_envelope(path)
    found = envelope["schema"], envelope["version"]
    if found != (f"mpsearch.{schema}", version):
        raise ArtifactError(
            f"{path.name}: schema mpsearch.{schema} version {version} is needed, "
            f"got {_short(found[0])} version {_short(found[1])}"
        )
    try:
        digest = digest_json(envelope["content"])
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path.name}: numbers must be finite, and nesting shallow") from None
    if digest != envelope["digest"]:
        raise ArtifactError(f"{path.name}: the content does not match its digest; was it edited?")
    try:
        return kind.model_validate(envelope["content"], strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise ArtifactError(f"{path.name}: {where}: {first['msg']}") from None


def _short(value: object) -> str:
    """``value`` as one line of a message, whatever it is."""
    return " ".join(str(value).split())[:80]


def read_envelope(path: Path) -> dict[str, Any]:
    """Read a file's envelope without judging its schema: ``schema, version, digest, inputs, content``.

    Raises:
        ArtifactError: The file is missing, unreadable or no mpsearch file.
    """
    try:
        envelope = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path.name}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path.name}: must be a JSON file that mpsearch wrote") from None
    if not isinstance(envelope, dict) or not envelope.keys() >= {
        "schema",
        "version",
        "digest",
        "inputs",
        "content",
    }:
        raise ArtifactError(f"{path.name}: must be a JSON file that mpsearch wrote")
    return envelope


def read_toml(path: Path, kind: type[C], error: type[MpsearchError]) -> C:
    """Read a TOML file that a person writes.

    Raises:
        error: The file cannot be read, is no TOML, or does not say what ``kind`` needs; one line
            that names the file and the key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as trouble:
        raise error(f"{path.name}: cannot be read: {trouble.strerror}") from None
    except (ValueError, RecursionError) as trouble:
        raise error(f"{path.name}: must be a TOML file: {trouble}") from None
    try:
        return kind.model_validate(data)
    except ValidationError as trouble:
        raise error(f"{path.name}: {explain(kind, trouble)}") from None


def explain(kind: type[Content], error: ValidationError) -> str:
    """Return in one line which key of ``kind`` is wrong, what came, what must hold, and what the key is."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "content"
    if first["type"] == "extra_forbidden":
        fields = ", ".join(kind.model_fields) if len(first["loc"]) == 1 else "see the docs"
        return f"{where}: no such key; keys are: {fields}"
    key = str(first["loc"][0]) if first["loc"] else ""
    said = kind.model_fields[key].description if key in kind.model_fields else None
    meant = f"; it is: {said[0].lower()}{said[1:].rstrip('.')}" if said else ""
    if first["type"] == "missing":
        return f"{where}: must be given{meant}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}{meant}"
