"""Plan files: written whole, read as from a stranger, described by a JSON Schema that ships."""

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from mpsearch.artifacts import Content, read_artifact, write_artifact
from mpsearch.errors import NumericsError, PlanError
from mpsearch.plan.plan import (
    KNOWN_FEATURES,
    KNOWN_TRANSFORMS,
    VERSION,
    CalibratedRange,
    Change,
    Covered,
    Decision,
    Plan,
    plan_space,
)
from mpsearch.plan.weights import SUFFIX, PlanWeights, write_weights
from mpsearch.schemes import Scheme
from mpsearch.stats.estimates import Estimate


def write_plan(plan: Plan, path: Path) -> str:
    """Write ``plan`` as JSON, and what it changes of the weights beside it; return the digest of the JSON.

    Both appear whole: the weights first, as :func:`weights_file` names them.

    Raises:
        NumericsError: A figure is NaN or Inf.
        PlanError: The plan's weights lie in a file that is missing or has changed.
    """
    path = Path(path)
    for name, value in (*plan.predicted.items(), *plan.measured.items()):
        if not (isfinite(value.mean) and isfinite(value.stderr)):
            raise NumericsError(f"figures of a plan must be finite, but {name} is {value.mean}")
    for change in plan.changes:
        if not (isfinite(change.error_before) and isfinite(change.error_after)):
            raise NumericsError(f"errors of {change.site.node!r} must be finite")
    inputs = {"structure": plan.structure_digest, "weights": plan.weights_digest}
    named = None
    if plan.weights is not None:
        write_weights(plan.weights, weights_file(path))
        named = NamedWeights(weights_file(path).name, plan.weights.digest)
    return write_artifact(path, "plan", _to_content(plan, named), version=VERSION, inputs=inputs)


def weights_file(path: Path) -> Path:
    """Return where the weights that the plan at ``path`` changes are written."""
    return path.with_name(path.stem + SUFFIX)


def remove_plan(path: Path) -> None:
    """Remove the plan at ``path``, if there is one, and the weights beside it."""
    path.unlink(missing_ok=True)
    weights_file(path).unlink(missing_ok=True)


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        ArtifactError: The file is missing, damaged, of another version, or has unknown fields.
        PlanError: It requires a feature that this version lacks, or contradicts itself.
    """
    path = Path(path)
    plan = _from_content(read_artifact(path, "plan", PlanContent, version=VERSION), path.parent)
    unknown = sorted(set(plan.requires) - KNOWN_FEATURES)
    if unknown:
        raise PlanError(
            f"{path.name}: the plan requires {', '.join(unknown)}, which this version does not know"
        )
    if ("weights" in plan.requires) != (plan.weights is not None):
        raise PlanError(f"{path.name}: a plan requires weights where it names them, and only there")
    foreign = sorted(set(plan.transforms) - KNOWN_TRANSFORMS)
    if foreign:
        raise PlanError(
            f"{path.name}: transforms must be among {', '.join(sorted(KNOWN_TRANSFORMS))}, got {foreign[0]!r}"
        )
    if plan.weights is None and (plan.recovery or plan.transforms or plan.changes):
        raise PlanError(
            f"{path.name}: a plan that was recovered or transformed must bring the weights that this changed"
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
    changed = [change.site.node for change in plan.changes]
    decided = {decision.site.node for decision in plan.decisions}
    wrong = [name for name in changed if name not in decided or changed.count(name) > 1]
    if wrong:
        raise PlanError(
            f"{path.name}: a change must be of a site that the plan decides, and one a site, got {wrong[0]!r}"
        )
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


@dataclass(frozen=True, slots=True)
class NamedWeights:
    """The file beside the plan that holds the tensors that it changes, and its SHA-256."""

    file: Annotated[_FileName, Field(min_length=1)]
    digest: _Digest


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
    weights: NamedWeights | None = None
    recovery: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    changes: tuple[Change, ...] = ()

    @model_serializer(mode="wrap")
    def _leave_out_weights(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plan that changes no weights says nothing of them, as before there were any."""
        found: dict[str, Any] = serialise(self)
        for name in ("weights", "recovery", "changes"):
            if not getattr(self, name):
                found.pop(name, None)
        return found


def _to_content(plan: Plan, weights: NamedWeights | None) -> PlanContent:
    own = {f.name: getattr(plan, f.name) for f in fields(plan)} | {"weights": weights}
    figures = {
        name: {key: Figure(*map(float, value)) for key, value in own[name].items()}
        for name in ("predicted", "measured")
    }
    return PlanContent(**(own | figures))


def _from_content(content: PlanContent, folder: Path) -> Plan:
    own = {f.name: getattr(content, f.name) for f in fields(Plan)}
    estimates = {
        name: {key: Estimate(value.mean, value.stderr) for key, value in own[name].items()}
        for name in ("predicted", "measured")
    }
    named = content.weights
    weights = None if named is None else PlanWeights(named.digest, path=folder / named.file)
    return Plan(**(own | estimates | {"weights": weights}))
