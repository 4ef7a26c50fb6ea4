"""``ModelGraph.to_networkx``: layers, what they are, and what a table and a plan say of them."""

import json
import subprocess
import sys
from types import SimpleNamespace

import networkx
import numpy as np
import pytest

from mpsearch.errors import ProblemError
from mpsearch.problem.tables import Table
from tests.support.handmade_graph import attention, conv, graph_of, linear

LAYERS = (conv("a", 8, 4, 8, 3), linear("b", 4, 16, 8, role="head"), attention("c", 2, 6, 8))
GRAPH = graph_of(LAYERS, edges=[(0, 1, 32), (0, 2, 64), (1, 2, 128)], groups=[(0, 2), (1,)])
TABLE = Table(
    "hand",
    "nats",
    tuple(group.name for group in GRAPH.groups),
    ("fp32", "fp8"),
    values=np.array([[0.0, 0.5], [0.0, 0.25]]),
    stderr=np.zeros((2, 2)),
    allowed=np.array([[True, True], [True, False]]),
)


def test_layers_and_edges_are_those_of_the_model() -> None:
    net = GRAPH.to_networkx()
    assert list(net) == ["a", "b", "c"]
    assert set(net.edges) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert net.edges["b", "c"]["elements"] == 128
    assert net.nodes["a"]["flops"] == 2 * 64 * 8 * 36 == LAYERS[0].flops
    assert net.nodes["b"]["parameters"] == 128
    assert (net.nodes["b"]["role"], net.nodes["b"]["op_type"]) == ("head", "Gemm")
    assert [net.nodes[name]["group"] for name in net] == ["a", "b", "a"]
    assert "sensitivity" not in net.nodes["a"]
    assert "scheme" not in net.nodes["a"]
    assert networkx.descendants(net, "b") == {"c"}


def test_a_table_adds_the_loss_of_each_allowed_scheme() -> None:
    net = GRAPH.to_networkx(table=TABLE)
    assert net.nodes["c"]["sensitivity"] == {"fp32": 0.0, "fp8": 0.5}
    assert net.nodes["b"]["sensitivity"] == {"fp32": 0.0}
    json.dumps(networkx.node_link_data(net))


def test_an_assignment_or_a_plan_adds_schemes() -> None:
    net = GRAPH.to_networkx(table=TABLE, assignment=[1, 0])
    assert [net.nodes[name]["scheme"] for name in net] == ["fp8", "fp32", "fp8"]
    plan = SimpleNamespace(
        decisions=(SimpleNamespace(site=SimpleNamespace(node="b"), scheme="fp8"),)
    )
    assert GRAPH.to_networkx(plan=plan).nodes["b"]["scheme"] == "fp8"
    assert GRAPH.to_networkx(plan=plan).nodes["a"]["scheme"] is None


def test_what_is_for_another_model_is_refused() -> None:
    other = graph_of(LAYERS[:2])
    with pytest.raises(ProblemError, match="groups"):
        other.to_networkx(table=Table("x", "nats", ("z",), ("fp32",), *np.zeros((3, 1, 1))))
    with pytest.raises(ProblemError, match="one a group"):
        GRAPH.to_networkx(table=TABLE, assignment=[1])
    with pytest.raises(ProblemError, match="no table"):
        GRAPH.to_networkx(assignment=[1, 0])
    plan = SimpleNamespace(
        decisions=(SimpleNamespace(site=SimpleNamespace(node="z"), scheme="fp8"),)
    )
    with pytest.raises(ProblemError, match="'z'"):
        GRAPH.to_networkx(plan=plan)


def test_an_import_does_not_load_networkx() -> None:
    code = "import sys, mpsearch.graph.importer; print('networkx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
