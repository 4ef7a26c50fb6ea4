"""``python -m experiments.checkpoints``: small models of Hugging Face as compressed-tensors checkpoints, proven in transformers.

Each is built with a seed, its groups of layers given in turn the schemes that may be written for them, exported and verified. Writes
``experiments/results/checkpoints.json``.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

import mpsearch as mp
from mpsearch.data.batches import make_batches
from mpsearch.errors import MpsearchError
from mpsearch.registry import find
from mpsearch.schemes import find_scheme

SCHEMES = ("bf16", "nvfp4", "fp8", "int8", "nvfp4a16")
RESULT = Path("experiments/results/checkpoints.json")
_VOCABULARY = 96
_SIZES: Mapping[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "use_cache": False,
    "attn_implementation": "eager",
}
_GROUPED = {**_SIZES, "intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16}


def models() -> Mapping[str, Callable[[], Any]]:
    """Name to what builds a model."""
    t = transformers
    return {
        "Llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_GROUPED)),
        "Qwen 3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**_GROUPED)),
        "Gemma 2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**_GROUPED)),
        "OPT": lambda: t.OPTForCausalLM(t.OPTConfig(**_SIZES, ffn_dim=128, word_embed_proj_dim=64)),
        "GPT-2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=_VOCABULARY,
                n_embd=64,
                n_layer=1,
                n_head=4,
                n_positions=64,
                bos_token_id=0,
                eos_token_id=0,
                use_cache=False,
                attn_implementation="eager",
            )
        ),
        "Mixtral": lambda: t.MixtralForCausalLM(
            t.MixtralConfig(**_GROUPED, num_local_experts=2, num_experts_per_tok=1)
        ),
    }


def prove(build: Callable[[], Any], folder: Path) -> dict[str, Any]:
    """Return what became of one model."""
    torch.manual_seed(0)
    module = build().eval()
    for parameter in module.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(3)
    tokens = torch.randint(0, _VOCABULARY, (8, 12))
    module.save_pretrained(folder / "hf")
    batches = make_batches({"input_ids": tokens.numpy()})
    try:
        graph = mp.import_torch(module, {"input_ids": tokens[:2]})
        space = mp.SearchSpace("checkpoints", tuple(map(find_scheme, SCHEMES)), base="bf16")
        simulator = mp.Simulator(graph, space, batches)
        refuses = find("export_limits", "compressed_tensors")
        chosen = []
        for g, group in enumerate(simulator.graph.groups):
            taken = [
                s
                for s, scheme in enumerate(space.schemes)
                if simulator.allowed[g, s]
                and not any(refuses(graph, graph.layers[i], scheme) for i in group.layers)
            ]
            quantised = taken[1:] or taken
            chosen.append(quantised[g % len(quantised)])
        plan = mp.make_plan(mp.Point(tuple(chosen), {}), simulator)
        out = folder / "out"
        mp.export_plan(plan, graph, out, target="compressed_tensors", config=folder / "hf")
        found = mp.verify_plan(plan, graph, out, batches, runtime="transformers")
    except MpsearchError as error:
        return {"refused": str(error).splitlines()[0]}
    assert found.whole is not None  # checkpoints always have one
    return {
        "ok": found.ok,
        "schemes": sorted({check.scheme for check in found.layers}),
        "layers": len(found.layers),
        "largest layer error": max(check.error for check in found.layers),
        found.whole.measure: found.whole.runtime,
        "of the plan itself": found.whole.simulation,
    }


def main() -> None:
    """Prove all models and write what was found."""
    results = {}
    for name, build in models().items():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results[name] = prove(build, Path(folder))
        print(name, results[name])
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    RESULT.write_text(json.dumps({"versions": versions, "models": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
