"""One node in onnxruntime and in a program: the same, refused, or different."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from mpsearch.errors import MpsearchError
from mpsearch.graph.importer import import_model
from mpsearch.program.compile import compile_graph
from tests.support.protos import run_arrays
from tests.support.random_operators.draw import Case

Verdict = Literal["same", "refused", "oracle refuses", "differs", "traceback"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case: ``refused`` is one line of ours, ``oracle refuses`` one of the oracle's."""

    verdict: Verdict
    message: str = ""

    @property
    def is_right(self) -> bool:
        return self.verdict in ("same", "refused", "oracle refuses")


def run_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Return the outputs; graph optimisations are off, since they are not the standard."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def is_fault_of_onnxruntime(case: Case) -> bool:
    """Whether onnxruntime alone departs from the standard here: then the reference evaluator is asked."""
    if case.op_type == "Attention":  # one query after a past, causal: it looks at all new keys
        queries = case.inputs[0]
        past = len(case.inputs) > 4 and case.inputs[4] is not None
        return bool(past and case.attributes.get("is_causal") and queries.shape[2] == 1)  # type: ignore[union-attr]
    if case.op_type == "AffineGrid":  # a single element on corners: the last corner, not the first
        sizes = case.inputs[1].tolist()[2:]  # type: ignore[union-attr]
        return bool(case.attributes.get("align_corners")) and 1 in sizes
    return False


def compare(case: Case) -> Outcome:
    """Return how the program of ``case`` compares with onnxruntime."""
    model, feeds = case.model(), case.feeds()
    try:
        with np.errstate(all="ignore"):
            expected = run_onnxruntime(model, feeds)
            if is_fault_of_onnxruntime(case):
                expected = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # onnxruntime's own have no common base
        return Outcome("oracle refuses", str(error).splitlines()[0])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            graph = import_model(model, "case.onnx", Path())
            program = compile_graph(graph)
            given = [feeds[name] for name in program.inputs]
            types = [np.asarray(y).dtype.name for y in expected]
            found = run_arrays(program, given, types)
    except MpsearchError as error:
        text = str(error)
        return Outcome("refused" if "\n" not in text else "traceback", text)
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {error}")
    for i, (got, want) in enumerate(zip(found, expected, strict=True)):
        wrong = difference(got, np.asarray(want), case)
        if wrong:
            return Outcome("differs", f"output {i}: {wrong}")
    return Outcome("same")


def difference(got: NDArray[Any], want: NDArray[Any], case: Case) -> str:
    """Return "" where two arrays are the same up to the rounding of their type, else how they differ."""
    if got.shape != want.shape:
        return f"shape {list(got.shape)}, onnxruntime {list(want.shape)}"
    if want.dtype.kind not in "fc" or not want.size:
        if case.op_type.startswith(
            ("QLinear", "Quantize", "DynamicQuantize")
        ):  # a half, either way
            close = np.abs(got.astype(np.int64) - want.astype(np.int64)).max(initial=0) <= 1
            return "" if close else f"{got.tolist()} is not {want.tolist()}"
        return "" if np.array_equal(got, want) else f"{got.tolist()} is not {want.tolist()}"
    wide, right = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isnan(wide), np.isnan(right)):
        return f"{got.tolist()} is not {want.tolist()}"
    halves = any(x is not None and x.dtype == np.float16 for x in case.inputs)
    tolerance = 4e-3 if halves else 1e-4
    finite = right[np.isfinite(right)]
    edge = tolerance * np.abs(finite).max(initial=0) + tolerance / 10
    with np.errstate(invalid="ignore"):
        off = np.abs(wide - right)
    off = np.where((wide == right) | np.isnan(right), 0, off)
    if not (off <= edge).all():
        return f"{off.max():.2g} off, of {np.abs(finite).max(initial=0):.2g}: {got.tolist()} is not {want.tolist()}"
    return ""
