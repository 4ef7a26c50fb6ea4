"""Plan files: written whole, read as from a stranger, described by a JSON Schema that ships."""

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import NumericsError, PlanError
from mpsearch.plan.plan import (
    KNOWN_FEATURES,
    VERSION,
    CalibratedRange,
    Covered,
    Decision,
    Plan,
    plan_space,
)
from mpsearch.schemes import Scheme
from mpsearch.stats.estimates import Estimate


def write_plan(plan: Plan, path: Path) -> str:
    """Write ``plan`` as JSON, atomically, and return its digest.

    Raises:
        NumericsError: A figure is NaN or Inf.
    """
    for name, value in (*plan.predicted.items(), *plan.measured.items()):
        if not (isfinite(value.mean) and isfinite(value.stderr)):
            raise NumericsError(f"figures of a plan must be finite, but {name} is {value.mean}")
    inputs = {"structure": plan.structure_digest, "weights": plan.weights_digest}
    return write_artifact(Path(path), "plan", _to_content(plan), version=VERSION, inputs=inputs)


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        ArtifactError: The file is missing, damaged, of another version, or has unknown fields.
        PlanError: It requires a feature that this version lacks, or contradicts itself.
    """
    path = Path(path)
    plan = _from_content(read_artifact(path, "plan", PlanContent, version=VERSION))
    unknown = sorted(set(plan.requires) - KNOWN_FEATURES)
    if unknown:
        raise PlanError(
            f"{path.name}: the plan requires {', '.join(unknown)}, which this version does not know"
        )
    if plan.transforms:
        raise PlanError(
            f"{path.name}: this version knows no transforms, got {plan.transforms[0]!r}"
        )
    for decision in plan.decisions:
        if decision.scheme not in plan.schemes:
            raise PlanError(
                f"{path.name}: {decision.site.node!r} has scheme {decision.scheme!r}, which the plan "
                f"must define; it defines {', '.join(plan.schemes)}"
            )
    names = [decision.site.node for decision in plan.decisions if decision.kind == "gemm"]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise PlanError(f"{path.name}: a site must be decided once, got {min(twice)!r} twice")
    plan_space(plan)  # checks the base
    return plan


def plan_schema() -> dict[str, Any]:
    """Return the JSON Schema of plan files, as it ships in ``plan.schema.json``."""
    content = PlanContent.model_json_schema(ref_template="#/$defs/{model}")
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    definitions = content.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mpsearch plan",
        "description": "A chosen mixed-precision assignment, self-contained, for deployment.",
        "type": "object",
        "properties": {
            "schema": {"const": "mpsearch.plan"},
            "version": {"const": VERSION},
            "digest": digest | {"description": "SHA-256 of content as canonical JSON."},
            "inputs": {"type": "object", "additionalProperties": {"type": "string"}},
            "content": {"$ref": "#/$defs/PlanContent"},
        },
        "required": ["schema", "version", "digest", "inputs", "content"],
        "$defs": {"PlanContent": content, **definitions},
    }


def _plain_name(name: str) -> str:
    """A file's name, never a path: a plan must not reach outside the folder that it lies in."""
    if name in (".", "..") or any(c in name for c in "/\\:\0"):
        raise ValueError(f"must be the name of a file without a folder, got {name!r}")
    return name


_FileName = Annotated[str, AfterValidator(_plain_name)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean and its standard error."""

    mean: float
    stderr: float


class PlanContent(Content):
    """What a plan file says; see the package's documentation of plans for the meaning of each field."""

    model: _FileName
    structure_digest: _Digest
    weights_digest: _Digest
    shapes: dict[str, tuple[Annotated[int, Field(ge=0)] | None, ...]]
    base: str
    schemes: dict[str, Scheme]
    decisions: tuple[Decision, ...]
    ranges: tuple[CalibratedRange, ...]
    coverage: Covered
    predicted: dict[str, Figure]
    measured: dict[str, Figure]
    unit: str = ""
    device: str = ""
    batch: Annotated[int, Field(ge=0)] = 0
    method: str = ""
    fingerprint: dict[str, str] = Field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    fallback: _FileName = ""
    batch_axes: dict[str, Annotated[int, Field(ge=0)] | None] = Field(default_factory=dict)


def _to_content(plan: Plan) -> PlanContent:
    own = {f.name: getattr(plan, f.name) for f in fields(plan)}
    figures = {
        name: {key: Figure(*map(float, value)) for key, value in own[name].items()}
        for name in ("predicted", "measured")
    }
    return PlanContent(**(own | figures))


def _from_content(content: PlanContent) -> Plan:
    own = {f.name: getattr(content, f.name) for f in fields(Plan)}
    estimates = {
        name: {key: Estimate(value.mean, value.stderr) for key, value in own[name].items()}
        for name in ("predicted", "measured")
    }
    return Plan(**(own | estimates))
