"""A Hugging Face model to a checkpoint for vLLM, proven in transformers on the processor.

Run: python -m examples.hugging_face

Needs the extras llm and torch-export: pip install 'mpsearch[llm,torch-export]'
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import mpsearch as mp
from mpsearch.data.batches import make_batches


def make_model(folder: Path) -> Any:
    """Return a small model, saved in ``folder``; take your own with ``from_pretrained``."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def main(folder: Path) -> None:
    """Search a plan for vLLM, write its checkpoint, and run that in transformers."""
    model = make_model(folder / "hf")
    tokens = torch.randint(0, 64, (16, 12))  # take sentences of what the model will see
    graph = mp.import_torch(model, {"input_ids": tokens[:2]})
    space = mp.read_space("blackwell", target="vllm", base="bf16")

    simulator = mp.Simulator(graph, space, make_batches({"input_ids": tokens.numpy()}))
    device = mp.read_device("b200_hgx")
    costs = mp.estimate_costs(graph, simulator.space, device, batch=16)
    table = mp.score_sensitivity(simulator, metric="perturbation")
    front = mp.find_front(mp.build_problem(table, costs))
    plan = mp.make_plan(mp.choose_point(front, knee=True), simulator, costs=costs)

    out = folder / "checkpoint"
    files = mp.export_plan(plan, graph, out, target="vllm", config=folder / "hf")
    print("written:", ", ".join(path.name for path in files))
    batches = make_batches({"input_ids": tokens.numpy()})
    print(mp.verify_plan(plan, graph, out, batches, runtime="transformers"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
