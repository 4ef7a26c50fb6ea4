"""Large models: weights stay in their files, and work grows with the number of nodes alone."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mpsearch.graph.importer import import_onnx
from mpsearch.graph.onnx_file.digests import digest_weights
from mpsearch.graph.onnx_file.write import to_onnx
from tests.support.graph_models import model, noise, save, tensor

node = helper.make_node


def write_sparse(folder: Path, n_layers: int, width: int) -> Path:
    """Write a chain of ``n_layers`` square weights whose bytes are a hole in a file."""
    nodes, tensors, x = [], [], "x"
    size = width * width * 4
    for index in range(n_layers):
        weight = onnx.TensorProto(
            name=f"w{index}", data_type=1, dims=[width, width], data_location=1
        )
        for key, value in (("location", "w.bin"), ("offset", index * size), ("length", size)):
            weight.external_data.add(key=key, value=str(value))
        tensors.append(weight)
        nodes.append(node("Transpose", [f"w{index}"], [f"t{index}"], perm=[1, 0]))
        nodes.append(node("MatMul", [x, f"t{index}"], [f"y{index}"], name=f"fc{index}"))
        x = f"y{index}"
    with (folder / "w.bin").open("wb") as file:
        file.truncate(n_layers * size)
    return save(model(nodes, {"x": ["n", width]}, [x], tensors), folder)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_inspecting_twenty_gigabytes_needs_little_memory(tmp_path: Path) -> None:
    path = write_sparse(tmp_path, 75, 8192)
    code = (
        "import pathlib, re, sys\n"
        "from mpsearch.graph.importer import import_onnx\n"
        "graph = import_onnx(sys.argv[1])\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]\n"
        "print(len(graph.layers), graph.coverage.parameters, peak)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    layers, parameters, kilobytes = map(int, done.stdout.split())
    assert (layers, parameters) == (75, 75 * 8192**2)
    assert kilobytes < 500_000


def test_folded_external_weights_are_views_of_the_file(tmp_path: Path) -> None:
    graph = import_onnx(write_sparse(tmp_path, 1, 64))
    array = graph.constants[graph.layers[0].gemms[0].right.value]
    assert array.shape == (64, 64)
    assert not array.flags.owndata
    base = array
    while not isinstance(base, np.memmap):
        assert base.base is not None
        base = base.base


def test_constants_are_released_when_nobody_holds_them(tmp_path: Path) -> None:
    graph = import_onnx(write_sparse(tmp_path, 1, 64))
    name = graph.layers[0].gemms[0].right.value
    held = graph.constants[name]
    assert graph.constants[name] is held
    reference = weakref.ref(held)
    del held
    gc.collect()
    assert reference() is None


def test_ten_thousand_nodes(tmp_path: Path) -> None:
    nodes, x = [], "x"
    for index in range(2000):
        nodes += [
            node("MatMul", [x, "w"], [f"m{index}"]),
            node("Add", [f"m{index}", "b"], [f"a{index}"]),
            node("Relu", [f"a{index}"], [f"r{index}"]),
            node("Mul", [f"r{index}", "b"], [f"s{index}"]),
            node("Add", [f"s{index}", x], [f"y{index}"]),
        ]
        x = f"y{index}"
    proto = model(nodes, {"x": ["n", "t", 8]}, [x], [tensor("w", 8, 8), tensor("b", 8)])
    graph = import_onnx(save(proto, tmp_path))
    assert (len(graph.nodes), len(graph.layers), len(graph.groups)) == (10_000, 2_000, 1)


def test_too_large_for_one_file_is_said(tmp_path: Path) -> None:
    graph = import_onnx(write_sparse(tmp_path, 2, 20_000))
    with pytest.raises(ValueError, match="must fit in 2 GB"):
        to_onnx(graph)


def test_digest_reads_mapped_weights(tmp_path: Path) -> None:
    path = write_sparse(tmp_path, 2, 64)
    before = digest_weights(import_onnx(path))
    (tmp_path / "w.bin").write_bytes(noise(2, 64, 64).tobytes())
    assert digest_weights(import_onnx(path)) != before
