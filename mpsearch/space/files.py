"""Space and target files: schemes, rules and ties read from TOML."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mpsearch.artifacts import Content, read_toml
from mpsearch.errors import SchemeError, SpaceError, UnknownNameError
from mpsearch.registry import data_file
from mpsearch.schemes import SCHEMES, Scheme, Spec, find_scheme
from mpsearch.space.rules import DEFAULT_FUSING, Rule
from mpsearch.space.space import RecoveryName, SearchSpace
from mpsearch.space.targets import read_target


class _SpaceFile(Content):
    description: str = ""
    base: str = "fp16"
    schemes: tuple[str, ...]
    recovery: RecoveryName = "none"
    min_block_fill: float = 0.0
    ties: tuple[tuple[str, ...], ...] = ()
    untie: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    scheme: tuple[dict[str, Any], ...] = ()


def read_space(
    name_or_path: str | Path,
    *,
    target: str | None = None,
    base: str | None = None,
    recovery: RecoveryName | None = None,
) -> SearchSpace:
    """Read a search space that ships with mpsearch, or a file of the user's.

    Args:
        name_or_path: Name of a space, or path of a ``.toml`` file.
        target: Name or path of a runtime's file, whose rules are added.
        base: Format of what is not lowered; None takes the file's own (fp16 where it says none).
        recovery: How sparse schemes recover what pruning lost: ``none``, or ``obs``, which needs
            calibration data. None takes the file's own. A scheme that the file defines with a
            recovery keeps it.

    Raises:
        UnknownNameError: No such space, target, scheme or format.
        SpaceError: The file is malformed or contradicts itself.
    """
    path = data_file("search_spaces", name_or_path, "space")
    file = read_toml(path, _SpaceFile, SpaceError)
    own = {}
    settled = set()
    for entry in file.scheme:
        scheme = _custom_scheme(path.name, entry)
        own[scheme.name] = scheme
        if "recovery" in entry:
            settled.add(scheme.name)
    names = list(dict.fromkeys(file.schemes))
    chosen = base or file.base
    if base is not None and file.base != base:
        names = [name for name in names if name != file.base]
    if chosen not in names:
        names.insert(0, chosen)
    try:
        schemes = tuple(own.get(name) or find_scheme(name) for name in names)
    except UnknownNameError as error:
        raise UnknownNameError(f"{path.name}: {error}") from None
    schemes = tuple(
        scheme
        if scheme.sparsity is None or scheme.name in settled
        else replace(scheme, recovery=recovery or file.recovery)
        for scheme in schemes
    )
    unused = own.keys() - set(names)
    if unused:
        raise SpaceError(
            f"{path.name}: every [[scheme]] must be listed in schemes, but {min(unused)!r} is not"
        )
    runtime = None if target is None else read_target(target)
    if runtime is not None and chosen not in runtime.bases:
        raise SpaceError(
            f"the base must be a format that layers can stay in for {runtime.name}: "
            f"{', '.join(runtime.bases)}; got {chosen!r}"
        )
    return SearchSpace(
        path.stem,
        schemes,
        chosen,
        file.rules,
        file.ties,
        file.min_block_fill,
        "" if runtime is None else runtime.name,
        file.untie,
        DEFAULT_FUSING if runtime is None else runtime.fusing,
        runtime,
    )


def _custom_scheme(file: str, entry: Mapping[str, Any]) -> Scheme:
    """A scheme from specs; ``like`` names a built-in one whose other fields it keeps."""
    entry = dict(entry)
    like = entry.pop("like", None)
    label = entry.get("name", "without a name")
    try:
        _check_keys(Scheme, entry)
        merged = (
            {f.name: getattr(find_scheme(like), f.name) for f in fields(Scheme)} if like else {}
        )
        for part in ("weight", "activation"):
            if isinstance(entry.get(part), dict):
                _check_keys(Spec, entry[part])
                old = merged.get(part)
                kept = {f.name: getattr(old, f.name) for f in fields(Spec)} if old else {}
                entry[part] = TypeAdapter(Spec).validate_python(kept | entry[part])
        scheme = TypeAdapter(Scheme).validate_python(merged | entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpaceError(f"{file}: scheme {label!r}: {where}: {first['msg']}") from None
    except (SchemeError, UnknownNameError) as error:
        raise SpaceError(f"{file}: scheme {label!r}: {error}") from None
    if scheme.name in SCHEMES:
        raise SpaceError(f"{file}: scheme {label!r} is built in; give yours another name")
    return scheme


def _check_keys(kind: type[Scheme] | type[Spec], entry: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(kind)]
    for key in entry:
        if key not in known:
            raise SchemeError(f"keys must be of {', '.join(known)}; got {key!r}")
