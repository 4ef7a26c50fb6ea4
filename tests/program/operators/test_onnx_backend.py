"""Native operators against ONNX's own operator tests."""

import warnings
from typing import Any

import pytest

from mpsearch.errors import MpsearchError
from tests.support.backend_cases import arrays_of, check_equal, load_cases, output_types
from tests.support.protos import program_of, run_arrays

# What no native operator computes, by the start of a case's name, and why.
NOT_NATIVE = {
    "test_ai_onnx_ml_array_feature_extractor": "classical machine learning: onnxruntime computes it",
    "test_ai_onnx_ml_binarizer": "classical machine learning: onnxruntime computes it",
    "test_ai_onnx_ml_tree_ensemble": "classical machine learning: onnxruntime computes it",
    "test_image_decoder": "decodes files",
    "test_scan_sum": "Scan of opset 8, with a batch axis",
    "test_tfidfvectorizer": "counts n-grams: onnxruntime computes it",
    "test_training_dropout": "a random mask in training",
}
# Where onnxruntime and OpenVINO agree with each other and not with the standard; see program/departures.py.
DEPARTURES = (
    "test_resize_downsample_scales_linear_align",
    "test_resize_downsample_scales_cubic_align",
)
# Right within the type's own rounding, not within the case's tolerance.
OTHER_ROUNDING = {
    "test_bernoulli": "draws other random numbers",
    "test_basic_deform_conv_with_padding": "1e-7 off at a zero",
    "test_dft_inverse": "1e-7 off at a zero",
    "test_attention_4d_causal_fp16": "one unit in the last place of fp16",
}


def is_known(name: str) -> bool:
    if "attention" in name and "bf16" in name:
        return True  # sums in another order, in bf16
    if name.startswith("test_flexattention"):
        return not name.endswith("_expanded")  # a preview whose bodies are subgraphs
    return any(name.startswith(start) for start in (*NOT_NATIVE, *DEPARTURES, *OTHER_ROUNDING))


CASES = [case for case in load_cases() if not is_known(case.name)]


def test_more_cases_run_natively_than_the_goal() -> None:
    assert len(CASES) >= 1400


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_native_operator_equals_the_standard(case: Any) -> None:
    program = program_of(case.model)
    assert not program.fallbacks()
    for inputs, expected in case.data_sets:
        found = run_arrays(program, arrays_of(inputs), output_types(case.model))
        check_equal(found, expected, case)


@pytest.mark.parametrize("start", ["test_tfidfvectorizer_tf_batch", "test_ai_onnx_ml_binarizer"])
def test_other_operators_fall_back_to_onnxruntime_with_a_warning(start: str) -> None:
    case = next(case for case in load_cases() if case.name.startswith(start))
    with pytest.warns(UserWarning, match="runs in onnxruntime"):
        program = program_of(case.model)
    assert len(program.fallbacks()) == 1
    for inputs, expected in case.data_sets:
        found = run_arrays(program, arrays_of(inputs), output_types(case.model))
        check_equal(found, expected, case)


def test_what_neither_computes_is_named_with_its_count() -> None:
    case = next(case for case in load_cases() if case.name == "test_scan_sum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MpsearchError, match=r"Scan \(opset 8\) × 1"):
            program_of(case.model)
