"""``python -m experiments.target_matrix``: which scheme runs on which target, proven in which runtime.

Every cell is an export of a small network in which the scheme is used wherever the target's rules allow it, run in the runtimes
that are installed. Writes ``docs/target-matrix.md`` and ``experiments/results/target_matrix.json``.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpsearch.data.batches import Batches, make_batches
from mpsearch.errors import MpsearchError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.schemes import Scheme, Spec, find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import allowed, uniform
from mpsearch.space.space import SearchSpace
from mpsearch.space.targets import list_targets, read_target
from mpsearch.verify.verification import Verification
from mpsearch.verify.verify_plan import verify_plan

SCHEMES = (
    "nvfp4", "nvfp4a16", "mxfp4", "mxfp8", "fp8", "fp8_tensor", "e5m2", "fp16", "bf16", "int8", "w4a16_g64",
    "fp8_2of4", "int8_2of4",
)  # fmt: skip
CANONICAL = "canonical ONNX"
RUNTIMES: Mapping[str, Sequence[str]] = {
    CANONICAL: ("reference", "openvino"),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime",),
    "iree": ("iree",),
    "tensorrt": ("reference",),
    "npu": ("reference",),
    "vllm": ("transformers",),
}
"""Target to the runtimes that run its export here; what a target is meant for may not be among them."""
PACKAGES = (
    "onnx", "openvino", "onnxruntime", "iree-base-compiler", "transformers", "compressed-tensors", "torch",
)  # fmt: skip
OUT = Path("docs/target-matrix.md")
RESULT = Path("experiments/results/target_matrix.json")


@dataclass(frozen=True, slots=True)
class Proof:
    """What one runtime made of an export.

    Attributes:
        ok: It computes what the plan says.
        layer_error: Largest relative error of a layer on its own inputs.
        divergence: Of the whole model's outputs from the simulation's.
        plan_divergence: Of the simulation's from fp32: what the plan itself changes.
        reason: Why it does not run; "" where it does.
        defaults: What default optimisations make of it; "" where there are no others.
    """

    ok: bool
    layer_error: float = 0.0
    divergence: float = 0.0
    plan_divergence: float = 0.0
    reason: str = ""
    defaults: str = ""

    @property
    def share(self) -> float:
        """Divergence of the runtime as a share of the plan's own."""
        return max(self.divergence, 0.0) / max(self.plan_divergence, 1e-12)


@dataclass(frozen=True, slots=True)
class Cell:
    """A scheme on a target.

    Attributes:
        layers: Layers in the scheme, and all.
        refused: The rule that forbids the scheme for every layer; "" where some layer takes it.
        partly: Why other layers do not take it.
        proofs: Runtime to what it made of the export.
        unproven: What a proof would need, of the target itself.
    """

    layers: tuple[int, int] = (0, 0)
    refused: str = ""
    partly: str = ""
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    unproven: str = ""


def scheme_of(name: str) -> Scheme:
    if name == "e5m2":
        return Scheme(name, Spec("e5m2", "channel"), Spec("e5m2"))
    return find_scheme(name)


