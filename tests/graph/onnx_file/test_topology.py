"""Nodes that a file gives out of order are sorted, and otherwise stay as they stand."""

import numpy as np
import onnx
import pytest

from mpsearch.graph.onnx_file.topology import in_order, reads


@pytest.mark.parametrize("seed", range(20))
def test_the_earliest_node_that_can_run_comes_next(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = [
        onnx.helper.make_node(
            "Sum", [*rng.choice([f"v{j}" for j in range(i)], min(i, 2)), "x"], [v]
        )
        for i, v in enumerate(f"v{i}" for i in range(40))
    ]
    nodes = [made[i] for i in rng.permutation(40)] if seed else made
    left, known, wanted = list(nodes), {"x"}, []
    while left:
        first = next(node for node in left if reads(node) <= known)
        wanted.append(first.output[0])
        known.update(first.output)
        left.remove(first)
    assert [node.output[0] for node in in_order(nodes, {"x"}, "m")] == wanted
