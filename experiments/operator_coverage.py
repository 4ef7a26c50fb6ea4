"""Count ONNX's own operator tests that pass: natively, with fallback, and in onnxruntime itself.

Run from the repository: ``python -m experiments.operator_coverage``.
"""

import warnings
from collections import Counter
from typing import Any

import onnxruntime

from tests.support.backend_cases import arrays_of, check_equal, load_cases, output_types
from tests.support.protos import program_of, run_arrays


def run_ours(case: Any) -> str:
    """``native``, ``fallback`` or ``fails``."""
    try:
        program = program_of(case.model)
        for inputs, expected in case.data_sets:
            check_equal(
                run_arrays(program, arrays_of(inputs), output_types(case.model)), expected, case
            )
    except Exception:  # every way to fail counts the same
        return "fails"
    return "fallback" if program.fallbacks() else "native"


def run_onnxruntime(case: Any) -> bool:
    """Whether onnxruntime passes the case."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]
        for inputs, expected in case.data_sets:
            feeds = dict(zip(names, arrays_of(inputs), strict=True))
            check_equal(session.run(None, feeds), expected, case)
    except Exception:  # every way to fail counts the same
        return False
    return True


def main() -> None:
    warnings.simplefilter("ignore")
    cases = list(load_cases())
    ours = Counter(run_ours(case) for case in cases)
    theirs = sum(run_onnxruntime(case) for case in cases)
    print(f"in scope            {len(cases)}")
    print(f"native              {ours['native']}")
    print(f"native or fallback  {ours['native'] + ours['fallback']}")
    print(f"onnxruntime         {theirs}")


if __name__ == "__main__":
    main()
