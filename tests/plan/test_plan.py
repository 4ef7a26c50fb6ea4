"""Plans survive the round trip, fit one model only, and refuse whatever they do not know."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import mpsearch.plan.plan
from mpsearch.artifacts import digest_json
from mpsearch.errors import ArtifactError, MpsearchError, NumericsError, PlanError
from mpsearch.graph.model import Coverage, Gemm, Group, Layer, ModelGraph, Operand
from mpsearch.numerics.range import Range
from mpsearch.plan.files import plan_schema, read_plan, write_plan
from mpsearch.plan.match import plan_assignment, plan_schemes
from mpsearch.plan.plan import CalibratedRange, Covered, Decision, Plan, Site, plan_space
from mpsearch.schemes import find_scheme
from mpsearch.space.space import SearchSpace
from mpsearch.stats.estimates import Estimate

SCHEMA = Path(mpsearch.plan.plan.__file__).with_name("plan.schema.json")
STRUCTURE, WEIGHTS = "a" * 64, "b" * 64


def plan(**changes: Any) -> Plan:
    spec = find_scheme("nvfp4").activation
    own = Plan(
        model="net.onnx",
        structure_digest=STRUCTURE,
        weights_digest=WEIGHTS,
        shapes={"x": (None, 10)},
        base="fp16",
        schemes={name: find_scheme(name) for name in ("fp16", "nvfp4")},
        decisions=(
            Decision(Site("fc1", ("w1",)), "nvfp4"),
            Decision(Site("fc2", ("w2",)), "nvfp4"),
            Decision(Site("fc3", ("w3",)), "fp16"),
        ),
        ranges=(CalibratedRange("x", spec, Range(3.0, -3.0, 2.0, 3.0 / 2688)),),
        coverage=Covered(300, 310, 600, 600, 6.5, {"emb": "a Gather"}),
        predicted={"loss": Estimate(0.1, 0.01)},
        measured={"loss": Estimate(0.2, 0.02)},
        unit="nats",
    )
    return replace(own, **changes)


def graph() -> ModelGraph:
    layers = tuple(
        Layer(
            f"fc{i}",
            "Gemm",
            (Gemm(1, 10, 10, Operand("x", "", 0, 1), Operand(f"w{i}", f"w{i}", 1, 1, (0,))),),
            f"y{i}",
            10,
            10,
        )
        for i in (1, 2, 3)
    )
    return ModelGraph(
        name="net.onnx",
        nodes=(),
        constants={},
        inputs=(),
        outputs=(),
        values={},
        layers=layers,
        edges=(),
        groups=(Group("fc1", (0, 1), "one input"), Group("fc3", (2,))),
        coverage=Coverage(300, 310, 600, 600, ()),
        batch=1,
        opset=17,
        structure_digest=STRUCTURE,
    )


SPACE = SearchSpace("s", tuple(map(find_scheme, ("fp8", "nvfp4", "fp16"))))


def edit(path: Path, change: Any) -> None:
    """Change the content of a plan file and mend its digest, as a patient attacker would."""
    envelope = json.loads(path.read_text())
    change(envelope)
    envelope["digest"] = digest_json(envelope["content"])
    path.write_text(json.dumps(envelope))


def test_a_plan_survives_the_round_trip(tmp_path: Path) -> None:
    digest = write_plan(plan(extensions={"vendor": {"x": 1}}), tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan(extensions={"vendor": {"x": 1}})
    assert json.loads((tmp_path / "plan.json").read_text())["digest"] == digest


def test_the_shipped_schema_is_the_one_that_the_code_enforces() -> None:
    assert json.loads(SCHEMA.read_text()) == plan_schema(), (
        "write it anew: python -c 'import json, mpsearch.plan.plan as p; "
        "print(json.dumps(p.plan_schema(), indent=1))' > mpsearch/plan/plan.schema.json"
    )


def test_a_written_plan_meets_the_schema(tmp_path: Path) -> None:
    write_plan(plan(), tmp_path / "plan.json")
    jsonschema.validate(json.loads((tmp_path / "plan.json").read_text()), plan_schema())


def test_the_schema_refuses_unknown_fields(tmp_path: Path) -> None:
    write_plan(plan(), tmp_path / "plan.json")
    envelope = json.loads((tmp_path / "plan.json").read_text())
    envelope["content"]["decisions"][0]["precision"] = "fp4"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(envelope, plan_schema())


def test_a_plan_becomes_the_assignment_that_it_came_from() -> None:
    np.testing.assert_array_equal(plan_assignment(plan(), graph(), SPACE), [1, 2])


def test_a_plan_brings_its_own_space() -> None:
    space = plan_space(plan())
    assert space.names == ("fp16", "nvfp4")
    assert space.base == "fp16"
    np.testing.assert_array_equal(plan_assignment(plan(), graph(), space), [1, 0])


def test_layers_that_no_decision_names_run_in_the_base() -> None:
    schemes = plan_schemes(plan(decisions=()), graph())
    assert [s.name for s in schemes] == ["fp16"] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure_digest": "c" * 64}, "must be used with the model that it was made for"),
        ({"decisions": (Decision(Site("fc9"), "fp16"),)}, "'fc9', which is no layer of net.onnx"),
        ({"decisions": (Decision(Site("fc1", ("w9",)), "fp16"),)}, "must multiply with 'w9'"),
        ({"decisions": (Decision(Site("fc1"), "nvfp4"),)}, "must share one scheme"),
        ({"decisions": (Decision(Site("fc1"), "fp16", "kv_cache"),)}, "kind gemm"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_in_one_line(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message) as raised:
        plan_assignment(plan(**changes), graph(), SPACE)
    assert "\n" not in str(raised.value)


def test_a_scheme_of_the_same_name_but_other_content_is_refused() -> None:
    other = replace(find_scheme("fp8"), name="nvfp4")
    space = SearchSpace("s", (other, find_scheme("fp16")))
    with pytest.raises(PlanError, match="'nvfp4' of the plan is another one"):
        plan_assignment(plan(), graph(), space)


def _set(path: str, value: Any) -> Any:
    def change(envelope: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = envelope
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("schema", "mpsearch.front"),
        ("content.colour", "blue"),
        ("content.coverage.share", 1.0),
        ("content.schemes.nvfp4.weight.bits", 4),
        ("content.schemes.nvfp4.weight.format", "e9m9"),
        ("content.schemes.nvfp4.weight.granularity", "tensor"),
        ("content.schemes.fp16", "fp16"),
        ("content.requires", ["telepathy"]),
        ("content.transforms", ["rotate"]),
        ("content.fallback", "../../etc/passwd"),
        ("content.fallback", "C:\\plan.json"),
        ("content.model", "/home/user/net.onnx"),
        ("content.base", "nvfp4"),
        ("content.base", "int9"),
        ("content.batch", -1),
        ("content.shapes", {"x": [-1]}),
        ("content.shapes", {"x": ["n"]}),
        ("content.structure_digest", "xyz"),
        ("content.decisions", [{"site": {"node": "fc1", "weights": []}, "scheme": "fp9"}]),
        ("content.decisions", [{"site": {"node": "fc1"}, "scheme": "fp16"}] * 2),
        ("content.decisions", [{"site": {"node": "fc1"}, "scheme": "fp16", "kind": "magic"}]),
        ("content.decisions", {"fc1": "fp16"}),
        ("content.ranges", [{"value": "x"}]),
        ("content", None),
        ("content", [[]]),
    ],
)
def test_hostile_content_is_refused_in_one_line(tmp_path: Path, path: str, value: Any) -> None:
    file = tmp_path / "plan.json"
    write_plan(plan(), file)
    edit(file, _set(path, value))
    with pytest.raises(MpsearchError) as raised:
        read_plan(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, number: str) -> None:
    file = tmp_path / "plan.json"
    write_plan(plan(), file)
    file.write_text(file.read_text().replace('"mean": 0.1', f'"mean": {number}'))
    with pytest.raises(ArtifactError):
        read_plan(file)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\x00", '{"schema": 1}'])
def test_files_that_are_no_plans_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"plan\.json"):
        read_plan(tmp_path / "plan.json")


def test_a_plan_with_a_number_changed_by_hand_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    write_plan(plan(), file)
    file.write_text(file.read_text().replace('"mean": 0.2', '"mean": 0.0'))
    with pytest.raises(ArtifactError, match="does not match its digest"):
        read_plan(file)


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="loss is nan"):
        write_plan(plan(measured={"loss": Estimate(float("nan"), 0.0)}), tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == []
