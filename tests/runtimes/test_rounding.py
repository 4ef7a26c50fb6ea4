"""The oracle rounds as OpenVINO does, to the bit."""

import numpy as np
import pytest
import torch
from onnx.inliner import inline_local_functions

from mpsearch.export.onnx.builder import Writer
from mpsearch.export.onnx.encode_activation import Activation, encode_activation
from mpsearch.numerics.quantize import quantize_activation
from mpsearch.numerics.ranges import make_range
from mpsearch.runtimes.rounding import round_through_half
from mpsearch.runtimes.settings import OPENVINO
from mpsearch.schemes import find_scheme
from tests.export.onnx.test_encodings import build

openvino = pytest.importorskip("openvino")


@pytest.mark.parametrize("scheme", ["fp8", "nvfp4", "mxfp8", "mxfp8_e5m2"])
def test_rounding_through_half_is_what_openvino_does(scheme: str) -> None:
    spec = find_scheme(scheme).activation
    x = np.random.default_rng(1).standard_normal((64, 512)).astype(np.float32)
    found = make_range(-3.0, 2.5, spec)
    writer = Writer("a")
    output = encode_activation(writer, Activation("x", 2, 1, 512), spec, found)
    model = inline_local_functions(build(writer, output, x, x.shape))
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", OPENVINO)
    got = compiled({"x": x})[compiled.outputs[0]]
    expected = round_through_half(torch.from_numpy(x), spec, found, reduction_axis=1)
    np.testing.assert_array_equal(got, expected.numpy())
    plain = quantize_activation(torch.from_numpy(x), spec, reduction_axis=1, range=found)
    assert (got != plain.numpy()).any()  # otherwise this oracle would not be needed


@pytest.mark.parametrize("scheme", ["fp8", "nvfp4", "mxfp8"])
def test_what_was_rounded_through_half_stays_as_it_is(scheme: str) -> None:
    spec = find_scheme(scheme).activation
    x = torch.randn(32, 256, generator=torch.Generator().manual_seed(2))
    found = make_range(-3.0, 3.0, spec)
    once = round_through_half(x, spec, found, reduction_axis=1)
    again = quantize_activation(once, spec, reduction_axis=1, range=found)
    torch.testing.assert_close(again, once, rtol=1e-6, atol=0.0)
