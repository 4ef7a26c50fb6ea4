"""Random nodes of every native operator, all attributes and types, equal onnxruntime.

A case is drawn from its operator's name and a number, so a failure names what repeats it. The long sweep
runs with ``-m slow``, in slices by ``-k``; MPSEARCH_CASES sets how many cases an operator has.
"""

import os

import pytest

from mpsearch.program.operators.table import OPERATORS
from tests.support.random_operators.compare import compare
from tests.support.random_operators.draw import MICROSOFT
from tests.support.random_operators.table import MAKERS, draw_case

FEW, MANY = 2, int(os.environ.get("MPSEARCH_CASES", "40"))
# Native, but not drawn, and why.
NOT_DRAWN = {
    **dict.fromkeys(
        [
            ("", name)
            for name in (
                "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                "RandomUniformLike",
            )
        ],
        "draws other random numbers",
    ),
    ("", "Affine"): "made by fusion",
    ("", "Constant"): "no inputs to vary; every sweep's constants pass through the importer",
    ("", "CumProd"): "of opset 26, which onnxruntime does not run",
    **dict.fromkeys(
        [("", "SimplifiedLayerNormalization"), (MICROSOFT, "SimplifiedLayerNormalization")],
        "as RMSNormalization; checked with the fused models",
    ),
    **dict.fromkeys(
        [
            (MICROSOFT, name)
            for name in ("EmbedLayerNormalization", "FusedConv", "FusedGemm", "RotaryEmbedding")
        ],
        "checked with the fused models",
    ),
}  # fmt: skip
NAMES = [f"{domain}{'.' if domain else ''}{op_type}" for domain, op_type in MAKERS]


def check(operator: tuple[str, str], numbers: range) -> None:
    wrong = []
    for number in numbers:
        case = draw_case(*operator, number)
        found = compare(case)
        if not found.is_right:
            wrong.append(f"{number}: {case}: {found.verdict}: {found.message}")
    assert not wrong, "\n".join(wrong)


def test_every_native_operator_is_drawn_or_has_a_reason_not_to_be() -> None:
    assert set(MAKERS) == set(OPERATORS) - set(NOT_DRAWN)
    assert len(MAKERS) * MANY >= 6000 or "MPSEARCH_CASES" in os.environ


@pytest.mark.parametrize("operator", MAKERS, ids=NAMES)
def test_a_few_random_nodes_equal_onnxruntime(operator: tuple[str, str]) -> None:
    check(operator, range(FEW))


@pytest.mark.slow
@pytest.mark.parametrize("operator", MAKERS, ids=NAMES)
def test_many_random_nodes_equal_onnxruntime(operator: tuple[str, str]) -> None:
    check(operator, range(FEW, FEW + MANY))


@pytest.mark.parametrize("operator", ["Conv", "MatMul", "Softmax", "Resize"])
def test_most_cases_are_ones_that_onnxruntime_runs(operator: str) -> None:
    verdicts = [compare(draw_case("", operator, n)).verdict for n in range(40)]
    assert verdicts.count("same") >= 36
