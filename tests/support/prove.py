"""The whole way of a model: import, simulation against onnxruntime, export, verification in every runtime."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from mpsearch.data.batches import make_batches
from mpsearch.errors import MpsearchError
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.schemes import find_scheme
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from mpsearch.verify.verify_plan import verify_plan
from tests.support.random_operators.compare import run_onnxruntime

Array = NDArray[np.generic]
SCHEMES = ("fp16", "bf16", "fp8", "int8", "nvfp4", "mxfp8", "w4a16_g32", "fp8_dynamic", "fp32")
RUNTIMES = ("onnxruntime", "reference", "openvino")


@dataclass(frozen=True, slots=True)
class Step:
    """What one stage gave.

    Attributes:
        stage: Its name.
        verdict: ``refused``: one line that names what to mend; ``own fault``: a verification found that the
            runtime computes the user's own model wrongly.
        message: What was said.
    """

    stage: str
    verdict: Literal["right", "refused", "own fault", "no oracle", "differs", "traceback"]
    message: str = ""

    def __str__(self) -> str:
        return f"{self.stage} {self.verdict}: {self.message}"


def prove(
    model: onnx.ModelProto, x: Mapping[str, Array], seed: int, folder: Path, *, rows: int = 4
) -> list[Step]:
    """Return what each stage gave, up to the first that went wrong.

    Args:
        model: Any model whose inputs have samples along axis 0.
        x: Inputs, ``rows`` samples or more.
        seed: Chooses a scheme for each group.
        folder: Where files go.
        rows: Samples that one run takes.
    """
    steps: list[Step] = []
    onnx.save(model, folder / "m.onnx")
    stage = "import"
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            graph = import_onnx(folder / "m.onnx")
            stage = "simulate"
            batches = make_batches(dict(x), batch_size=rows)
            rng = np.random.default_rng(seed)
            base = str(rng.choice(["fp16", "fp16", "bf16", "fp32"]))
            names = [base, *(n for n in SCHEMES if n != base)]
            space = SearchSpace("sweep", tuple(map(find_scheme, names)), base)
            simulator = Simulator(graph, space, batches)
            first = {name: array[:rows] for name, array in x.items()}
            steps.append(compare_fp32(model, simulator, first))
            if steps[-1].verdict == "differs":
                return steps
            stage = "export"
            chosen = tuple(
                int(rng.choice(np.flatnonzero(simulator.allowed[g])))
                for g in range(len(graph.groups))
            )
            plan = make_plan(Point(chosen, {}), simulator)
            export_plan(plan, folder / "m.onnx", folder / "out")
            steps.append(Step(stage, "right"))
    except MpsearchError as error:
        return [*steps, _refusal(stage, error)]
    except Exception as error:
        return [*steps, Step(stage, "traceback", f"{type(error).__name__}: {error}")]
    given = [names[c] for c in chosen]
    found = [verified(plan, folder, batches, runtime, given) for runtime in RUNTIMES]
    return steps + [
        Step(step.stage, "own fault", step.message)
        if step.verdict == "differs" and fails_alone(model, first, runtime)
        else step
        for step, runtime in zip(found, RUNTIMES, strict=True)
    ]


def fails_alone(model: onnx.ModelProto, first: Mapping[str, Array], runtime: str) -> bool:
    """Whether a runtime departs from onnxruntime on the user's own model: then a difference is its fault."""
    expected = run_onnxruntime(model, dict(first))
    if runtime == "onnxruntime":
        return False
    if runtime == "reference":
        found = ReferenceEvaluator(model).run(None, dict(first))
    else:
        openvino = import_module("openvino")
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
        results = compiled(dict(first))
        found = [results[i] for i in range(len(expected))]
    return not all(
        np.allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
        for got, want in zip(found, expected, strict=True)
    )


def _refusal(stage: str, error: MpsearchError) -> Step:
    text = str(error)
    return Step(stage, "refused" if text and "\n" not in text else "traceback", text)


def compare_fp32(model: onnx.ModelProto, simulator: Simulator, first: Mapping[str, Array]) -> Step:
    """Return how the fp32 program compares with onnxruntime, or the reference where that has no kernel."""
    try:
        expected = run_onnxruntime(model, dict(first))
    except Exception:  # onnxruntime's own have no common base
        try:
            expected = ReferenceEvaluator(model).run(None, dict(first))
        except Exception as error:
            return Step("fp32", "no oracle", str(error))  # bf16 in a grouped ConvTranspose, say
    found = simulator.run(dict(first))
    narrow = {10: 4e-3, 16: 4e-2}
    kinds = {t.data_type for t in model.graph.initializer}
    tolerance = max([1e-4, *(narrow[k] for k in kinds & narrow.keys())])
    for output, want in zip(model.graph.output, expected, strict=True):
        got = found[output.name].double().numpy()
        right = np.asarray(want).astype(np.float64)
        if got.shape != right.shape:
            return Step("fp32", "differs", f"{output.name}: {got.shape}, right is {right.shape}")
        if not np.allclose(
            got, right, rtol=0, atol=tolerance * (np.abs(right).max(initial=0) + 0.1)
        ):
            return Step("fp32", "differs", f"{output.name}: {np.abs(got - right).max():.2g} off")
    return Step("fp32", "right")


def verified(plan: Any, folder: Path, batches: Any, runtime: str, schemes: list[str]) -> Step:
    """Return what a verification gave; of the plan ``schemes``."""
    stage = f"verify in {runtime}"
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = verify_plan(plan, folder / "m.onnx", folder / "out", batches, runtime=runtime)
    except MpsearchError as error:
        return _refusal(stage, error)
    except Exception as error:
        return Step(stage, "traceback", f"{type(error).__name__}: {error}")
    return Step(stage, "right") if found.ok else Step(stage, "differs", f"{schemes} {found}")
