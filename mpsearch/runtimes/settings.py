"""Settings under which runtimes compute what an exported model says, without those runtimes."""

OPENVINO = {
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "LP_TRANSFORMS_MODE": "NO",
}
"""Else OpenVINO may compute in bf16, round activations of weight-only layers, and refuse int8 beside nvfp4."""
