"""IREE compiles what an export stores, computes what the plan says, and names the node that it lacks a lowering of."""

from pathlib import Path

import pytest

from mpsearch.errors import PlanError
from tests.verify.test_verify_plan import export_uniform, verify

pytest.importorskip("iree.compiler")


def test_a_mixed_plan_is_proven_layer_by_layer(tmp_path: Path) -> None:
    exported = export_uniform(tmp_path, "conv", "fp8_tensor", "fp8", "int8", "fp16", "bf16")
    found = verify(exported, "iree")
    assert found.ok, str(found)
    assert {check.scheme for check in found.layers} >= {"fp8_tensor", "fp8", "int8", "fp16"}
    assert len(found.layers) == len(exported.plan.decisions)
    assert not found.unproven


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("w4a16_g32", "node 'mpsearch/w0/w4a16_g32/DequantizeLinear_1': no lowering of Dequant"),
        ("nvfp4", "Unknown ONNX tensor element type: 23"),
    ],
)
def test_what_it_does_not_compile_is_one_line_with_the_node(
    tmp_path: Path, scheme: str, reason: str
) -> None:
    exported = export_uniform(tmp_path, "conv", scheme)
    with pytest.raises(PlanError, match=f"IREE cannot run the exported model: {reason}") as raised:
        verify(exported, "iree")
    assert "\n" not in str(raised.value)
