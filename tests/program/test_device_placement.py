"""Shapes stay on the CPU, operands meet on the device (a meta device stands for a GPU)."""

import numpy as np
import torch

from mpsearch.program.device_placement import place_constant, place_kernel

META = torch.device("meta")


def test_small_integers_stay_and_weights_move() -> None:
    assert place_constant(np.array([1, -1]), META).device.type == "cpu"
    assert place_constant(np.zeros(100, np.int64), META).device.type == "meta"
    assert place_constant(np.zeros(2, np.float32), META).device.type == "meta"


def test_operands_meet_on_the_device() -> None:
    add = place_kernel(torch.add, "Add", META)
    assert add(torch.zeros(2, device=META), torch.zeros(2)).device.type == "meta"
    assert add(torch.zeros(2), torch.zeros(2)).device.type == "cpu"


def test_sizes_are_read_where_they_are() -> None:
    seen: list[str] = []

    def reshape(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        seen.append(shape.device.type)
        return x.reshape(shape.tolist())

    placed = place_kernel(reshape, "Reshape", META)
    assert placed(torch.zeros(4, device=META), torch.tensor([2, 2])).shape == (2, 2)
    assert seen == ["cpu"]


def test_on_the_cpu_kernels_stay_themselves() -> None:
    assert place_kernel(torch.add, "Add", torch.device("cpu")) is torch.add
