"""What a plan changes is what runs: weights, biases and constants in the place of the model's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.schemes import find_scheme
from mpsearch.simulate.changes import Changes, output_channel_axis
from mpsearch.simulate.probe import capture, quantized_weight, simulated_weight
from mpsearch.simulate.simulator import Simulator
from mpsearch.space.space import SearchSpace
from tests.support.torch_models import attention_net, conv_net, images, imported, sentences

SPACE = SearchSpace("test", tuple(map(find_scheme, ("fp16", "fp8", "nvfp4a16"))), "fp16")
FP16, NVFP4 = 0, 2


def prepare(model: onnx.ModelProto, folder: Path, data: Batches) -> Simulator:
    folder.mkdir()
    return Simulator(imported(model, folder), SPACE, data)


def run(simulator: Simulator, scheme: int) -> Tensor:
    (output,) = simulator.run(simulator.feed(0), np.full(len(simulator.groups), scheme)).values()
    return output


def with_initialiser(
    model: onnx.ModelProto, name: str, array: NDArray[np.floating[Any]]
) -> onnx.ModelProto:  # type: ignore[type-arg]
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (tensor,) = (t for t in other.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return other


def initialiser(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor)


def layer_of(simulator: Simulator, name: str) -> int:
    return [layer.name for layer in simulator.graph.layers].index(name)


def test_stored_weights_are_those_of_a_model_that_has_them(tmp_path: Path) -> None:
    model = conv_net(softmax=False)
    halved = with_initialiser(model, "w2", initialiser(model, "w2") / 2)
    mine, other = (
        prepare(model, tmp_path / "a", images()),
        prepare(halved, tmp_path / "b", images()),
    )
    layer = layer_of(mine, "pointwise")
    changed = mine.change(
        Changes(weights={(layer, 0): quantized_weight(other.calibrated, layer, NVFP4)})
    )
    assert torch.equal(run(changed, NVFP4), run(other, NVFP4))
    assert not torch.equal(run(changed, NVFP4), run(mine, NVFP4))
    held = quantized_weight(changed.calibrated, layer, NVFP4)
    expected = quantized_weight(other.calibrated, layer, NVFP4)
    assert held.scales is not None
    assert expected.scales is not None
    assert torch.equal(held.codes, expected.codes)
    assert torch.equal(held.scales, expected.scales)
    assert torch.equal(simulated_weight(changed.calibrated, layer, NVFP4), held.dequantize())


def test_a_bias_is_added_before_the_output_is_rounded(tmp_path: Path) -> None:
    model = conv_net(softmax=False)
    change = np.linspace(-1, 1, 24)
    moved = with_initialiser(model, "b2", initialiser(model, "b2") + change)
    mine, other = prepare(model, tmp_path / "a", images()), prepare(moved, tmp_path / "b", images())
    layer = layer_of(mine, "pointwise")
    changed = mine.change(Changes(biases={layer: torch.tensor(change, dtype=torch.float32)}))
    torch.testing.assert_close(run(changed, FP16), run(other, FP16), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(run(changed, FP16), run(mine, FP16), rtol=1e-2)


def test_a_bias_reaches_products_that_have_none(tmp_path: Path) -> None:
    simulator = prepare(attention_net(), tmp_path / "a", sentences())
    layer = layer_of(simulator, "out")
    bias = torch.linspace(-1, 1, simulator.graph.layers[layer].n)
    changed = simulator.change(Changes(biases={layer: bias}))
    assignment = np.full(len(simulator.groups), FP16)
    output = simulator.graph.layers[layer].output
    before = capture(simulator.calibrated, [layer], simulator.feed(0), assignment)[output]
    after = capture(changed.calibrated, [layer], changed.feed(0), assignment)[output]
    torch.testing.assert_close(after, before + bias, rtol=1e-3, atol=2e-3)


def test_changed_constants_are_compiled_in(tmp_path: Path) -> None:
    model = conv_net(softmax=False)
    doubled = with_initialiser(model, "w2", initialiser(model, "w2") * 2)
    mine, other = (
        prepare(model, tmp_path / "a", images()),
        prepare(doubled, tmp_path / "b", images()),
    )
    value = mine.graph.layers[layer_of(mine, "pointwise")].gemms[0].right.value
    changed = mine.change(Changes(constants={value: np.asarray(mine.graph.constants[value]) * 2}))
    assert torch.equal(run(changed, NVFP4), run(other, NVFP4))


def test_losses_compare_with_the_unchanged_model(tmp_path: Path) -> None:
    simulator = prepare(conv_net(), tmp_path / "a", images())
    layer = layer_of(simulator, "head")
    changed = simulator.change(Changes(biases={layer: torch.tensor([3.0, 0, 0, 0, 0])}))
    assignment = np.full(len(simulator.groups), FP16)
    assert changed.loss(assignment).mean > 0.1 > simulator.loss(assignment).mean


@pytest.mark.parametrize(
    ("name", "axis"), [("stem", 1), ("depthwise", 1), ("pointwise", 1), ("head", -1)]
)
def test_biases_run_along_the_output_channels(tmp_path: Path, name: str, axis: int) -> None:
    simulator = prepare(conv_net(), tmp_path / "a", images())
    assert output_channel_axis(simulator.graph.layers[layer_of(simulator, name)]) == axis


def test_ranges_of_changed_constants_take_the_place_of_others(tmp_path: Path) -> None:
    simulator = prepare(attention_net(), tmp_path / "a", sentences())
    fp8 = find_scheme("fp8").activation
    key = next(key for key in simulator.ranges if key[1] == fp8 and key[0])
    narrow = replace(simulator.ranges[key], scale=simulator.ranges[key].scale / 8)
    value = next(iter(simulator.graph.constants))
    same = np.asarray(simulator.graph.constants[value])
    changed = simulator.change(Changes(constants={value: same}, ranges={key: narrow}))
    assert changed.ranges[key] == narrow
    assert changed.calibrated.unchanged.ranges[key] == simulator.ranges[key]
    assert not torch.equal(run(changed, 1), run(simulator, 1))
