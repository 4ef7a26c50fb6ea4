"""A run that never happened, with everything that a report shows."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mpsearch.figures.content import Report
from mpsearch.figures.plan_row import PlanRow
from mpsearch.graph.model import (
    Coverage,
    Edge,
    Gemm,
    Group,
    Layer,
    ModelGraph,
    Operand,
    Undecided,
    Value,
)
from mpsearch.problem.front import Front, Point
from mpsearch.problem.pareto import non_dominated
from mpsearch.problem.tables import Costs, Table
from mpsearch.simulate.ranges_file import Magnitudes
from mpsearch.stats.estimates import Estimate

SCHEMES = ("fp16", "fp8", "nvfp4", "fp8_2of4", "nvfp4_2of4")
_BITS = np.array([16.0, 8.4, 4.9, 6.2, 4.0])
_SPEED = np.array([1.0, 2.0, 4.0, 3.4, 6.4])


def _layer(i: int, name: str) -> Layer:
    depthwise = i % 3 == 1
    channels = 8 * (1 + i // 6)
    m, n, k = 2304 // (1 + i // 9), channels, 9 if depthwise else 2 * channels
    left = Operand(f"x{i}", "", 0, 1)
    right = Operand(f"w{i}", f"w{i}", 1, 1, (0,))
    groups = channels if depthwise else 1
    gemm = Gemm(m, n, k, left, right, positions=9 if depthwise else 1, groups=groups)
    role = "stem" if i == 0 else "depthwise" if depthwise else "pointwise"
    return Layer(name, "Conv", (gemm,), f"y{i}", m * k, m * n, role)


def make_run(n_layers: int = 54, seed: int = 0, names: tuple[str, ...] | None = None) -> Report:
    rng = np.random.default_rng(seed)
    names = names or tuple(
        f"backbone/stage{i // 12}/block{i // 3}/{('expand', 'depthwise', 'project')[i % 3]}/Conv"
        for i in range(n_layers)
    )
    layers = tuple(_layer(i, name) for i, name in enumerate(names))
    groups = tuple(Group(layer.name, (i,)) for i, layer in enumerate(layers))
    parameters = np.array([layer.parameters for layer in layers], np.int64)
    allowed = np.ones((len(layers), len(SCHEMES)), np.bool_)
    reasons: dict[tuple[str, str], str] = {}
    for i, layer in enumerate(layers):
        for s, scheme in enumerate(SCHEMES):
            if scheme.endswith("2of4") and (layer.role != "pointwise" or i % 2):
                allowed[i, s] = False
                reasons[layer.name, scheme] = f"`channels % 4 == 0` must hold, got {layer.n + 2}"
    scale = 10 ** rng.uniform(-4.5, -1.6, len(layers))
    noise = np.array([1e-4, 0.06, 1.0, 2.5, 9.0])
    values = np.where(allowed, scale[:, None] * noise * rng.uniform(0.5, 2, allowed.shape), 0)
    table = Table(
        "perturbation",
        "nats",
        names,
        SCHEMES,
        values,
        values * 0.15,
        allowed,
        reasons=reasons,
        cost_plans=float(allowed.sum()),
    )
    latency = np.array([layer.flops for layer in layers])[:, None] / 4e4 / _SPEED + 0.05
    size = parameters[:, None] * _BITS / 8
    edges = np.array([(i, i + 1) for i in range(len(layers) - 1)], np.int64).reshape(-1, 2)
    switch = np.where(np.eye(len(SCHEMES), dtype=bool), 0.0, 0.12)
    costs = Costs(
        "reference-npu",
        names,
        SCHEMES,
        {"latency_us": latency, "weight_bytes": size},
        {"latency_us": latency * 0, "weight_bytes": size * 0},
        allowed,
        edges,
        {"latency_us": np.repeat(switch[None], len(edges), 0)},
        parameters,
        reasons={},
        batch=16,
    )
    index = np.arange(len(layers))

    def predict(assignment: np.ndarray) -> dict[str, Estimate]:
        pair = switch[assignment[:-1], assignment[1:]].sum()
        return {
            "latency_us": Estimate(float(latency[index, assignment].sum() + pair)),
            "loss": Estimate(float(values[index, assignment].sum()), 0.002),
            "weight_bytes": Estimate(float(size[index, assignment].sum())),
        }

    def measure(assignment: np.ndarray) -> dict[str, Estimate]:
        loss = predict(assignment)["loss"].mean * rng.uniform(0.8, 1.7)
        return {"loss": Estimate(loss, 0.004 + 0.06 * loss)}

    candidates = []
    for weight in 10 ** np.linspace(-5, 1, 400):
        cost = np.where(allowed, values + weight * latency / latency.sum(), np.inf)
        candidates.append(cost.argmin(1))
    assignments = [np.array(a) for a in {tuple(c.tolist()): 0 for c in candidates}]
    objectives = np.array(
        [[predict(a)[o].mean for o in ("latency_us", "loss")] for a in assignments]
    )
    kept = [a for a, keep in zip(assignments, non_dominated(objectives), strict=True) if keep]
    kept.sort(key=lambda a: predict(a)["latency_us"].mean)
    every = max(1, len(kept) // 8)
    points = tuple(
        Point(tuple(a.tolist()), predict(a), measure(a) if i % every == every // 2 else {}, "exact")
        for i, a in enumerate(kept)
    )
    front = Front(
        points,
        ("latency_us", "loss"),
        SCHEMES,
        names,
        "exact",
        "complete: every non-dominated assignment of the additive problem",
    )
    measured = [p for p in points if p.measured]
    chosen = measured[len(measured) // 2]

    def row(label: str, assignment: np.ndarray, nll: float) -> PlanRow:
        found = predict(assignment)
        known = {tuple(p.assignment): p.measured for p in measured}
        return PlanRow(
            label,
            tuple(assignment.tolist()),
            found,
            known.get(tuple(assignment.tolist())) or measure(assignment),
            {"nll": Estimate(nll, 0.012), "accuracy": Estimate(0.95 - nll / 5, 0.008)},
            float(size[index, assignment].sum() * 8 / parameters.sum()),
            found["latency_us"].mean,
            found["weight_bytes"].mean,
        )

    def uniform(s: int) -> np.ndarray:
        return np.where(allowed[:, s], s, 0)

    rows = (
        PlanRow(
            "fp32", None, scores={"nll": Estimate(0.101, 0.011), "accuracy": Estimate(0.949, 0.008)}
        ),
        row("uniform fp16", uniform(0), 0.101),
        row("uniform fp8", uniform(1), 0.138),
        row("uniform nvfp4", uniform(2), 0.418),
        row("mixed", np.array(chosen.assignment), 0.142),
    )
    total = int(parameters.sum())
    coverage = Coverage(
        total,
        total + 2400,
        10**8,
        10**8 + 54321,
        (
            Undecided("head/GlobalAveragePool", "GlobalAveragePool", 0, 54321, "no weights"),
            Undecided("bias of 53 layers", "Conv", 2400, 0, "biases stay fp32"),
        ),
    )
    graph = ModelGraph(
        "orientation.onnx",
        (),
        {},
        (Value("x", (1, 3, 48, 192), "float32"),),
        (Value("y", (1, 2), "float32"),),
        {},
        layers,
        tuple(Edge(i, i + 1, 100) for i in range(len(layers) - 1)),
        groups,
        coverage,
        1,
        11,
        "0123456789abcdef" * 4,
    )
    return Report(
        "Text orientation",
        "orientation.onnx",
        "reference-npu",
        "npu",
        16,
        0,
        {"torch": "2.13.0", "instruction set": "AVX2", "threads": "2", "batch": "50"},
        front,
        table,
        costs,
        graph,
        rows,
        chosen,
        (0.93, len(measured)),
        (
            "Losses were measured on the 250 calibration samples, scores on 800 others.",
            "Latencies come from a model of the device that no measurement of this network confirmed.",
        ),
        {"calibration samples": "250", "held-out samples": "800"},
        unit=table.unit,
    )


def with_ranges(report: Report) -> Report:
    """The run with ranges that somebody looked at."""
    rng = np.random.default_rng(5)
    layers = []
    for layer in report.graph.layers:
        shares = rng.dirichlet(np.ones(20)) * 0.9
        amax = float(2 ** rng.uniform(2, 6))
        clips = {"fp8": amax, "nvfp4": amax * 0.7}
        shown = tuple([0.0] * 40 + shares.tolist())
        layers.append(
            Magnitudes(layer.name, "x", shown, 0.1, amax, clips, {"fp8": 0.0, "nvfp4": 0.01})
        )
    return replace(report, ranges=tuple(layers))


@pytest.fixture
def report() -> Report:
    return make_run()


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    return make_run


@pytest.fixture
def hostile() -> Report:
    """A run whose every string tries to break out."""
    bad = "</script><script>alert(1)</script>"
    names = (
        f"{bad}a",
        "<img src=x onerror=alert(2)>",
        "a'b\"c&amp;",
        "%{x}",
        "$\\frac{a}{b}$",
        "b",
    )
    made = make_run(6, names=names)
    return replace(
        made,
        title=bad,
        model=f"{bad}.onnx",
        device=bad,
        space=bad,
        fingerprint={bad: bad},
        rows=tuple(replace(row, label=f"{row.label}{bad}") for row in made.rows),
        notes=(bad, "javascript:alert(3)"),
        facts={bad: "https://example.org/x"},
    )
