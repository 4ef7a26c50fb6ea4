"""The committed matrix of schemes and targets says what its figures say, and what was asked is proven in it."""

import json

import pytest

from experiments.target_matrix import CANONICAL, OUT, RESULT, Cell, read_cells, write_page


@pytest.fixture(scope="module")
def found() -> tuple[dict[str, dict[str, Cell]], dict[str, str]]:
    told = json.loads(RESULT.read_text())
    return read_cells(told), told["versions"]


def test_the_page_is_written_from_the_figures(
    found: tuple[dict[str, dict[str, Cell]], dict[str, str]],
) -> None:
    assert OUT.read_text() == write_page(*found)


@pytest.mark.parametrize(
    ("target", "runtimes", "schemes"),
    [
        (
            CANONICAL,
            ("reference", "openvino"),
            "nvfp4 mxfp4 fp8 e5m2 fp16 bf16 int8 w4a16_g64 fp8_2of4",
        ),
        ("onnxruntime", ("onnxruntime",), "fp8 int8 w4a16_g64 fp16"),
        ("iree", ("iree",), "fp8_tensor int8 fp16"),
        ("vllm", ("transformers",), "nvfp4 fp8 int8"),
    ],
)
def test_these_cells_are_proven(
    found: tuple[dict[str, dict[str, Cell]], dict[str, str]],
    target: str,
    runtimes: tuple[str, ...],
    schemes: str,
) -> None:
    for name in schemes.split():
        proofs = found[0][target][name].proofs
        assert all(proofs[runtime].ok for runtime in runtimes), name
        assert all(proof.layer_error <= 1e-3 for proof in proofs.values())


def test_nothing_differs(found: tuple[dict[str, dict[str, Cell]], dict[str, str]]) -> None:
    """A proof fails, or a runtime does not run what it is the proof of, in no cell."""
    bad = [
        (target, name, runtime)
        for target, row in found[0].items()
        for name, cell in row.items()
        for runtime, proof in cell.proofs.items()
        if not proof.ok
    ]
    assert not bad
