import json
from importlib import import_module
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from experiments.models.__main__ import NAMES
from experiments.models.ctc import character_error_rate, collapse
from experiments.models.detector import find_boxes
from experiments.models.minilm import TOKENS, build

_LAYER = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


def test_the_built_encoder_equals_torchs_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one = torch.nn.TransformerEncoderLayer(
        384, 12, 1536, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True
    )
    encoder = torch.nn.TransformerEncoder(one, 6, enable_nested_tensor=False).eval()
    weights = {
        "embeddings.word_embeddings.weight": torch.randn(50, 384),
        "embeddings.position_embeddings.weight": torch.randn(512, 384),
        "embeddings.token_type_embeddings.weight": torch.randn(2, 384),
        "embeddings.LayerNorm.weight": torch.rand(384) + 0.5,
        "embeddings.LayerNorm.bias": torch.randn(384),
    }
    for i, layer in enumerate(encoder.layers):
        at = f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            parts = getattr(layer.self_attn, f"in_proj_{kind}").chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                torch.nn.init.normal_(part.data, std=0.1)
                weights[f"{at}.attention.self.{name}.{kind}"] = part.data
            for theirs, ours in _LAYER.items():
                tensor = layer.get_submodule(ours).get_parameter(kind).data
                tensor += 0.1 * torch.randn_like(tensor)
                weights[f"{at}.{theirs}.{kind}"] = tensor
    ids = torch.randint(0, 50, (3, TOKENS))
    mask = torch.arange(TOKENS)[None] < torch.tensor([[TOKENS], [20], [1]])

    embedded = weights["embeddings.word_embeddings.weight"][ids]
    embedded = embedded + weights["embeddings.position_embeddings.weight"][:TOKENS]
    embedded = embedded + weights["embeddings.token_type_embeddings.weight"][0]
    normed = torch.nn.functional.layer_norm(
        embedded,
        [384],
        weights["embeddings.LayerNorm.weight"],
        weights["embeddings.LayerNorm.bias"],
        1e-12,
    )
    with torch.no_grad():
        hidden = encoder(normed, src_key_padding_mask=~mask)
    mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    wanted = torch.nn.functional.normalize(mean, dim=1)

    model = build({name: tensor.numpy() for name, tensor in weights.items()})
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy().astype(np.int64)}
    (got,) = session.run(None, feeds)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)


def test_ctc_reads_repeats_once_and_blanks_not_at_all() -> None:
    codes = np.array([[0, 1, 1, 0, 1, 2, 2, 0], [3, 3, 3, 3, 3, 3, 3, 3]])
    assert collapse(codes, blank=0) == [[1, 1, 2], [3]]


@pytest.mark.parametrize(
    ("text", "answer", "rate"),
    [("kitten", "sitting", 3 / 7), ("", "abc", 1.0), ("abc", "abc", 0.0), ("ab", "", 2.0)],
)
def test_character_error_rate_is_the_edit_distance(text: str, answer: str, rate: float) -> None:
    assert character_error_rate(text, answer) == rate


def test_boxes_are_grown_back_around_confident_regions() -> None:
    likely = np.zeros((60, 100))
    likely[20:30, 10:60] = 0.9
    likely[40:50, 10:60] = 0.4  # text-like, but not sure enough
    ((left, top, right, bottom),) = find_boxes(likely)
    grow = 10 * 50 * 1.6 / 120
    assert (left, top, right, bottom) == (10 - grow, 20 - grow, 60 + grow, 30 + grow)


def test_the_frozen_descriptions_are_distinct_pairs() -> None:
    path = Path("experiments/models/data/descriptions.jsonl")
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(pairs) == 628
    assert len({pair["short"].lower() for pair in pairs}) == 628
    assert len({pair["long"] for pair in pairs}) == 628


@pytest.mark.parametrize("name", NAMES)
def test_every_model_says_where_it_comes_from(name: str) -> None:
    maker = import_module(f"experiments.models.{name}").MAKER
    assert "==" in maker.source.package
    assert maker.source.license
    assert all(len(digest) == 64 for digest in maker.source.files.values())
