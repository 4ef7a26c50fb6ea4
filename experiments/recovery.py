"""What recovery gives a sentence encoder whose every linear layer is 2:4, weights rounded to fp16.

Run: python -m experiments.models minilm -o FOLDER, then python -m experiments.recovery FOLDER

The Gram matrices come from the fp32 model on the calibration descriptions, padding left out; the models then run in onnxruntime,
scored by the mean reciprocal rank of 500 held-out pairs.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

import mpsearch as mp
from experiments.models.made import onnxruntime_run, read_arrays
from experiments.models.minilm import MAKER
from mpsearch.graph.model import Gemm
from mpsearch.recovery.obs import find_gram, recover
from mpsearch.simulate.calibrated import calibrate
from mpsearch.simulate.probe import capture

Change = Callable[[str, Gemm, Tensor], Tensor]


def find_grams(folder: Path) -> tuple[dict[str, Tensor], dict[str, Gemm]]:
    """Return initialiser name to Gram matrix and to product, of every layer with a weight."""
    graph = mp.import_onnx(folder / "model.onnx")
    batches = mp.read_batches(folder / "calibration.npz")
    calibrated = calibrate(graph, mp.read_space("npu"), batches)
    layers = [i for i, layer in enumerate(graph.layers) if layer.has_weight]
    products = {graph.layers[i].gemms[0].right.source: graph.layers[i].gemms[0] for i in layers}
    grams: dict[str, Tensor] = {}
    for batch in batches.iterate():
        values = capture(calibrated, layers, batch)
        present = torch.from_numpy(batch["attention_mask"]).bool()
        for name, product in products.items():
            gram = find_gram(values[product.left.value][present])
            grams[name] = grams[name] + gram if name in grams else gram
    return grams, products


def score(
    folder: Path, products: dict[str, Gemm], change: Change, threads: int
) -> tuple[float, float]:
    """Return the mean reciprocal rank, and its standard error, of the model with changed weights."""
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in products:
            weight = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            changed = change(tensor.name, products[tensor.name], weight).half().float()
            tensor.CopyFrom(numpy_helper.from_array(changed.numpy(), tensor.name))
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.onnx"
        onnx.save(model, path)
        ranks = MAKER.score(onnxruntime_run(path, threads=threads), folder)["mrr"]
    return float(ranks.mean()), float(ranks.std(ddof=1) / len(ranks) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="made by: python -m experiments.models minilm")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    grams, products = find_grams(options.folder)
    tokens = int(read_arrays(options.folder / "calibration.npz")["attention_mask"].sum())
    print(
        f"{len(grams)} layers, {tokens} calibration tokens, {time.perf_counter() - started:.0f} s"
    )

    def pruned(pattern: str) -> Change:
        return lambda _, gemm, weight: mp.prune(weight, pattern, axis=gemm.right.reduction_axis)

    def recovered(pattern: str) -> Change:
        return lambda name, gemm, weight: recover(
            weight,
            pattern,
            grams[name],
            reduction_axis=gemm.right.reduction_axis,
            channel_axes=gemm.right.channel_axes,
        )

    rows: dict[str, Change] = {"dense fp16": lambda _, __, weight: weight}
    for pattern in ("2:4", "4:8_paired"):
        rows[f"{pattern} by magnitude"] = pruned(pattern)
        rows[f"{pattern} obs"] = recovered(pattern)
    for name, change in rows.items():
        started = time.perf_counter()
        mean, stderr = score(options.folder, products, change, options.threads)
        print(
            f"{name:24s} MRR {mean:.4f} ± {stderr:.4f}  ({time.perf_counter() - started:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
