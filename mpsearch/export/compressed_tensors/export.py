"""A plan as a checkpoint in compressed-tensors' format: safetensors and the ``config.json`` that says how to read them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from mpsearch.export.checkpoint.config import write_config
from mpsearch.export.checkpoint.fused import share_scales
from mpsearch.export.checkpoint.source import read_source
from mpsearch.export.checkpoint.tensors import Named, name_layers, plain_tensors
from mpsearch.export.checkpoint.write import write_tensors
from mpsearch.export.compressed_tensors.layouts import Stored, find_stored
from mpsearch.export.compressed_tensors.pack import pack_input, pack_weight
from mpsearch.export.exporter import Exporter
from mpsearch.export.planned import PlannedWeights
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.plan import Plan


def export(
    plan: Plan, graph: ModelGraph, weights: PlannedWeights, folder: Path, config: Path | None
) -> list[Path]:
    """Write a compressed-tensors checkpoint, for vLLM and transformers.

    Args:
        plan: Made for ``graph``, with the scales of fused layers shared.
        graph: The model.
        weights: What each layer stores.
        folder: Where to.
        config: Folder of the Hugging Face model, its ``config.json``, or None.

    Raises:
        PlanError: The plan does not fit, or a layer cannot be written.
        ModelError: ``config`` cannot be read.
    """
    named = name_layers(plan, graph, weights, read_source(config), "compressed_tensors")
    files = write_tensors(_tensors(plan, named), folder)
    return [write_config(folder, named, quantization_config(named)), *files]


def quantization_config(named: Named) -> dict[str, Any]:
    """Return the ``quantization_config`` of the checkpoint's ``config.json``; {} where nothing is quantised."""
    groups: dict[str, tuple[Stored, list[str]]] = {}
    for i, module in named.quantized.items():
        stored = _stored(named, i)
        key = json.dumps([stored.format, stored.weights, stored.inputs])
        groups.setdefault(key, (stored, []))[1].append(module)
    if not groups:
        return {}
    formats = sorted({stored.format for stored, _ in groups.values()})
    return {
        "quant_method": "compressed-tensors",
        "format": formats[0] if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(named.plain),
        "config_groups": {
            f"group_{n}": {
                "format": stored.format,
                "targets": [target_of(module) for module in modules],
                "weights": stored.weights,
                "input_activations": stored.inputs,
                "output_activations": None,
            }
            for n, (stored, modules) in enumerate(groups.values())
        },
    }


def target_of(module: str) -> str:
    """Return the target that matches ``module`` and nothing else.

    Targets are compared with names and with class names, which hold no dot; a pattern is matched at the start of a name.
    """
    return module if "." in module else f"re:{re.escape(module)}$"


def _tensors(plan: Plan, named: Named) -> Iterator[tuple[str, Tensor]]:
    yield from plain_tensors(named)
    for i, module in named.quantized.items():
        stored = _stored(named, i)
        left, spec = named.graph.layers[i].gemms[0].left, named.schemes[i].activation
        found = {
            **pack_weight(named.stored(i), stored),
            **pack_input(stored, plan.find_range(left.value, spec)),
        }
        yield from ((f"{module}.{name}", tensor) for name, tensor in found.items())


def _stored(named: Named, layer: int) -> Stored:
    stored = find_stored(named.schemes[layer])
    assert stored is not None  # can_write has asked
    return stored


EXPORTER = Exporter(export, share_scales)
