"""What every metric promises, as checks that a third party's own metric can be put through.

    import pytest
    from mpsearch.testing.metrics import CHECKS
    from my_package import METRIC  # Metric(score), as the entry point mpsearch.metrics names it

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_my_metric(check):
        check(METRIC)

A metric is ``score(task: MetricTask, *, own settings with defaults) -> Table`` and what it declares of itself
(:class:`mpsearch.sensitivity.task.Metric`). Each check raises AssertionError, which says what is promised and was not kept.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpsearch.cost.device import read_device
from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.data.batches import make_batches
from mpsearch.deadline import deadline_in
from mpsearch.errors import DataError
from mpsearch.graph.importer import import_onnx
from mpsearch.problem.tables import read_table, write_table
from mpsearch.schemes import find_scheme
from mpsearch.sensitivity.score_sensitivity import run_metric
from mpsearch.sensitivity.task import Metric, MetricTask
from mpsearch.simulate.observation import SilentActivationWarning
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace

Check = Callable[[Metric], None]

SCHEMES = ("fp16", "fp8", "nvfp4", "fp8_2of4")


def example_simulator(
    sizes: tuple[int, ...] = (18, 16, 12, 5), *, samples: int = 24, scale: float = 1.0
) -> Simulator:
    """Return a perceptron that classifies, with random weights and inputs, in four schemes.

    Args:
        sizes: Features of the input and of each layer. Layers that read features in no multiple of four
            cannot be pruned 2:4.
        samples: Calibration samples, ten a batch.
        scale: Of all weights and inputs; 0 makes every layer dead.
    """
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for i, (n, m) in enumerate(pairwise(sizes)):
        weight = (scale * rng.standard_normal((n, m)) * (2 / n) ** 0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"h{i}"], f"fc{i}"))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"], f"relu{i}"))
        value = f"r{i}"
    nodes[-1] = helper.make_node("Softmax", [nodes[-2].output[0]], ["y"], "softmax", axis=-1)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", sizes[0]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", sizes[-1]])]
    graph = helper.make_graph(nodes, "perceptron", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.float32(scale) * rng.standard_normal((samples, sizes[0]), dtype=np.float32)
    space = SearchSpace("example", tuple(find_scheme(name) for name in SCHEMES), SCHEMES[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "perceptron.onnx"
        onnx.save(model, path)
        imported = import_onnx(path)
        return Simulator(imported, space, make_batches({"x": x}, batch_size=10), device="cpu")


def check_declaration(metric: Metric) -> None:
    """Its own settings are keyword-only and have defaults of their own kind; it takes any task."""
    for setting in metric.settings.values():
        fine = setting.default is None or setting.takes(setting.default)
        assert fine, f"the default of {setting.name} must be {setting.wanted}"
    simulator = example_simulator()
    costs = estimate_costs(simulator.graph, simulator.space, read_device("npu_200tops"), batch=8)
    run_metric(metric, MetricTask(simulator, costs, budget=40, seed=1))


def check_shape(metric: Metric) -> None:
    """The table is groups by schemes, in the simulator's order, in a unit."""
    simulator = example_simulator()
    table = run_metric(metric, MetricTask(simulator))
    assert table.groups == simulator.groups, "groups must be the simulator's, in its order"
    assert table.schemes == simulator.space.names, "schemes must be the space's, in its order"
    shape = (len(table.groups), len(table.schemes))
    for name, array in (("values", table.values), ("stderr", table.stderr), *table.details.items()):
        assert array.shape == shape, f"{name} must have shape {shape}, got {array.shape}"
        assert np.isfinite(array).all(), f"{name} must be finite"
    assert (table.stderr >= 0).all(), "standard errors must not be negative"
    assert table.metric, "the table must name its metric"
    assert table.unit, "the table must name its unit"


def check_forbidden_entries(metric: Metric) -> None:
    """The base and what is not allowed are zero; what is not allowed has a reason."""
    simulator = example_simulator()
    table = run_metric(metric, MetricTask(simulator))
    np.testing.assert_array_equal(table.allowed, simulator.allowed)
    assert (table.values[:, 0] == 0).all(), "the base format must be 0"
    assert (table.values[~table.allowed] == 0).all(), "what is not allowed must be 0"
    for g, s in np.argwhere(~table.allowed).tolist():
        assert (table.groups[g], table.schemes[s]) in table.reasons, "reasons must be kept"


def check_direction(metric: Metric) -> None:
    """Values are minimised: fp8 everywhere is better than nvfp4 everywhere, and worse than the base."""
    totals = run_metric(metric, MetricTask(example_simulator())).values.sum(axis=0)
    assert 0 < totals[1] < totals[2], "fewer bits must add up to more, and all to more than 0"


def check_repeatability(metric: Metric) -> None:
    """The same seed gives the same table to the last bit, also on a simulator that has measured before."""
    simulator = example_simulator()
    first, second = (
        run_metric(metric, MetricTask(simulator, seed=3)),
        run_metric(metric, MetricTask(simulator, seed=3)),
    )
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.stderr, second.stderr)


def check_progress(metric: Metric) -> None:
    """Progress never goes back and ends at its total."""
    seen: list[tuple[int, int]] = []
    task = MetricTask(
        example_simulator(), progress=lambda done, total, _: seen.append((done, total))
    )
    run_metric(metric, task)
    assert seen, "progress must be told"
    assert seen[-1][0] == seen[-1][1], f"progress must end at its total, ended at {seen[-1]}"
    counts = [done for done, _ in seen]
    assert counts == sorted(counts), "progress must not go back"


def check_deadline(metric: Metric) -> None:
    """One that says that it stops early does, and says so in the table."""
    if metric.stops_early:
        table = run_metric(metric, MetricTask(example_simulator(), deadline=deadline_in(0.0)))
        assert table.notes, "a table that was cut short must say so"


def check_file(metric: Metric) -> None:
    """The table can be written and read."""
    table = run_metric(metric, MetricTask(example_simulator()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        write_table(table, path)
        np.testing.assert_array_equal(read_table(path).values, table.values)


def check_one_sample(metric: Metric) -> None:
    """One sample gives a table with errors, or an error that says how many samples it needs."""
    refused = ""
    try:
        table = run_metric(metric, MetricTask(example_simulator(samples=1)))
    except DataError as error:
        refused = str(error)
    if refused:
        assert "samples" in refused, "the error must say how many samples are needed"
        return
    assert np.isfinite(table.values).all(), "values must be finite"
    assert np.isfinite(table.stderr).all(), "standard errors must be finite"
    assert table.stderr.sum() > 0, "of one sample no error is known: it must not be 0"


def check_dead_layers(metric: Metric) -> None:
    """Layers that compute nothing have zero sensitivity, without error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SilentActivationWarning)  # they are dead on purpose
        table = run_metric(metric, MetricTask(example_simulator((16, 8, 3), scale=0.0)))
    assert (table.values == 0).all(), "a dead layer must have zero sensitivity"
    assert (table.stderr == 0).all(), "of a dead layer it is known that it does nothing"


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        check.__name__.removeprefix("check_"): check
        for check in (
            check_declaration,
            check_shape,
            check_forbidden_entries,
            check_direction,
            check_repeatability,
            check_progress,
            check_deadline,
            check_file,
            check_one_sample,
            check_dead_layers,
        )
    }
)
"""Name to check."""
