"""Gradients of native operators against finite differences, in double precision."""

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from mpsearch.program.operators.table import OPERATORS
from mpsearch.program.program import Program
from mpsearch.program.schedule import make_schedule, run_schedule
from mpsearch.program.tensors import to_tensor
from tests.program.operators.test_onnx_backend import is_known
from tests.support import gradient_cases
from tests.support.backend_cases import arrays_of, load_cases
from tests.support.protos import program_of

STEP = 1e-6
# Results that are integers, truths, shapes, draws, or that numbers do not flow through: no slope to compare.
NO_SLOPE = {
    ("", name)
    for name in (
        "And", "ArgMax", "ArgMin", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
        "BitwiseXor", "BlackmanWindow", "Constant", "ConstantOfShape", "ConvInteger",
        "DynamicQuantizeLinear", "Equal", "EyeLike", "Greater", "GreaterOrEqual", "HammingWindow",
        "HannWindow", "IsInf", "IsNaN", "Less", "LessOrEqual", "MatMulInteger", "MelWeightMatrix",
        "Multinomial", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "QLinearConv",
        "QLinearMatMul", "QuantizeLinear", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike", "Range", "Shape", "Size", "Unique", "Xor",
    )
}  # fmt: skip
# Cases of ONNX's own that jump or repeat a choice; ours stand in gradient_cases.
UNEVEN = {"Cast", "CastLike", "DequantizeLinear", "Resize", "TreeEnsemble"}


def is_smooth_case(case: Any) -> bool:
    graph = case.model.graph
    kinds = {node.op_type for node in graph.node}
    inputs = arrays_of(case.data_sets[0][0])
    floats = [a for a in inputs if isinstance(a, np.ndarray) and a.dtype == np.float32 and a.size]
    outputs = [a for a in arrays_of(case.data_sets[0][1]) if a.dtype == np.float32]
    finite = all(np.isfinite(a).all() for a in (*floats, *outputs))
    return (
        bool(floats and outputs)
        and finite
        and len(kinds) == 1
        and not kinds & UNEVEN
        and not any(("", kind) in NO_SLOPE for kind in kinds)
        and "expanded" not in case.name
        and not is_known(case.name)
    )


def slope(program: Program, inputs: list[Tensor]) -> Tensor:
    """A weighted sum of all floating-point outputs."""
    values = program.make_values()
    for name, tensor in zip(program.inputs, inputs, strict=False):
        values[program.slots[name]] = tensor
    slots = [program.slots[name] for name in program.outputs]
    run_schedule(make_schedule(program, slots), values)
    total = torch.zeros((), dtype=torch.float64)
    for slot in slots:
        tensor = values[slot]
        if tensor is not None and tensor.is_floating_point():
            generator = torch.Generator().manual_seed(tensor.numel())
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            total = total + (tensor.double() * drawn).sum()
    return total


CASES = [case for case in load_cases() if is_smooth_case(case)]


def test_every_native_operator_has_a_slope_that_is_tried_or_none() -> None:
    tried = {(node.domain, node.op_type) for case in CASES for node in case.model.graph.node}
    tried |= {(case.domain, case.op_type) for case in gradient_cases.CASES}
    assert set(OPERATORS) - tried == NO_SLOPE
    assert not tried & NO_SLOPE


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_gradient_equals_a_finite_difference(case: Any) -> None:
    check_gradient(case.model, arrays_of(case.data_sets[0][0]))


@pytest.mark.parametrize(
    "case", gradient_cases.CASES, ids=[f"{c.domain}{c.op_type}" for c in gradient_cases.CASES]
)
def test_gradient_of_further_operators_equals_a_finite_difference(
    case: gradient_cases.Case,
) -> None:
    assert check_gradient(case.model(), case.moving()) != 0


def check_gradient(model: onnx.ModelProto, arrays: list[Any]) -> float:
    """Compare a directional derivative with a central difference; return it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = program_of(model)
    generator = torch.Generator().manual_seed(0)
    inputs, directions = [], []
    for array in arrays:
        tensor = to_tensor(array)
        direction = torch.zeros_like(tensor)
        if tensor.dtype == torch.float32 and tensor.numel():
            tensor = tensor.double()
            direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor = (tensor + 1e-3 * direction.abs()).requires_grad_()  # away from ties and kinks
        inputs.append(tensor)
        directions.append(direction)
    total = slope(program, inputs)
    if total.requires_grad:
        moving = [x for x in inputs if x.requires_grad]
        grads = torch.autograd.grad(total, moving, allow_unused=True)
        pairs = iter(grads)
        analytic = sum(
            float((g * d).sum())
            for x, d in zip(inputs, directions, strict=True)
            if x.requires_grad and (g := next(pairs)) is not None
        )
    else:
        analytic = 0.0
    ends = []
    for sign in (1, -1):
        moved = [
            (x.detach() + sign * STEP * d) if x.requires_grad else x
            for x, d in zip(inputs, directions, strict=True)
        ]
        ends.append(float(slope(program, moved).detach()))
    numeric = (ends[0] - ends[1]) / (2 * STEP)
    assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-5)
    return analytic
