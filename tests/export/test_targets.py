"""What a search with a target may choose, its exporter writes, in as many bytes as were told."""

import re
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpsearch.data.batches import make_batches
from mpsearch.export.export_plan import export_plan
from mpsearch.graph.importer import import_onnx
from mpsearch.graph.model import Layer
from mpsearch.plan.make import make_plan
from mpsearch.problem.front import Point
from mpsearch.registry import list_names
from mpsearch.schemes import SCHEMES
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.allowed import allowed, tie_groups
from mpsearch.space.space import SearchSpace
from mpsearch.space.stored import Kept, find_kept, total_weight_bytes
from mpsearch.space.targets import Target, list_targets, read_target
from tests.support.sized_models import MODELS
from tests.support.stored import stored_bytes, weight_sources

TOLERANCE = 0.02
TARGETS = [name for name in list_targets() if read_target(name).exporter in list_names("exporters")]
BASES = ("fp32", "fp16")


@cache
def simulated(name: str, folder: Path) -> Simulator:
    """The model calibrated in every built-in scheme, no target asked."""
    proto, feeds = MODELS[name]()
    base = BASES[list(MODELS).index(name) % 2]
    onnx.save(proto, folder / "m.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = import_onnx(folder / "m.onnx")
        layers = (replace(layer, fqn=module_like(layer)) for layer in graph.layers)
        graph = replace(
            graph, layers=tuple(layers)
        )  # checkpoints take layers by their modules' names
        rest = [scheme for scheme in SCHEMES.values() if scheme.name != base]
        space = SearchSpace("all", (SCHEMES[base], *rest), base)
        return Simulator(graph, space, make_batches(feeds, batch_size=4))


def module_like(layer: Layer) -> str:
    """A module's name for each matrix that layers multiply with, none of which is beside another."""
    source = layer.gemms[0].right.value if layer.has_weight else ""
    return f"model.of_{re.sub(r'[^A-Za-z0-9]', '_', source)}.linear" if source else ""


def for_target(simulator: Simulator, target: Target) -> SearchSpace:
    space = simulator.space
    return SearchSpace(
        space.name, space.schemes, space.base, target=target.name, runtime=target,
        fusing=target.fusing,
    )  # fmt: skip


def draw_and_export(simulator: Simulator, name: str, folder: Path, seed: int) -> bool:
    """Draw a plan from what the target may take, export it and compare sizes; False where there is no choice."""
    target = read_target(name)
    space = for_target(simulator, target)
    graph = simulator.graph
    assert tie_groups(graph, space).groups == graph.groups  # no module is beside another
    mask = allowed(space, graph)[0] & simulator.allowed
    rng = np.random.default_rng(seed)
    chosen = [int(rng.choice(np.flatnonzero(row))) for row in mask]
    plan = make_plan(Point(tuple(chosen), {}), simulator)
    export_plan(plan, graph, folder / "out", target=name)
    schemes = {
        i: space.schemes[s]
        for group, s in zip(graph.groups, chosen, strict=True)
        for i in group.layers
    }
    kept = find_kept(graph)
    if target.one_base:  # all that is plain stays where it was, an embedding too
        kept = Kept({}, {})
        schemes = {i: scheme for i, scheme in schemes.items() if scheme.name != space.base}
    told = total_weight_bytes(graph, schemes, kept, target.storage)
    stored = stored_bytes(folder / "out", weight_sources(graph))
    assert (stored is None) == (name == "torchao")
    if stored is not None:
        assert told == pytest.approx(stored, rel=TOLERANCE), {i: s.name for i, s in schemes.items()}
    return any(s != space.index(space.base) for s in chosen)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_target_may_take_is_exported_in_the_bytes_that_were_told(
    name: str, tmp_path: Path
) -> None:
    simulator = simulated(name, tmp_path)
    chose = []
    for number, target in enumerate(TARGETS):
        if simulator.space.base not in read_target(target).bases:
            continue
        folder = tmp_path / target
        chose.append(draw_and_export(simulator, target, folder, number))
    assert any(chose)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(1, 6))
def test_whatever_is_drawn_from_what_targets_take_is_exported(
    name: str, seed: int, tmp_path: Path
) -> None:
    simulator = simulated(name, tmp_path)
    for number, target in enumerate(TARGETS):
        if simulator.space.base in read_target(target).bases:
            draw_and_export(simulator, target, tmp_path / target, 100 * seed + number)