def network() -> onnx.ModelProto:
    """Convolutions and products whose reductions every block divides, with Relus between them."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        gain = 1.6 / np.sqrt(np.prod(shape[1:]))
        return (rng.standard_normal(shape) * gain).astype("float32")

    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "stem", pads=[1] * 4),
        node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], "inner"),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("GlobalAveragePool", ["r1"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "w2", "b2"], ["h"], "wide", transB=1),
        node("Relu", ["h"], ["r2"], "relu2"),
        node("MatMul", ["r2", "w3"], ["m"], "product"),
        node("Gemm", ["m", "w4", "b4"], ["z"], "head"),
        node("Softmax", ["z"], ["y"], "softmax", axis=-1),
    ]
    weights = {
        **{"w0": normal(64, 64, 3, 3), "b0": normal(64) / 8, "w1": normal(128, 64, 1, 1)},
        **{"b1": normal(128) / 8, "w2": normal(128, 128), "b2": normal(128) / 8},
        **{"w3": normal(128, 128), "w4": normal(128, 10), "b4": normal(10)},
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def find_cell(
    target: str, scheme: Scheme, model: Path | ModelGraph, batches: Batches, base: str, **more: Any
) -> Cell:
    """Return what becomes of a network in ``scheme`` on ``target``.

    Args:
        target: Name of a target, or :data:`CANONICAL`.
        scheme: What layers are in wherever they may be.
        model: The network.
        batches: Its data.
        base: What the other layers are in.
        **more: For the export.
    """
    facts = None if target == CANONICAL else read_target(target)
    space = SearchSpace("matrix", tuple(dict.fromkeys((find_scheme(base), scheme))), base)
    if facts is not None:
        space = replace(space, target=target, runtime=facts, fusing=facts.fusing)
    unproven = "" if facts is None else facts.unproven
    try:
        graph = model if isinstance(model, ModelGraph) else import_onnx(model)
        mask, reasons = allowed(space, graph)
        why = next((r for (_, name), r in reasons.items() if name == scheme.name), "")
        n_layers = sum(len(g.layers) for g, ok in zip(graph.groups, mask[:, -1], strict=True) if ok)
        if not RUNTIMES.get(target) or not n_layers:
            refused = "" if n_layers else why or "no layer can take it"
            return Cell((n_layers, len(graph.layers)), refused, why, {}, unproven)
        simulator = Simulator(graph, space, batches)
        chosen = uniform(space, simulator.graph, scheme.name, mask & simulator.allowed)
    except MpsearchError as error:
        return Cell(refused=str(error), unproven=unproven)
    index = space.index(scheme.name)
    layers = sum(len(g.layers) for g, s in zip(graph.groups, chosen, strict=True) if s == index)
    plan = make_plan(Point(tuple(map(int, chosen)), {}), simulator)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        export_plan(plan, model, out, target="onnx" if facts is None else target, **more)
        proofs = {
            runtime: prove(lambda r=runtime: verify_plan(plan, model, out, batches, runtime=r))
            for runtime in RUNTIMES.get(target, ())
        }
    return Cell((layers, len(graph.layers)), "", why, proofs, unproven)


def prove(verify: Any) -> Proof:
    """Return what a verification gave."""
    try:
        found: Verification = verify()
    except MpsearchError as error:
        return Proof(False, reason=str(error).splitlines()[0])
    assert found.whole is not None  # nothing here departs from the standard
    worst = 0.0 if found.worst is None else found.worst.error
    return Proof(
        found.ok,
        worst,
        found.whole.runtime,
        found.whole.simulation,
        defaults="" if found.deployed is None else str(found.deployed),
    )


def read_cells(found: Mapping[str, Any]) -> dict[str, dict[str, Cell]]:
    """Return target → scheme → cell of a results file."""
    return {
        target: {
            name: Cell(**cell | {"proofs": {r: Proof(**p) for r, p in cell["proofs"].items()}})
            for name, cell in row.items()
        }
        for target, row in found["cells"].items()
    }


def told(cell: Cell) -> str:
    """Return a cell as the table has it."""
    if cell.refused:
        return "refused"
    ran = {name: p for name, p in cell.proofs.items() if not p.reason}
    parts = [
        f"{'equal' if p.ok else '**differs**'} in {name} ({p.layer_error:.0e}, {p.share:.1%})"
        for name, p in ran.items()
    ]
    if cell.unproven:
        parts.append("itself unproven here" if parts else "unproven here")
    if not parts:
        return "unproven here"
    n, total = cell.layers
    some = f"{n} of {total} layers: " if n < total else ""
    return some + "; ".join(parts)


def write_page(cells: Mapping[str, Mapping[str, Cell]], versions: Mapping[str, str]) -> str:
    lines = [
        "# Schemes and targets",
        "",
        "Written by `python -m experiments.target_matrix`; all figures are in `experiments/results/target_matrix.json`.",
        "",
        "*Equal in R (e, s)*: every layer, fed the runtime's own inputs, is within 1e-3 of the simulation (e: the largest relative",
        "error), and the outputs diverge from the simulation's by the share s of what the plan itself changes, or by less than 1e-6",
        "in all (a plan that changes next to nothing can have any share). *Refused*: by rule, below. *Unproven here*: the runtime needs what this machine lacks. Layers",
        "that a rule keeps out stay in the base, fp32 (of checkpoints bf16). The network: two convolutions, two Gemms, a MatMul; checkpoints: a",
        "Llama of two blocks. Versions: "
        + ", ".join(f"{n} {v}" for n, v in versions.items())
        + ".",
        "",
    ]
    for target, row in cells.items():
        title = target if target == CANONICAL else f"{target}: {read_target(target).description}"
        lines += [f"## {title}", "", "| scheme | proof |", "|---|---|"]
        lines += [f"| {name} | {told(cell)} |" for name, cell in row.items()]
        lines.append("")
        reasons: dict[str, list[str]] = {}
        for name, cell in row.items():
            if why := cell.refused or cell.partly or "":
                reasons.setdefault(_reason(why), []).append(name)
        lines += [f"- {', '.join(names)}: {why}" for why, names in reasons.items()]
        failures: dict[str, list[str]] = {}
        for name, cell in row.items():
            for runtime, proof in cell.proofs.items():
                if proof.reason:
                    failures.setdefault(f"{runtime} does not run", []).append(name)
        lines += [f"- {why}: {', '.join(names)}" for why, names in failures.items()]
        optimised = {n: p.defaults for n, c in row.items() for p in c.proofs.values() if p.defaults}
        lines += [
            f"- {name} with default optimisations: {text}" for name, text in optimised.items()
        ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _reason(text: str) -> str:
    """A reason without the layer that it was said of."""
    text = text.splitlines()[0]
    return text.partition(": ")[2] if text.startswith("'") else text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.target_matrix", description=__doc__
    )
    parser.add_argument(
        "--targets", nargs="+", metavar="NAME", help="only these; nothing is written"
    )
    parser.add_argument("--schemes", nargs="+", metavar="NAME", default=SCHEMES)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names = arguments.targets or (CANONICAL, *list_targets())
    cells = {}
    for target in names:
        cells[target] = measure(target, arguments.schemes)
        print(target, {name: told(cell) for name, cell in cells[target].items()}, flush=True)
    versions = {name: _version(name) for name in PACKAGES}
    page = write_page(cells, versions)
    if arguments.targets:
        print(page)
        return
    found = {target: {n: asdict(c) for n, c in row.items()} for target, row in cells.items()}
    RESULT.write_text(json.dumps({"versions": versions, "cells": found}, indent=1) + "\n")
    OUT.write_text(page)


def measure(target: str, schemes: Sequence[str]) -> dict[str, Cell]:
    """Return the cells of one target."""
    if target != CANONICAL and read_target(target).exporter in _CHECKPOINTS:
        from tests.support.llama import make_llama

        made = make_llama()
        config = {"config": made.folder}
        return {
            name: find_cell(target, scheme_of(name), made.graph, made.batches, "bf16", **config)
            for name in schemes
        }
    x = np.random.default_rng(1).standard_normal((8, 64, 6, 6)).astype("float32")
    batches = make_batches({"x": x}, batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(network(), path)
        return {name: find_cell(target, scheme_of(name), path, batches, "fp32") for name in schemes}


_CHECKPOINTS = ("compressed_tensors", "modelopt", "torchao")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
