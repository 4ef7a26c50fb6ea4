"""The weights that a plan changes are read as from a stranger."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from mpsearch.errors import MpsearchError, PlanError
from mpsearch.plan.files import read_plan, remove_plan, weights_file, write_plan
from mpsearch.plan.plan import Plan
from mpsearch.plan.weights import Expected, PlanWeights, hold_weights, load_weights
from tests.plan.test_plan import edit, plan

PLACE = ("fc1", "w1")
KEY = "fc1::w1"
EXPECTED = {PLACE: Expected((2, 3), is_needed=True)}
WEIGHT: NDArray[np.float32] = np.arange(6, dtype=np.float32).reshape(2, 3)


def changing() -> Plan:
    return plan(requires=("weights",), weights=hold_weights({PLACE: WEIGHT}))


def written(path: Path) -> PlanWeights:
    """The weights of a plan that was written to ``path`` and read again."""
    write_plan(changing(), path)
    found = read_plan(path).weights
    assert found is not None
    return found


def test_weights_survive_the_round_trip(tmp_path: Path) -> None:
    found = load_weights(written(tmp_path / "plan.json"), EXPECTED)
    np.testing.assert_array_equal(found[PLACE], WEIGHT)
    assert read_plan(tmp_path / "plan.json") == changing()
    assert list(load_file(weights_file(tmp_path / "plan.json"))) == [KEY]


def test_a_plan_names_the_file_and_its_digest(tmp_path: Path) -> None:
    write_plan(changing(), tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())["content"]
    data = (tmp_path / "plan.weights.safetensors").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert content["weights"] == {"file": "plan.weights.safetensors", "digest": digest}
    assert content["requires"] == ["weights"]


def test_a_plan_that_changes_nothing_says_nothing_of_weights(tmp_path: Path) -> None:
    write_plan(plan(), tmp_path / "plan.json")
    assert "weights" not in json.loads((tmp_path / "plan.json").read_text())["content"]
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_weights_go_where_their_plan_goes(tmp_path: Path) -> None:
    written(tmp_path / "plan.json")
    write_plan(read_plan(tmp_path / "plan.json"), tmp_path / "copy.json")
    remove_plan(tmp_path / "plan.json")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["copy.json", "copy.weights.safetensors"]
    found = read_plan(tmp_path / "copy.json").weights
    assert found is not None
    np.testing.assert_array_equal(load_weights(found, EXPECTED)[PLACE], WEIGHT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {KEY: WEIGHT.T.copy()},
            r"must be float32 of shape \[2, 3\], got float32 of shape \[3, 2\]",
        ),
        ({KEY: WEIGHT.astype(np.float64)}, "must be float32 .* got float64"),
        ({KEY: np.full((2, 3), np.nan, np.float32)}, "must be finite, but it holds NaN or Inf"),
        ({KEY: np.full((2, 3), np.inf, np.float32)}, "must be finite, but it holds NaN or Inf"),
        ({}, "lacks 'fc1::w1'"),
        ({"fc2::w2": WEIGHT}, "must not hold 'fc2::w2'"),
        ({KEY: WEIGHT, "fc2::w2": WEIGHT}, "must not hold 'fc2::w2'"),
        ({KEY: np.zeros((300, 300), np.float32)}, "must be of at most 110024 bytes"),
    ],
)
def test_a_file_that_does_not_fit_the_model_is_refused_in_one_line(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    path = tmp_path / "x.safetensors"
    data = save(content)
    path.write_bytes(data)
    with pytest.raises(PlanError, match=message) as raised:
        load_weights(PlanWeights(hashlib.sha256(data).hexdigest(), path=path), EXPECTED)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\xff" * 8 + b"{}", save({})[:-1]])
def test_a_file_that_is_no_safetensors_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(PlanError, match=r"x\.safetensors: must") as raised:
        load_weights(PlanWeights(hashlib.sha256(data).hexdigest(), path=path), EXPECTED)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    weights = written(tmp_path / "plan.json")
    weights_file(tmp_path / "plan.json").unlink()
    with pytest.raises(PlanError, match=r"plan\.weights\.safetensors: .* must lie beside it"):
        load_weights(weights, EXPECTED)
    with pytest.raises(PlanError, match="must lie beside it"):
        write_plan(read_plan(tmp_path / "plan.json"), tmp_path / "copy.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    weights = written(tmp_path / "plan.json")
    weights_file(tmp_path / "plan.json").write_bytes(save({KEY: WEIGHT + 1}))
    with pytest.raises(PlanError, match="must be the weights that the plan names"):
        load_weights(weights, EXPECTED)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("weights", {"file": "../plan.weights.safetensors", "digest": "a" * 64}),
        ("weights", {"file": "/etc/passwd", "digest": "a" * 64}),
        ("weights", {"file": "C:\\x", "digest": "a" * 64}),
        ("weights", {"file": "", "digest": "a" * 64}),
        ("weights", {"file": "x", "digest": "short"}),
        ("weights", None),
        ("requires", []),
    ],
)
def test_a_hostile_plan_is_refused_in_one_line(tmp_path: Path, change: str, value: Any) -> None:
    written(tmp_path / "plan.json")
    edit(tmp_path / "plan.json", lambda envelope: envelope["content"].__setitem__(change, value))
    with pytest.raises(MpsearchError) as raised:
        read_plan(tmp_path / "plan.json")
    assert "\n" not in str(raised.value)
