"""A small Llama of Hugging Face, built on the spot: as module, as graph, as folder, and plans for it."""

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mpsearch as mp
from mpsearch.data.batches import Batches, make_batches
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.changes import changes_of
from mpsearch.plan.files import read_plan
from mpsearch.plan.match import plan_schemes
from mpsearch.plan.plan import Plan
from mpsearch.program.tensors import to_tensor
from mpsearch.schemes import SCHEMES, find_scheme
from mpsearch.simulate.layer_weight import quantize_layer_weight

MIXED: Mapping[str, str] = {
    "0.self_attn.q_proj": "nvfp4",
    "0.self_attn.k_proj": "nvfp4",
    "0.self_attn.v_proj": "nvfp4",
    "0.self_attn.o_proj": "fp8",
    "0.mlp.gate_proj": "fp8_tensor",
    "0.mlp.up_proj": "fp8_tensor",
    "0.mlp.down_proj": "int8",
    "1.self_attn.q_proj": "nvfp4a16",
    "1.self_attn.k_proj": "nvfp4a16",
    "1.self_attn.v_proj": "nvfp4a16",
    "1.self_attn.o_proj": "fp8_dynamic",
    "1.mlp.gate_proj": "nvfp4",
    "1.mlp.up_proj": "nvfp4",
    "1.mlp.down_proj": "int8_dynamic",
    "lm_head": "w4a16_g32",
}
"""End of a module's name to its scheme; what is not named stays in the base."""


@dataclass(frozen=True, slots=True)
class Llama:
    """One model in all the forms that an export needs.

    Attributes:
        module: The ``LlamaForCausalLM``.
        graph: As ``import_torch`` has it, or ``import_onnx``.
        batches: Eight samples of token ids.
        folder: What ``save_pretrained`` wrote, ``ids.npz``, and of an untied one ``model.onnx``, which the graph is of.
    """

    module: Any
    graph: ModelGraph
    batches: Batches
    folder: Path


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@cache
def make_llama(*, tied: bool = False, bias: bool = False) -> Llama:
    """Return two layers with grouped queries, weights from a seed; ``bias``: attention's layers have one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attention_bias=bias,
        use_cache=False,
        attn_implementation="eager",
    )
    module = LlamaForCausalLM(config).eval()
    for name, parameter in module.named_parameters():
        # larger than they are made, so that outputs are no uniform distribution
        parameter.data.mul_(4.0) if parameter.ndim == 2 else parameter.data.add_(
            0.2 * torch.randn_like(parameter) if "norm" in name or bias else 0.0
        )
    ids = torch.randint(0, 96, (8, 12))
    folder = tempfile.TemporaryDirectory()
    _KEPT.append(folder)
    module.save_pretrained(folder.name)
    path = Path(folder.name)
    np.savez(path / "ids.npz", input_ids=ids.numpy())
    if tied:
        graph = mp.import_torch(module, {"input_ids": ids[:2]})
    else:
        graph = mp.import_onnx(_write_onnx(module, ids[:2], path / "model.onnx"))
    return Llama(module, graph, make_batches({"input_ids": ids.numpy()}), path)


def _write_onnx(module: Any, ids: torch.Tensor, path: Path) -> Path:
    """Write the module as users of the command line do; ``optimize`` would rename its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs={"input_ids": ids},
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes={"input_ids": {0: torch.export.Dim.AUTO}},
        )
    assert program is not None
    program.save(path, external_data=False)
    return path


@cache
def _simulator(tied: bool, bias: bool, names: tuple[str, ...], base: str) -> mp.Simulator:
    made = make_llama(tied=tied, bias=bias)
    space = mp.SearchSpace("llama", tuple(map(find_scheme, names)), base=base)
    return mp.Simulator(made.graph, space, made.batches)


def plan_llama(
    picks: Mapping[str, str] = MIXED, *, tied: bool = False, bias: bool = False, base: str = "bf16"
) -> Plan:
    """Return the plan that gives each layer the scheme that ``picks`` has for the end of its module's name."""
    names = tuple(dict.fromkeys((base, *MIXED.values(), *picks.values())))
    simulator = _simulator(tied, bias, names, base)
    graph = simulator.graph
    chosen = [base] * len(graph.groups)
    for g, group in enumerate(graph.groups):
        module = graph.layers[group.layers[0]].fqn
        found = [scheme for end, scheme in picks.items() if module.endswith(end)]
        if found and graph.layers[group.layers[0]].has_weight:
            chosen[g] = found[0]
    return mp.make_plan(mp.Point(tuple(map(names.index, chosen)), {}), simulator)


def with_scheme(plan: Plan, module: str, scheme: str, graph: ModelGraph) -> Plan:
    """Return ``plan`` with one layer's scheme changed, whatever it is tied to."""
    (name,) = (layer.name for layer in graph.layers if layer.fqn == module and layer.has_weight)
    decisions = tuple(
        replace(decision, scheme=scheme) if decision.site.node == name else decision
        for decision in plan.decisions
    )
    return replace(plan, decisions=decisions, schemes={**plan.schemes, scheme: SCHEMES[scheme]})


def layer_of(graph: ModelGraph, module: str) -> int:
    """Return the index of the layer that a module is."""
    (found,) = np.flatnonzero([x.fqn == module and x.has_weight for x in graph.layers])
    return int(found)


def simulated_weights(folder: Path, graph: ModelGraph) -> dict[str, torch.Tensor]:
    """Return module to weight [out, in] as the plan in an export is simulated."""
    plan = read_plan(folder / "plan.json")
    schemes, changes = plan_schemes(plan, graph), changes_of(plan, graph)
    found = {}
    for i, layer in enumerate(graph.layers):
        if layer.has_weight:
            weight = changes.weights.get((i, 0))
            if weight is None:
                value = to_tensor(graph.constants[layer.gemms[0].right.value])
                weight = quantize_layer_weight(layer, 0, schemes[i], value)
            found[layer.fqn] = weight.layout.to_rows(weight.dequantize()).flatten(1)
    return found
