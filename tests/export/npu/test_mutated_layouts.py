"""NPU exports from strangers are refused in one line, or mean to us what they mean to a plain reader."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from mpsearch.artifacts import digest_json
from mpsearch.errors import MpsearchError
from mpsearch.export.export_plan import export_plan
from mpsearch.export.npu.unpack import assemble
from mpsearch.plan.plan import Plan
from mpsearch.verify.verify_plan import verify_plan
from tests.support.changed_plans import changed_plan, some_data
from tests.support.mutations import (
    check_one_line,
    mutate_bytes,
    mutate_envelope,
    mutate_json,
    snapshot,
)
from tests.support.npu_reader import read_export

QUICK, WHOLE = 80, 500
FILES = ("layout.json", "weights.bin", "graph.onnx")


@dataclass(frozen=True)
class Case:
    root: Path
    model: Path
    folder: Path
    plan: Plan
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("layouts")
    folder = root / "a" / "b"
    folder.mkdir(parents=True)
    model, _, _, _, plan = changed_plan(folder, "nvfp4_2of4")
    out = folder / "out"
    export_plan(plan, model, out, target="npu")
    return Case(root, model, out, plan, {name: (out / name).read_bytes() for name in FILES})


def mend(files: dict[str, bytes]) -> None:
    """Give the layout the digests of the files that it names."""
    envelope = json.loads(files["layout.json"])
    for key, name in (("graph", "graph.onnx"), ("blobs", "weights.bin")):
        digest = sha256(files[name]).hexdigest()
        envelope["content"][key] = {"bytes": len(files[name]), "digest": digest}
    for tensor in envelope["content"]["tensors"]:
        for part in tensor["parts"].values():
            data = files["weights.bin"][part["offset"] : part["offset"] + part["bytes"]]
            part["digest"] = sha256(data).hexdigest()
    envelope["digest"] = digest_json(envelope["content"])
    files["layout.json"] = json.dumps(envelope).encode()


def mutate(case: Case, rng: np.random.Generator) -> str:
    """Write a mutated export into the case's folder; return what was done."""
    files = dict(case.files)
    how = str(rng.choice(["json", "json", "json", "json", "envelope", "bytes", "file", "file"]))
    text = files["layout.json"].decode()
    if how == "json":
        files["layout.json"] = mutate_json(text, rng).encode("utf-8", "surrogatepass")
    elif how == "envelope":
        files["layout.json"] = mutate_envelope(text, rng).encode("utf-8", "surrogatepass")
    elif how == "bytes":
        files["layout.json"] = mutate_bytes(files["layout.json"], rng)
    else:
        name = str(rng.choice(["weights.bin", "graph.onnx"]))
        files[name] = mutate_bytes(files[name], rng)
        if rng.random() < 0.7:
            mend(files)
    for name, data in files.items():
        (case.folder / name).write_bytes(data)
    return how


def check_same_meaning(case: Case) -> None:
    """Compare what we unpack with what the plain reader does of the same files."""
    _, tensors = read_export(case.folder)
    model = assemble(case.folder)
    own = {t.name: t for t in model.graph.initializer if t.name in tensors}
    assert own.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(numpy_helper.to_array(own[name]), values.astype(np.float32))


def run(case: Case, seed: int) -> bool:
    """Verify one mutated export; return whether it was accepted."""
    rng = np.random.default_rng([seed, 6])
    how = mutate(case, rng)
    before = snapshot(case.root, case.folder)
    runtime = "onnxruntime" if seed % 4 == 0 else "reference"
    try:
        found = verify_plan(
            case.plan, case.model, case.folder, some_data(2), runtime=runtime, samples=1
        )
        if how in ("bytes", "envelope"):
            assert found.ok
    except MpsearchError as error:
        check_one_line(str(error))
        return False
    finally:
        assert snapshot(case.root, case.folder) == before
        assert {path.name for path in case.folder.iterdir()} >= set(FILES)
    check_same_meaning(case)
    return True


@pytest.fixture(autouse=True)
def restored(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case.folder)


def test_mutated_exports_are_refused_or_mean_what_a_plain_reader_reads(case: Case) -> None:
    accepted = sum(run(case, seed) for seed in range(QUICK))
    assert 0 < accepted < QUICK / 2


@pytest.mark.slow
def test_five_hundred_mutated_exports_are_refused_or_mean_the_same(case: Case) -> None:
    accepted = sum(run(case, seed) for seed in range(1000, 1000 + WHOLE))
    assert 0 < accepted < WHOLE / 2
