"""The gate judges checkpoints of language models in transformers, live block scales and all."""

from pathlib import Path

import pytest

import mpsearch as mp
from mpsearch.verify.gate import Limits
from mpsearch.verify.run_gate import run_gate
from tests.support.llama import make_llama, plan_llama

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
def test_a_checkpoint_passes_all_but_a_loss_that_is_too_small_to_be_met(tmp_path: Path) -> None:
    made, plan = make_llama(), plan_llama()
    out = tmp_path / "out"
    mp.export_plan(plan, made.graph, out, target="compressed_tensors", config=made.folder)
    gate = run_gate(
        plan, made.graph, out, made.batches, runtime="transformers", limits=Limits(max_loss=1e-9)
    )
    verdicts = {check.name: check.verdict for check in gate.checks}
    skipped = {"denormal", "accuracy", "worst slice", "size"}
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} == skipped
    assert [check.name for check in gate.failed] == ["loss"]
