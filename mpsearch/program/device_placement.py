"""Where tensors live on a machine with a GPU: shapes and small integers stay on the CPU.

Kernels read sizes, axes and bounds as Python numbers; from a GPU each of them would wait for all that runs.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.program.operators.attributes import Kernel
from mpsearch.program.tensors import to_tensor

_SMALL = 64  # elements of an integer constant that may be a shape

_HOST_INPUTS: Mapping[str, frozenset[int]] = MappingProxyType(
    {
        "AffineGrid": frozenset({1}),
        "CenterCropPad": frozenset({1}),
        "Col2Im": frozenset({1, 2}),
        "CumProd": frozenset({1}),
        "CumSum": frozenset({1}),
        "DFT": frozenset({1, 2}),
        "Expand": frozenset({1}),
        "If": frozenset({0}),
        "Loop": frozenset({0, 1}),
        "Pad": frozenset({1, 2, 3}),
        "Reshape": frozenset({1}),
        "Resize": frozenset({1, 2, 3}),
        "Slice": frozenset({1, 2, 3, 4}),
        "Split": frozenset({1}),
        "Squeeze": frozenset({1}),
        "Tile": frozenset({1}),
        "TopK": frozenset({1}),
        "Trilu": frozenset({1}),
        "Unsqueeze": frozenset({1}),
        "Upsample": frozenset({1}),
    }
)
_REDUCTION_AXES = frozenset({1})


def place_constant(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return a constant on ``device``, or on the CPU where it may be a shape."""
    small = array.dtype.kind in "iub" and array.size <= _SMALL
    return to_tensor(array, "cpu" if small else device)


def place_kernel(kernel: Kernel, op_type: str, device: torch.device) -> Kernel:
    """Return ``kernel`` with its inputs on one device: ``device`` as soon as one of them is there.

    Inputs that are read as numbers stay where they are. On the CPU it is the kernel itself.
    """
    if device.type == "cpu":
        return kernel
    host = _HOST_INPUTS.get(op_type, frozenset())
    if op_type.startswith("Reduce"):
        host = _REDUCTION_AXES

    def placed(*inputs: Tensor | None, **more: object) -> object:
        moving = [x for i, x in enumerate(inputs) if x is not None and i not in host]
        if len({x.device.type for x in moving}) > 1:
            inputs = tuple(
                x if x is None or i in host else x.to(device) for i, x in enumerate(inputs)
            )
        return kernel(*inputs, **more)

    return placed
