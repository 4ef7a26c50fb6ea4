"""What torchao calls a scheme: the configuration of a module, as torchao 0.18 serialises it.

Source: torchao 0.18.0, ``core/config.py`` (``config_to_dict``) and ``quantization/quant_api.py``.
"""

from typing import Any

from mpsearch.schemes import Scheme, Spec

TAKES = "fp8_dynamic, int8_dynamic, nvfp4a16, w8a16 and w4a16 in groups of any size, fp8 and int8 weights alone, and the base"

Json = dict[str, Any]
_ROW: Json = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
_TENSOR: Json = {"_type": "PerTensor", "_version": 1, "_data": {}}


def find_config(scheme: Scheme) -> Json | None:
    """Return torchao's configuration for ``scheme``, whose weights have scales; None where it has none."""
    weight, activation = scheme.weight, scheme.activation
    if not (weight.symmetric and weight.subnormals):
        return None
    if activation.is_cast:
        return _weight_only(weight)
    if not _is_live(activation) or weight.granularity != "channel":
        return None
    if weight.format == activation.format == "e4m3":
        return _float8_dynamic()
    if weight.format == activation.format == "int8":
        return _int8_dynamic()
    return None


def group_of(scheme: Scheme) -> int:
    """Return what the reduction must be divisible by."""
    shape = scheme.weight.block_shape
    return 1 if shape is None else shape[1]


def for_modules(found: dict[str, Json]) -> Json:
    """Return the configuration of a whole model: module to its own, all others left as they are."""
    return _config("FqnToConfig", 1, fqn_to_config=found, module_fqn_to_config=found)


def _weight_only(spec: Spec) -> Json | None:
    if spec.format == "e2m1" and spec.tensor_scale and spec.block_shape == (1, 16):
        return _config("NVFP4WeightOnlyConfig", 1, use_dynamic_per_tensor_scale=True)
    if spec.format == "e4m3" and spec.granularity in ("tensor", "channel"):
        return _config(
            "Float8WeightOnlyConfig",
            2,
            weight_dtype=_dtype("float8_e4m3fn"),
            set_inductor_config=True,
            granularity=_ROW if spec.granularity == "channel" else _TENSOR,
        )
    if spec.format == "int8" and spec.granularity == "channel":
        return _config(
            "Int8WeightOnlyConfig", 2, group_size=None, granularity=_ROW, set_inductor_config=True
        )
    shape = spec.block_shape
    if spec.element.kind == "int" and spec.granularity == "group" and shape and shape[0] == 1:
        scales = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
        if spec.scale_format not in scales:
            return None
        return _config(
            "IntxWeightOnlyConfig",
            2,
            weight_dtype=_dtype(spec.format),
            granularity={"_type": "PerGroup", "_version": 1, "_data": {"group_size": shape[1]}},
            mapping_type=_choice("MappingType", "SYMMETRIC_NO_CLIPPING_ERR"),
            scale_dtype=_dtype(scales[spec.scale_format]),
            intx_packing_format=_choice("IntxPackingFormat", "UNPACKED_TO_INT8"),
            intx_choose_qparams_algorithm=_choice("IntxChooseQParamsAlgorithm", "AFFINE"),
        )
    return None


def _float8_dynamic() -> Json:
    return _config(
        "Float8DynamicActivationFloat8WeightConfig",
        2,
        activation_dtype=_dtype("float8_e4m3fn"),
        weight_dtype=_dtype("float8_e4m3fn"),
        granularity=[_ROW, _ROW],
        packing_format=_choice("Float8PackingFormat", "PLAIN"),
        mm_config=_config(
            "Float8MMConfig", 1, emulate=False, use_fast_accum=True, pad_inner_dim=False
        ),
        activation_value_lb=None,
        activation_value_ub=None,
        kernel_preference=_choice("KernelPreference", "AUTO"),
        set_inductor_config=True,
        alg_id=0,
    )


def _int8_dynamic() -> Json:
    return _config(
        "Int8DynamicActivationInt8WeightConfig",
        2,
        act_mapping_type=_choice("MappingType", "SYMMETRIC"),
        weight_only_decode=False,
        granularity=_ROW,
        set_inductor_config=True,
        reduce_range=False,
    )


def _is_live(spec: Spec) -> bool:
    """Whether each token has a scale of its own amax."""
    is_token = spec.granularity == "token" and spec.range == "dynamic"
    return is_token and spec.symmetric and spec.estimator == "amax" and spec.subnormals


def _config(kind: str, version: int, **data: Any) -> Json:
    return {"_type": kind, "_version": version, "_data": data}


def _choice(kind: str, name: str) -> Json:
    return {"_type": kind, "_data": name}


def _dtype(name: str) -> Json:
    return {"_type": "torch.dtype", "_data": name}
