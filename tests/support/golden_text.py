"""What a model was understood as, in lines that a person checks: layers, sizes, roles and groups."""

from pathlib import Path

from mpsearch.graph.model import Gemm, Layer, ModelGraph

GOLDEN = Path(__file__).parents[1] / "graph" / "golden"


def describe(graph: ModelGraph) -> str:
    """Return one line a layer, then the groups of several layers, inputs and what is not decided."""
    lines = [f"{graph.name}, opset {graph.opset}"]
    lines += [f"input {v.name} {v.dtype} {_sizes(v.shape)}" for v in graph.inputs]
    lines += [f"{len(graph.layers)} layers", ""]
    lines += [_layer(layer) for layer in graph.layers]
    lines += [""]
    for group in graph.groups:
        if len(group.layers) > 1:
            names = ", ".join(graph.layers[i].name for i in group.layers)
            lines.append(f"group ({group.reason}): {names}")
    coverage = graph.coverage
    lines.append(
        f"decided {coverage.parameters} of {coverage.total_parameters} parameters, "
        f"{coverage.flops} of {coverage.total_flops} FLOPs"
    )
    large = [entry for entry in coverage.undecided if entry.parameters * 50 > coverage.parameters]
    lines += [f"not decided: {e.name} {e.parameters}: {e.reason}" for e in large]
    return "\n".join(lines) + "\n"


def _sizes(shape: tuple[int | None, ...] | None) -> str:
    return "×".join("?" if size is None else str(size) for size in shape or ()) or "scalar"


def _layer(layer: Layer) -> str:
    products = "; ".join(map(_product, layer.gemms))
    return f"{layer.role or '-':24} {layer.op_type:14} {products:32} {layer.name}"


def _product(gemm: Gemm) -> str:
    calls = f"{gemm.calls}·" if gemm.calls != 1 else ""
    groups = f"/{gemm.groups}" if gemm.groups != 1 else ""
    return f"{calls}{gemm.m}×{gemm.n}×{gemm.k}{groups}"
