"""Files as strangers send them: bytes flipped, keys removed, types wrong, numbers huge, names that reach elsewhere."""

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mpsearch.artifacts import digest_json

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e-300, 1e308, -1e308, 10**9, 10**30, -(10**30)),
    *("", " ", ".", "..", "../../x", "/etc/passwd", "C:\\x", "a/b", "x\0y", "\ud800", "9" * 40),
    *('it\'s "so"', "line\nbreak", "\r\n", "tab\t", "%s%n{0}", "$(touch x)", "é漢字", "x" * 10_000),
    *([], {}, [[]], [None], {"": 0}, [0] * 1000, {"a": {"b": {"c": []}}}, "NaN", "Infinity"),
    *("fp16", "nvfp4", "e4m3", "float32", "static", "2:4", "0:0", "4:2", "1:99999999999"),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, the value itself left out."""
    if not isinstance(value, dict | list):
        return []
    found = []
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((*path, key))
        found += places(child, (*path, key))
    return found


def mutate_json(text: str, rng: np.random.Generator) -> str:
    """Return an envelope with one to three places of its content changed, its digest mended where it can be."""
    envelope = json.loads(text)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        content = envelope["content"]
        known = places(content)
        if not known:
            break
        # shallow places are few, and as likely as the many deep ones
        depth = int(rng.choice(sorted({len(p) for p in known})))
        level = [p for p in known if len(p) == depth]
        *way, last = level[int(rng.integers(len(level)))]
        place = content
        for key in way:
            place = place[key]
        kind = int(rng.integers(8))
        if kind == 0:
            del place[last]
        elif kind == 1:
            other = level[int(rng.integers(len(level)))]
            place[last] = copy.deepcopy(_at(content, other))
        elif kind == 2 and isinstance(place, dict):
            place[str(HOSTILE[int(rng.integers(len(HOSTILE)))])] = place.pop(last)
        elif kind == 3 and isinstance(place, list):
            place.append(copy.deepcopy(place[last]))
        elif kind < 6 and isinstance(place[last], int | float):
            place[last] = place[last] * float(rng.choice([0.5, 2.0, 1 + 1e-9, 1e6]))
        else:
            place[last] = copy.deepcopy(HOSTILE[int(rng.integers(len(HOSTILE)))])
    with suppress(ValueError):  # a reader cannot have it either
        envelope["digest"] = digest_json(envelope["content"])
    return json.dumps(envelope)


def mutate_envelope(text: str, rng: np.random.Generator) -> str:
    """Return a file whose envelope is not what it should be."""
    envelope = json.loads(text)
    key = str(rng.choice(["schema", "version", "digest", "inputs", "content"]))
    if rng.random() < 0.3:
        del envelope[key]
    else:
        envelope[key] = HOSTILE[int(rng.integers(len(HOSTILE)))]
    return json.dumps(envelope)


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Return ``data`` with bytes flipped, cut off, doubled, or 10 kB between them."""
    found = bytearray(data)
    kind = int(rng.integers(5))
    at = int(rng.integers(len(found)))
    if kind < 2:
        for place in rng.integers(len(found), size=int(rng.integers(1, 9))):
            found[int(place)] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del found[at:]
    elif kind == 3:
        found[at:at] = found[at : at + 100]
    else:
        found[at:at] = rng.integers(256, size=10_000, dtype=np.uint8).tobytes()
    return bytes(found)


def snapshot(root: Path, without: Path) -> dict[str, int]:
    """Path to size of all that lies below ``root``, ``without`` left out."""
    return {
        str(path.relative_to(root)): path.stat().st_size if path.is_file() else -1
        for path in root.rglob("*")
        if path != without and without not in path.parents
    }


def check_one_line(said: str) -> None:
    """Check that a refusal is one line, and no longer than a hostile name makes it."""
    assert said
    assert "\n" not in said, said
    assert len(said) < 25_000


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
