"""Write the tables of ``docs/targets.md`` from the files of the targets: ``python -m experiments.targets_doc``."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from mpsearch.space.storage import CANONICAL, Storage
from mpsearch.space.targets import Target, TargetRule, list_targets, read_target
from mpsearch.verify import lint, lint_rules

DOCS = Path(__file__).parents[1] / "docs" / "targets.md"
BEGIN, END = (
    "<!-- tables of targets; written by experiments/targets_doc.py -->\n",
    "<!-- end of tables -->\n",
)
_UNSAID = {"id", "source", "severity", "todo", "reason", "extensions"}


def with_tables(text: str) -> str:
    """Return the page with the tables of now."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


def tables() -> str:
    """Return what is known of each target, its rules, and the rules of any plan."""
    targets = [read_target(name) for name in list_targets()]
    lines = [
        "| target | runtime | exporter | proof | ONNX opset | bases | schemes | stored |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, targets),
    ]
    for target in targets:
        lines += ["", f"### {target.name}", "", f"{target.description}. Sources:", ""]
        lines += [f"- {source}" for source in target.sources]
        lines += ["", "| rule | | layers | schemes | says | source |", "|---|---|---|---|---|---|"]
        lines += [_rule(rule) for rule in target.rules]
        lines += [
            f"| `{fused.id}` | group | modules `{_cell(fused.pattern)}` | all | {_cell(fused.reason)} | {_cell(fused.source)} |"
            for fused in target.groups
        ]
    lines += ["", "### Any plan", "", "| rule | | found |", "|---|---|---|"]
    lines += [
        f"| `{rule}` | {severity} | {_cell(what)} |" for rule, severity, what in common_rules()
    ]
    return "\n".join(lines)


def common_rules() -> Iterator[tuple[str, str, str]]:
    """Yield id, severity and meaning of each rule that holds for any target."""
    for module in (lint, lint_rules):
        for function in ast.parse(inspect.getsource(module)).body:
            if isinstance(function, ast.FunctionDef):
                yield from _findings(function)


def _findings(function: ast.FunctionDef) -> Iterator[tuple[str, str, str]]:
    said = (ast.get_docstring(function) or "").partition("\n")[0]
    for call in ast.walk(function):
        if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "Finding":
            continue
        if len(call.args) > 1:
            severity, rule = call.args[0], call.args[1]
            if isinstance(severity, ast.Constant) and isinstance(rule, ast.Constant):
                what = said.removeprefix("Yield ").removeprefix("that ").rstrip(".")
                yield str(rule.value), str(severity.value), what


def _row(target: Target) -> str:
    cells = (
        f"`{target.name}`",
        target.version,
        f"`{target.exporter}`",
        target.proof,
        str(target.opset or "–"),
        ", ".join(target.bases) + (", one a plan" if target.one_base else ""),
        ", ".join(f"`{name}`" for name in target.schemes),
        _storage(target.storage),
    )
    return f"| {' | '.join(map(_cell, cells))} |"


def _rule(rule: TargetRule) -> str:
    fields = type(rule).model_fields
    taken = [f"without {', '.join(rule.forbid)}" if rule.forbid else ""]
    if rule.allow is not None:
        taken.append(f"only {', '.join(rule.allow)}")
    conditions = [
        f"{name} {getattr(rule, name)}"
        for name in fields
        if name not in _UNSAID | {"allow", "forbid"} and getattr(rule, name) != fields[name].default
    ]
    cells = (
        f"`{rule.id}`",
        rule.severity,
        ", ".join(conditions) or "all",
        "; ".join(filter(None, taken)),
        rule.reason + (f"; do: {rule.todo}" if rule.todo else ""),
        rule.source,
    )
    return f"| {' | '.join(map(_cell, cells))} |"


def _storage(storage: Storage) -> str:
    said = [
        f"{name} {getattr(storage, name)}"
        for name in Storage.__slots__
        if getattr(storage, name) != getattr(CANONICAL, name)
    ]
    return ", ".join(said) or "as plain ONNX"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    DOCS.write_text(with_tables(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
