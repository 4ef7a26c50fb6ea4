"""Plans from strangers are refused in one line, or mean what they say; nothing is written outside of the export."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mpsearch.errors import MpsearchError
from mpsearch.export.export_plan import export_plan
from mpsearch.plan.files import read_plan, write_plan
from mpsearch.plan.match import import_planned
from mpsearch.plan.plan import Plan
from mpsearch.plan.restore import restore
from tests.support.changed_plans import changed_plan
from tests.support.mutations import (
    check_one_line,
    mutate_bytes,
    mutate_envelope,
    mutate_json,
    snapshot,
)

QUICK, WHOLE = 120, 500
TARGETS = ("onnx", "npu", "tensorrt", "onnxruntime", "openvino", "aimet")


@dataclass(frozen=True)
class Case:
    """A recovered plan deep in a tree, so that a path that leaves its folder is seen."""

    root: Path
    model: Path
    plan: Plan
    text: str
    weights: bytes


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("mutated")
    folder = root / "a" / "b" / "c"
    folder.mkdir(parents=True)
    model, _, _, _, plan = changed_plan(folder, "nvfp4")
    write_plan(plan, folder / "plan.json")
    read = read_plan(folder / "plan.json")
    return Case(
        root,
        model,
        read,
        (folder / "plan.json").read_text(),
        (folder / "plan.weights.safetensors").read_bytes(),
    )


def write(case: Case, rng: np.random.Generator) -> tuple[Path, str]:
    """A mutated plan in the case's folder; its path and what was done."""
    path, weights = case.model.parent / "plan.json", case.weights
    how = str(rng.choice(["json", "json", "json", "envelope", "bytes", "weights"]))
    data = case.text.encode()
    if how == "json":
        data = mutate_json(case.text, rng).encode("utf-8", "surrogatepass")
    elif how == "envelope":
        data = mutate_envelope(case.text, rng).encode("utf-8", "surrogatepass")
    elif how == "bytes":
        data = mutate_bytes(data, rng)
    else:
        weights = mutate_bytes(weights, rng)
        if rng.random() < 0.7:
            data = named(case, weights).encode()
    path.write_bytes(data)
    (path.parent / "plan.weights.safetensors").write_bytes(weights)
    return path, how


def named(case: Case, weights: bytes) -> str:
    """The plan with the digest of other weights."""
    from hashlib import sha256

    from mpsearch.artifacts import digest_json

    envelope = json.loads(case.text)
    envelope["content"]["weights"]["digest"] = sha256(weights).hexdigest()
    envelope["digest"] = digest_json(envelope["content"])
    return json.dumps(envelope)


def run(case: Case, seed: int) -> bool:
    """Read and export one mutated plan; return whether it was accepted."""
    rng = np.random.default_rng([seed, 16])
    path, how = write(case, rng)
    out = path.parent / "out"
    before = snapshot(case.root, out)
    target = str(rng.choice(TARGETS))
    try:
        plan = read_plan(path)
        if how in ("bytes", "envelope"):  # its digest was not mended: it says what it said
            assert plan == case.plan
        graph = import_planned(plan, case.model)
        restore(plan, graph)
        export_plan(plan, case.model, out, target=target)
        assert read_plan(out / "plan.json") == plan, "the export's copy means the same"
    except MpsearchError as error:
        check_message(str(error))
        return False
    finally:
        assert snapshot(case.root, out) == before
        shutil.rmtree(out, ignore_errors=True)
    return True


def check_message(said: str) -> None:
    """One line; of a target that refuses several layers, a line a layer."""
    first, *others = said.split("\n")
    check_one_line(first)
    assert not others or "must take every layer's scheme" in first, said


@pytest.fixture(autouse=True)
def deep_inside(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case.model.parent)


def test_mutated_plans_are_refused_or_mean_what_they_say(case: Case) -> None:
    accepted = sum(run(case, seed) for seed in range(QUICK))
    assert 0 < accepted < QUICK / 2


@pytest.mark.slow
def test_five_hundred_mutated_plans_are_refused_or_mean_what_they_say(case: Case) -> None:
    accepted = sum(run(case, seed) for seed in range(1000, 1000 + WHOLE))
    assert 0 < accepted < WHOLE / 2
