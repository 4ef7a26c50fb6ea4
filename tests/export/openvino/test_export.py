"""An export for OpenVINO is read as it is, at any batch, and computes what the plan says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mpsearch.export.export_plan import export_plan
from mpsearch.verify.verify_plan import verify_plan
from tests.verify.test_verify_plan import Exported, export_uniform

openvino = pytest.importorskip("openvino")


def exported(folder: Path, net: str, *schemes: str, target: str = "openvino") -> Exported:
    made = export_uniform(folder, net, *schemes)
    export_plan(made.plan, made.model, made.folder, target=target)
    return made


def compiled(folder: Path) -> Any:
    """The file as anybody reads it: no shapes bound, nothing inlined, the settings beside it."""
    settings = json.loads((folder / "openvino_config.json").read_text())["CPU"]
    core = openvino.Core()
    return core.compile_model(core.read_model(folder / "model.onnx"), "CPU", settings)


@pytest.mark.parametrize(
    ("net", "schemes"),
    [("conv", ("nvfp4", "mxfp4", "fp8_2of4")), ("attention", ("nvfp4", "fp8", "int8"))],
)
def test_each_layer_is_proven_in_two_runtimes(
    tmp_path: Path, net: str, schemes: tuple[str, ...]
) -> None:
    made = exported(tmp_path, net, *schemes)
    for runtime in ("openvino", "reference"):
        found = verify_plan(made.plan, made.model, made.folder, made.batches, runtime=runtime)
        assert found.ok, str(found)
        assert {check.scheme for check in found.layers} >= set(schemes)


def test_it_is_read_without_help_and_runs_at_any_batch(tmp_path: Path) -> None:
    made = exported(tmp_path, "conv", "nvfp4", "mxfp4")
    model = onnx.load(made.folder / "model.onnx")
    assert not model.functions
    network = compiled(made.folder)
    x = next(made.batches.iterate())["x"]
    whole = network({"x": x})[0]
    parts = np.concatenate([network({"x": x[i : i + 1]})[0] for i in range(len(x))])
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-6)


def test_the_canonical_file_needs_help(tmp_path: Path) -> None:
    """Why there is an exporter of its own; where OpenVINO learns to, this fails and it can go."""
    made = exported(tmp_path, "conv", "nvfp4", target="onnx")
    core = openvino.Core()
    with pytest.raises(RuntimeError, match="TRT_FP4DynamicQuantize"):
        core.read_model(made.folder / "model.onnx")
