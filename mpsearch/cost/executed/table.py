"""Kernels as they were measured one by one on one machine in one runtime: what a measured device file holds."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from mpsearch.artifacts import Content

NotNegative = Annotated[float, Field(ge=0)]
Form = Literal["float", "integer"]


class MeasuredKernel(Content):
    """One kernel alone, from a plain fp32 tensor to a plain fp32 tensor.

    Attributes:
        kernel: Operator, shapes and attributes (:attr:`mpsearch.cost.executed.kernel_shapes.KernelShape.key`).
        form: fp32, or on int8 operands.
        us: What it takes itself, a bias and a Relu behind it included.
        enter_us: Bringing its input into the layout that it computes in.
        leave_us: Bringing its result back.
        stderr_us: Standard error of ``us``.
    """

    kernel: str
    form: Form
    us: NotNegative
    enter_us: NotNegative = 0.0
    leave_us: NotNegative = 0.0
    stderr_us: NotNegative = 0.0


class MeasuredBoundary(Content):
    """What rounding a plain fp32 tensor to int8 takes, and the way back.

    Attributes:
        shape: Its sizes, ``1x8x24x96``.
        quantize_us: To codes.
        dequantize_us: From codes.
        emulate_us: Rounding it in fp32 arithmetic, for layers that no kernel reads codes of.
    """

    shape: str
    quantize_us: NotNegative = 0.0
    dequantize_us: NotNegative = 0.0
    emulate_us: NotNegative = 0.0


class MeasuredModel(Content):
    """A model in fp32, measured end to end.

    Attributes:
        model: Its file name.
        structure_digest: SHA-256 of its graph without weights.
        batch: Samples that ran together.
        float_us: What it takes.
        stderr_us: Standard error of ``float_us``.
        plain: Values that lie in memory in their plain layout: others would have to be brought into it.
        entered: Those of them that are brought into the layout of convolutions that read them.
    """

    model: str
    structure_digest: str
    batch: int
    float_us: NotNegative
    stderr_us: NotNegative = 0.0
    plain: tuple[str, ...] = ()
    entered: tuple[str, ...] = ()


class MeasuredTable(Content):
    """What a runtime takes on one machine, one thread, in CPU time.

    Attributes:
        runtime: ``onnxruntime``, ``openvino`` or ``torch``, whose rules say what is executed.
        version: Of the runtime.
        noise: Median relative standard error of a kernel.
        kernels: The kernels.
        boundaries: Tensors rounded and brought back.
        models: Whole models: what their layers do not take is what their other operators take.
        emulated: Scheme to why the runtime is no faster in it than in fp32.
    """

    runtime: str
    version: str
    noise: NotNegative
    kernels: tuple[MeasuredKernel, ...]
    boundaries: tuple[MeasuredBoundary, ...] = ()
    models: tuple[MeasuredModel, ...] = ()
    emulated: Mapping[str, str] = Field(default_factory=dict)
