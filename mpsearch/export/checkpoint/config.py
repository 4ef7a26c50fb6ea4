"""The ``config.json`` of a checkpoint: the user's own, with what the plan makes of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpsearch.errors import PlanError
from mpsearch.export.checkpoint.tensors import Named


def write_config(folder: Path, named: Named, quantization: Mapping[str, Any]) -> Path:
    """Write ``config.json`` into ``folder`` and return it.

    Args:
        folder: Where to.
        named: Gives the user's configuration, and the type of what is not quantised.
        quantization: Its ``quantization_config``; {} leaves it out.
    """
    content = dict(named.source.config)
    if content:
        dtype = str(named.dtype).removeprefix("torch.")
        content |= dict.fromkeys(
            [k for k in ("dtype", "torch_dtype") if k in content] or ["dtype"], dtype
        )
    if unties_head(named):
        content["tie_word_embeddings"] = False
    if quantization:
        content["quantization_config"] = dict(quantization)
    path = folder / "config.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def unties_head(named: Named) -> bool:
    """Return whether a quantised layer multiplied with the table of the embedding, which it now has no part in.

    Raises:
        PlanError: The embedding's own name is not known.
    """
    if not named.source.config.get("tie_word_embeddings", False):
        return False
    if all(f"{module}.weight" in named.source.files for module in named.quantized.values()):
        return False
    if not named.source.files:
        raise PlanError(
            "the model ties its head to the embedding; give the folder with its safetensors as config, so that both "
            "have their names"
        )
    return True
