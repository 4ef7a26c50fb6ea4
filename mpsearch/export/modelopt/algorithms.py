"""What ModelOpt calls a scheme: the algorithms that readers of mixed checkpoints honour.

Source: vLLM, ``quantization/modelopt.py``, ``ModelOptMixedPrecisionConfig``: of each linear layer it takes FP8, NVFP4 and
W4A16_NVFP4, and leaves a layer of any other algorithm unquantised without a word.
"""

from mpsearch.schemes import Scheme, Spec

TAKES = "fp8_tensor (FP8), nvfp4 (NVFP4), nvfp4a16 (W4A16_NVFP4), and the base"


def find_algorithm(scheme: Scheme) -> str:
    """Return ModelOpt's name of a scheme whose weights have scales; "" where mixed checkpoints cannot hold it."""
    weight, activation = scheme.weight, scheme.activation
    if _is_nvfp4(weight) and activation.is_cast:
        return "W4A16_NVFP4"
    if _is_nvfp4(weight) and _is_nvfp4(activation):
        return "NVFP4" if _is_calibrated(activation) and activation.block_scale == "amax" else ""
    if _is_fp8(weight) and _is_fp8(activation) and _is_calibrated(activation):
        return "FP8"
    return ""


def _is_nvfp4(spec: Spec) -> bool:
    return spec.format == "e2m1" and spec.tensor_scale and spec.block_shape == (1, 16)


def _is_fp8(spec: Spec) -> bool:
    return spec.format == "e4m3" and spec.granularity == "tensor" and spec.scale_format == "fp32"


def _is_calibrated(spec: Spec) -> bool:
    return spec.range == "static" and spec.subnormals
