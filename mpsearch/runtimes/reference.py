"""``onnx.reference``: the standard's own evaluator. Exact and slow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from mpsearch.errors import MpsearchError, PlanError
from mpsearch.runtimes.file_rounding import read_rounding, widen_products
from mpsearch.runtimes.rounding import EXACT, Rounding
from mpsearch.runtimes.session import Array, Session, load_model, run_error

_NOTE = "products of 16-bit operators are summed in fp32, as on a GPU"


@dataclass(frozen=True, slots=True)
class ReferenceSession:
    """An exported model in the reference evaluator."""

    evaluator: ReferenceEvaluator
    rounding: Rounding = EXACT
    is_standard: bool = True
    note: str = ""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named values, intermediate ones included.

        Raises:
            PlanError: An operator fails; the message names its node.
        """
        try:
            with np.errstate(all="ignore"):  # blocks of zeros are divided by, and chosen away
                found = self.evaluator.run(list(outputs), dict(inputs))
        except Exception as error:  # numpy and Python raise whatever they like
            raise run_error("reference", error, _failed_node(error)) from None
        return dict(zip(outputs, found, strict=True))


def _failed_node(error: Exception) -> str:
    """The model's node that was running when ``error`` was raised, as the trace knows it."""
    trace = error.__traceback__
    while trace is not None:
        running = trace.tb_frame.f_locals.get("self")
        if isinstance(running, OpRun):
            node = running.onnx_node
            return f"{(node.name or node.output[0])!r} ({node.op_type})"
        trace = trace.tb_next
    return ""


def open_session(path: Path) -> Session:
    """Open an export in ONNX's reference evaluator: every format, exact and slow.

    Raises:
        ModelError: It cannot be read.
        PlanError: It holds an operator that is not of the standard, or a node that is not well-formed.
    """
    model = load_model(path)
    rounding = read_rounding(model)
    note = _NOTE if widen_products(model) else ""
    try:
        return ReferenceSession(ReferenceEvaluator(model), rounding, note=note)
    except NotImplementedError as error:
        reason = str(error).partition(", schema.")[0].splitlines()[0]
        raise PlanError(
            f"{path.name} must hold standard operators alone to run in onnx.reference: {reason}; "
            "take the runtime onnxruntime or openvino"
        ) from None
    except MpsearchError:
        raise
    except Exception as error:  # whatever its operators raise of nodes that are none of theirs
        raise run_error("reference", error) from None
