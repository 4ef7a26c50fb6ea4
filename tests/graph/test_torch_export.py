"""Modules through torch's exporter: same outputs, parameter names and module names kept."""

import pytest
import torch

from mpsearch.errors import MissingExtraError, ModelError
from mpsearch.graph import torch_export
from mpsearch.graph.onnx_file.write import to_onnx
from mpsearch.graph.torch_export import import_torch
from tests.support.graph_models import run


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(pooled)


def test_a_missing_exporter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_export, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"mpsearch\[torch-export\]"):
        import_torch(Small(), torch.zeros(1, 3, 8, 8))


@pytest.mark.filterwarnings("ignore")
def test_a_module_comes_in_with_its_names() -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module = Small().eval()
    graph = import_torch(module, torch.zeros(1, 3, 8, 8))
    assert [layer.fqn for layer in graph.layers] == ["conv", "head"]
    assert [layer.gemms[0].right.source for layer in graph.layers] == ["conv.weight", "head.weight"]
    assert graph.inputs[0].shape == (None, 3, 8, 8)
    for batch in (1, 4):
        x = torch.randn(batch, 3, 8, 8)
        (found,) = run(to_onnx(graph), {graph.inputs[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_module_that_cannot_be_exported_is_named() -> None:
    pytest.importorskip("onnxscript")

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * int(input())

    with pytest.raises(ModelError, match="Odd: torch cannot export it"):
        import_torch(Odd(), torch.zeros(2))
