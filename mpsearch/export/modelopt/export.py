"""A plan as a checkpoint in ModelOpt's format: safetensors, ``config.json`` and ``hf_quant_config.json``."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpsearch.export.checkpoint.config import write_config
from mpsearch.export.checkpoint.fused import share_scales
from mpsearch.export.checkpoint.source import read_source
from mpsearch.export.checkpoint.tensors import Named, name_layers, plain_tensors
from mpsearch.export.checkpoint.write import write_tensors
from mpsearch.export.exporter import Exporter
from mpsearch.export.modelopt.algorithms import find_algorithm
from mpsearch.export.planned import PlannedWeights
from mpsearch.graph.model import ModelGraph
from mpsearch.numerics.packing import encode, pack_bits
from mpsearch.plan.plan import Plan

VERSION = "0.47.0"
"""The ModelOpt whose files these are like; readers ask for the producer ``modelopt``."""

_FUSED = ("qkv_proj", "gate_up_proj", "in_proj_qkvz", "in_proj_ba")
"""What vLLM calls layers that it runs as one."""


def export(
    plan: Plan, graph: ModelGraph, weights: PlannedWeights, folder: Path, config: Path | None
) -> list[Path]:
    """Write a ModelOpt checkpoint, for TensorRT-LLM and vLLM.

    Args:
        plan: Made for ``graph``, with the scales of fused layers shared.
        graph: The model.
        weights: What each layer stores.
        folder: Where to.
        config: Folder of the Hugging Face model, its ``config.json``, or None.

    Raises:
        PlanError: The plan does not fit, or fused layers differ.
        ModelError: ``config`` cannot be read.
    """
    named = name_layers(plan, graph, weights, read_source(config), "modelopt")
    files = write_tensors(_tensors(plan, named), folder)
    files.append(write_config(folder, named, {}))
    if named.quantized:
        path = folder / "hf_quant_config.json"
        path.write_text(json.dumps(quant_config(named), indent=2) + "\n")
        files.append(path)
    return files


def quant_config(named: Named) -> dict[str, Any]:
    """Return the content of ``hf_quant_config.json``."""
    layers: dict[str, dict[str, str | int]] = {}
    for i, module in named.quantized.items():
        algorithm = find_algorithm(named.schemes[i])
        layers[module] = {"quant_algo": algorithm}
        if algorithm != "FP8":
            layers[module]["group_size"] = 16
    return {
        "producer": {"name": "modelopt", "version": VERSION},
        "quantization": {
            "quant_algo": "MIXED_PRECISION",
            "kv_cache_quant_algo": None,
            "exclude_modules": excluded(named.plain, named.quantized.values()),
            "quantized_layers": layers,
        },
    }


def excluded(plain: Iterable[str], quantized: Iterable[str]) -> list[str]:
    """Return the modules of ``plain`` to exclude: those whose name is part of no quantised one's.

    vLLM leaves out every layer whose name holds an excluded one, the names of its fused layers among them. What is
    left out here is not quantised all the same, since it has no algorithm.
    """
    names = set(quantized)
    parents = {module.rpartition(".")[0] for module in names}
    seen = names | {f"{parent}.{name}" for parent in parents for name in _FUSED}
    return [name for name in plain if not any(name in other for other in seen)]


def _tensors(plan: Plan, named: Named) -> Iterator[tuple[str, Tensor]]:
    yield from plain_tensors(named)
    for i, module in named.quantized.items():
        weight, scheme = named.stored(i), named.schemes[i]
        assert weight.scales is not None  # of a quantised layer
        codes = weight.codes.flatten(1)
        if find_algorithm(scheme) == "FP8":
            yield f"{module}.weight", codes.to(torch.float8_e4m3fn).contiguous()
            yield f"{module}.weight_scale", weight.scales.reshape(()).contiguous()
        else:
            yield f"{module}.weight", pack_bits(encode(codes, weight.spec.element), 4)
            scales = weight.scales[:, 0, :].to(torch.float8_e4m3fn)
            yield f"{module}.weight_scale", scales.contiguous()
            yield f"{module}.weight_scale_2", torch.tensor(weight.tensor_scale or 1.0)
        found = plan.find_range(named.graph.layers[i].gemms[0].left.value, scheme.activation)
        if found is not None and not scheme.activation.is_cast:
            yield f"{module}.input_scale", torch.tensor(found.scale or 1.0)


EXPORTER = Exporter(export, share_scales)
