"""``onnx.reference``: the standard's own evaluator. Exact and slow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx.reference import ReferenceEvaluator

from mpsearch.errors import PlanError
from mpsearch.runtimes.rounding import EXACT, Rounding
from mpsearch.runtimes.session import Array, Session, load_model


@dataclass(frozen=True, slots=True)
class ReferenceSession:
    """An exported model in the reference evaluator."""

    evaluator: ReferenceEvaluator
    rounding: Rounding = EXACT
    note: str = ""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named values, intermediate ones included."""
        found = self.evaluator.run(list(outputs), dict(inputs))
        return dict(zip(outputs, found, strict=True))


def open_session(path: Path) -> Session:
    """Return the exported model in ``path``, ready to run.

    Raises:
        ModelError: It cannot be read.
        PlanError: It holds an operator that is not of the standard.
    """
    try:
        return ReferenceSession(ReferenceEvaluator(load_model(path)))
    except NotImplementedError as error:
        raise PlanError(
            f"{path} must hold standard operators alone to run in onnx.reference: {error} "
            "Take the runtime onnxruntime or openvino"
        ) from None
