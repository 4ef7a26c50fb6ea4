"""The command that makes an engine of an export."""

import shlex

from mpsearch.graph.model import ModelGraph
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan

_TEXT = """\
#!/bin/sh
# Builds model.plan of model.onnx with trtexec of TensorRT 11. mpsearch has no GPU to run it on: unproven there.
# Networks are strongly typed: precision stands in the ONNX file, and TensorRT 11 has no flags for it.
# --stronglyTyped says so to TensorRT 10; 11 always is, and ignores it. --noTF32: fp32 layers were measured in fp32.
set -eu
cd "$(dirname "$0")"
{sizes}exec "${{TRTEXEC:-trtexec}}" \\
{options}
"""
_SIZES = """\
: "${MIN:=1}" "${OPT:=8}" "${MAX:=32}"  # of every free axis, the batch
"""


def build_script(plan: Plan, graph: ModelGraph) -> str:
    """Return a shell script that builds the engine of ``plan`` beside it.

    Args:
        plan: Gives the inputs' sizes; free axes are variables of the shell.
        graph: The folded model.
    """
    options = ["--onnx=model.onnx", "--saveEngine=model.plan", "--stronglyTyped"]
    if any(scheme.sparsity is not None for scheme in plan_schemes(plan, graph)):
        options.append("--sparsity=enable")
    options.append("--noTF32")
    free = {name: sizes for name, sizes in plan.shapes.items() if None in sizes}
    if free:
        options += [
            f"--{option}Shapes="
            + ",".join(_shape(name, sizes, variable) for name, sizes in free.items())
            for option, variable in (("min", "MIN"), ("opt", "OPT"), ("max", "MAX"))
        ]
    lines = [f"  {option}" for option in (*options, '"$@"')]
    return _TEXT.format(sizes=_SIZES if free else "", options=" \\\n".join(lines))


def _shape(name: str, sizes: tuple[int | None, ...], variable: str) -> str:
    """One input's sizes as trtexec reads them, its name in quotes of trtexec's inside those of the shell."""
    dims = "x".join(f'"${variable}"' if size is None else str(size) for size in sizes)
    return f"{shlex.quote(_quoted(name))}:{dims}"


def _quoted(name: str) -> str:
    """The name in single quotes, which trtexec wants where it holds a colon, a comma or a quote."""
    return f"'{name}'" if any(mark in name for mark in ":,'") else name
