"""The deployment gate: what practitioners check of an export before it goes out, as a table of passes and failures."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mpsearch.artifacts import Content, read_artifact, write_artifact

Verdict = Literal["pass", "fail", "skipped"]
GATE = "gate.json"
_SCHEMA, _VERSION = "gate", 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a gate asks for.

    Attributes:
        max_loss: What the upper end of the loss's 95 % interval may be; None: the loss may not be larger than the plan's
            own measured one beyond the errors of both.
        max_drop: What the accuracy may lose against fp32.
        max_slice_ratio: How many times the overall loss the worst slice may lose, beyond its error.
        min_coverage: Share of FLOPs that the plan must decide.
        size_tolerance: What the stored weights may differ from the plan's size.
        extreme_factor: How many times larger than the data the huge inputs are.
        loss: The loss, as :class:`mpsearch.simulate.simulator.Simulator` takes it; None reads it from model and data.
    """

    max_loss: float | None = None
    max_drop: float = 0.01
    max_slice_ratio: float = 2.0
    min_coverage: float = 0.9
    size_tolerance: float = 0.02
    extreme_factor: float = 100.0
    loss: str | None = None


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One line of the checklist.

    Attributes:
        name: What is checked.
        verdict: ``skipped`` says why in the detail, and is no failure.
        value: What was found, in the check's own unit.
        limit: What it may be at most; for coverage at least.
        detail: What it is, in words.
    """

    name: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate found.

    Attributes:
        model: File name of the model.
        runtime: Runtime that the export was run in.
        n_samples: Samples of the loss.
        checks: The checklist, in order.
        fallback: File name of the safer plan that the plan names; "" if it names none.
        note: How the runtime was run.
    """

    model: str
    runtime: str
    n_samples: int
    checks: tuple[GateCheck, ...]
    fallback: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[GateCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict == "fail")

    @property
    def verdict(self) -> str:
        """What failed and what to take instead, in one line; "" where all passed."""
        if self.ok:
            return ""
        names = ", ".join(check.name for check in self.failed)
        instead = (
            f"fall back to {self.fallback}"
            if self.fallback
            else "the plan names no fallback; choose a safer one with `mpsearch plan choose`"
        )
        return f"{len(self.failed)} of {len(self.checks)} checks failed ({names}); {instead}"

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return _content(self).model_dump(mode="json", exclude={"extensions"}) | {"ok": self.ok}


class GateContent(Content):
    """What ``gate.json`` says."""

    model: str
    runtime: str
    n_samples: int
    ok: bool
    checks: tuple[GateCheck, ...]
    fallback: str = ""
    note: str = ""
    limits: dict[str, float | str | None] = Field(default_factory=dict)


def write_gate(
    gate: Gate, path: Path, limits: Mapping[str, float | str | None], inputs: Mapping[str, str]
) -> None:
    """Write what a gate found beside the export.

    Args:
        gate: What it found.
        path: The file.
        limits: What was asked for.
        inputs: Name to digest of what was judged.
    """
    content = _content(gate).model_copy(update={"limits": dict(limits)})
    write_artifact(path, _SCHEMA, content, version=_VERSION, inputs=inputs)


def read_gate(path: Path) -> Gate:
    """Read what :func:`write_gate` wrote.

    Raises:
        ArtifactError: The file is missing, damaged, or of another version.
    """
    found = read_artifact(path, _SCHEMA, GateContent, version=_VERSION)
    return Gate(
        found.model, found.runtime, found.n_samples, found.checks, found.fallback, found.note
    )


def _content(gate: Gate) -> GateContent:
    return GateContent(
        model=gate.model,
        runtime=gate.runtime,
        n_samples=gate.n_samples,
        ok=gate.ok,
        checks=tuple(
            replace(check, value=_finite(check.value), limit=_finite(check.limit))
            for check in gate.checks
        ),
        fallback=gate.fallback,
        note=gate.note,
    )


def _finite(value: float | None) -> float | None:
    """``value``, or None where it is NaN or Inf, which JSON has no word for: the verdict and the detail say it."""
    return value if value is None or isfinite(value) else None
