"""What no export could write, or a target does not take, is said before anything is measured."""

from pathlib import Path

import onnx
import pytest

from mpsearch.graph.importer import import_onnx
from mpsearch.jobs.not_offered import find_not_offered
from mpsearch.registry import find, list_names
from mpsearch.schemes import find_scheme
from mpsearch.space.allowed import allowed
from mpsearch.space.files import read_space
from mpsearch.space.space import SearchSpace
from tests.support.command_line import SEARCH, Mpsearch
from tests.support.sized_models import MODELS

SPACE = SearchSpace("s", tuple(map(find_scheme, ("fp16", "int8", "fp8", "mxfp6"))), "fp16")


def test_recurrent_layers_and_six_bit_floats_are_said_to_have_no_exporter(tmp_path: Path) -> None:
    onnx.save(MODELS["recurrent"]()[0], tmp_path / "m.onnx")
    graph = import_onnx(tmp_path / "m.onnx")
    found = find_not_offered(graph, SPACE)
    pairs = {(layer, scheme) for one in found for layer in one.layers for scheme in one.schemes}
    assert pairs >= {(layer.name, "mxfp6") for layer in graph.layers}
    assert pairs >= {("lstm", "int8"), ("gru", "fp8")}
    mask, _ = allowed(SPACE, graph)
    names = [graph.layers[group.layers[0]].name for group in graph.groups]
    offered = {
        (names[g], SPACE.names[s]) for g in range(len(names)) for s in range(1, 4) if mask[g, s]
    }
    assert not offered & pairs
    for one in found:
        assert one.reason
        for layer in graph.layers:
            for scheme in one.schemes if layer.name in one.layers else ():
                writes = {
                    name
                    for name in list_names("export_limits")
                    if not find("export_limits", name)(graph, layer, find_scheme(scheme))
                }
                assert writes == set(one.exporters)


def test_what_can_be_written_is_not_mentioned(tmp_path: Path) -> None:
    onnx.save(MODELS["convolutions"]()[0], tmp_path / "m.onnx")
    graph = import_onnx(tmp_path / "m.onnx")
    assert {s for one in find_not_offered(graph, SPACE) for s in one.schemes} == {"mxfp6"}
    found = find_not_offered(graph, read_space("blackwell", target="tensorrt"))
    assert {one.source != "" for one in found} == {True}
    assert any("nvfp4" in one.schemes for one in found)


def test_a_search_says_it_first(tiny: Path, tmp_path: Path, mpsearch: Mpsearch) -> None:
    command = [*SEARCH(tiny), "--target", "onnxruntime", "--dry-run", "--json"]
    found = mpsearch(*command, "-o", tmp_path / "run")
    assert found.code == 0, found.err
    first = found.err.splitlines()[0]
    assert first.startswith("not searched, onnxruntime does not take nvfp4")
    assert "no kernels for 4-bit floats" in first
    assert "onnxruntime 1.31.1" in first
    assert found.json["not_offered"][0]["schemes"] == ["nvfp4", "nvfp4_2of4"]


@pytest.mark.parametrize(
    ("target", "recovery", "message"),
    [
        ("torchao", "gptq", "recovery must be none; got gptq"),
        ("vllm", "auto", "without `bias`, such as gptq; got auto"),
        ("vllm", "bias", "without `bias`, such as gptq; got bias"),
    ],
)
def test_recovery_that_the_target_could_not_take_is_refused_before_anything(
    tiny: Path, tmp_path: Path, mpsearch: Mpsearch, target: str, recovery: str, message: str
) -> None:
    more = ["--target", target, "--recovery", recovery, "--space", "hopper"]
    found = mpsearch(*SEARCH(tiny), *more, "-o", tmp_path / "run")
    assert found.code == 1
    assert message in found.err
    assert not (tmp_path / "run").exists()
