"""What a target makes of a plan before anything is exported: findings by rule, each with its source and what to do."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsearch.errors import PlanError
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.files import read_plan
from mpsearch.plan.match import check_weights, import_structure
from mpsearch.plan.plan import Plan
from mpsearch.registry import list_names
from mpsearch.space.targets import Severity, find_target
from mpsearch.verify.lint_rules import RULES, Finding, Linted

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Lint:
    """What was found.

    Attributes:
        plan: Name of the plan's file, or of its model.
        target: Name of the target or exporter.
        exporter: What would write it.
        proof: What proves such an export here, or that nothing does.
        findings: Errors first.
        with_model: Whether rules on sizes, operators and groups were checked.
    """

    plan: str
    target: str
    exporter: str
    proof: str
    findings: tuple[Finding, ...]
    with_model: bool

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What the target refuses or computes wrongly."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def __str__(self) -> str:
        counts = Counter(finding.severity for finding in self.findings)
        total = ", ".join(f"{counts[word]} {word}s" for word in _ORDER)
        lines = [f"{self.plan} for {self.target}: {total}; {self.proof}"]
        alike: dict[tuple[str, ...], list[Finding]] = {}
        for one in self.findings:
            key = (one.layer,) if one.severity == "error" else ()
            alike.setdefault((*key, one.rule, one.says, one.scheme), []).append(one)
        return "\n".join((*lines, *map(_say, alike.values())))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "plan": self.plan,
            "target": self.target,
            "exporter": self.exporter,
            "proof": self.proof,
            "with_model": self.with_model,
            "ok": not self.errors,
            "findings": [
                {
                    "severity": finding.severity,
                    "rule": finding.rule,
                    "layer": finding.layer,
                    "scheme": finding.scheme,
                    "says": finding.says,
                    "source": finding.source,
                    "todo": finding.todo,
                }
                for finding in self.findings
            ],
        }


def _say(findings: list[Finding]) -> str:
    """One line of findings that say the same of several layers."""
    more = [finding.layer for finding in findings[1:]]
    some = ", ".join(map(repr, more[:3])) + (", …" if len(more) > 3 else "")
    return f"{findings[0]}" + (f"; also {some}" if more else "")


def lint_file(path: Path, target: str, model: Path | None = None) -> Lint:
    """Return what ``target`` makes of the plan file at ``path``; see :func:`lint_plan`.

    Raises:
        ArtifactError: The file is missing, damaged or of another version.
        PlanError: It contradicts itself.
        UnknownNameError: There is no such target.
        ModelError: The model cannot be read.
    """
    return lint_plan(read_plan(path), target, model, path=path)


def lint_plan(
    plan: Plan, target: str, model: Path | None = None, *, path: Path | None = None
) -> Lint:
    """Return what ``target`` makes of ``plan``.

    Args:
        plan: A plan.
        target: Name of a target, or of an exporter, which has no rules but its own limits.
        model: The plan's model; without it rules on sizes, operators and groups are not checked, and that is said.
        path: The plan's file, where it has one: what it names must lie beside it.

    Raises:
        UnknownNameError: There is no such target.
        ModelError: The model cannot be read.
    """
    exporter, facts = find_target(target)
    findings: list[Finding] = []
    graph = None
    if model is not None:
        graph, findings = _fitting_graph(plan, model)
    linted = Linted(plan, exporter, facts, graph, path, exporter in list_names("exporters"))
    for rule in RULES:
        findings += rule(linted)
    findings.sort(key=lambda finding: _ORDER.index(finding.severity))
    proof = facts.proof if facts is not None else "no target was named: only its exporter's limits"
    name = path.name if path is not None else plan.model
    return Lint(name, target, exporter, proof, tuple(findings), graph is not None)


def _fitting_graph(plan: Plan, model: Path) -> tuple[ModelGraph | None, list[Finding]]:
    """The plan is for another model, or has been made for other weights of it."""
    try:
        graph = import_structure(plan, model)
    except PlanError as error:
        todo = "give the plan's own model"
        return None, [Finding("error", "other-model", str(error), "plan format", todo)]
    try:
        check_weights(plan, graph)
    except PlanError as error:
        todo = "export and verify with --recalibrate and calibration data, or search anew"
        return graph, [Finding("error", "other-weights", str(error), "plan format", todo)]
    return graph, []
