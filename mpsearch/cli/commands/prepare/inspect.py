"""``mpsearch inspect``: what a model is made of, and what can be decided about it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli import options as opt
from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.printing.tables import print_table
from mpsearch.stats.digits import number

if TYPE_CHECKING:
    from mpsearch.graph.model import Layer, ModelGraph


@command
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model.")],
    shape: opt.Shapes = None,
    batch_axis: opt.BatchAxes = None,
    as_json: Json = False,
) -> None:
    """Show layers with their GEMM sizes, groups, roles and coverage; weights are not read."""
    from mpsearch.graph.importer import import_onnx

    shapes = dict(map(opt.parse_shape, shape or []))
    bound = {name: tuple(size or None for size in sizes) for name, sizes in shapes.items()}
    graph = import_onnx(
        model, shapes=bound or None, batch_axes=dict(map(opt.parse_axis, batch_axis or []))
    )
    if as_json:
        print_json(_graph_json(graph))
        return
    rows = [
        [
            layer.name,
            layer.op_type,
            layer.role or "–",
            _sizes(layer),
            f"{layer.parameters:,}",
            number(layer.flops / 1e6),
        ]
        for layer in graph.layers
    ]
    columns = ["layer", "operator", "role", "M × N × K", "weights", "MFLOP"]
    print_table(
        f"{graph.name}, opset {graph.opset}, batch {graph.batch}", columns, rows, text_columns=4
    )
    for value in graph.inputs:
        sizes = ", ".join("any" if s is None else str(s) for s in value.shape or ())
        print(f"input {value.name}: {value.dtype} [{sizes}]")
    shared = [group for group in graph.groups if len(group.layers) > 1]
    print(f"{len(graph.layers)} layers in {len(graph.groups)} groups")
    for group in shared:
        names = ", ".join(graph.layers[i].name for i in group.layers)
        print(f"  share one scheme ({group.reason}): {names}")
    coverage = graph.coverage
    print(
        f"decided: {coverage.parameters:,} of {coverage.total_parameters:,} parameters, "
        f"{number(coverage.flops / 1e6)} of {number(coverage.total_flops / 1e6)} MFLOP"
    )
    if graph.unbound:
        from mpsearch.space.allowed import shape_option

        print(
            f"sizes and FLOPs that depend on {', '.join(graph.unbound)} are not known; give {shape_option(graph)}"
        )
    for item in coverage.undecided[:10]:
        print(
            f"  not decided: {item.name} ({item.op_type}): {item.parameters:,} parameters, {item.reason}"
        )
    if len(coverage.undecided) > 10:
        print(f"  and {len(coverage.undecided) - 10} smaller ones; --json lists all")


def _sizes(layer: "Layer") -> str:
    parts = []
    for gemm in layer.gemms:
        times = f"{gemm.calls} × " if gemm.calls > 1 else ""
        groups = f" ({gemm.groups} groups)" if gemm.groups > 1 else ""
        parts.append(f"{times}{gemm.m} × {gemm.n} × {gemm.k}{groups}")
    return "; ".join(parts)


def _graph_json(graph: "ModelGraph") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": graph.name,
        "opset": graph.opset,
        "batch": graph.batch,
        "structure_digest": graph.structure_digest,
        "inputs": [asdict(value) for value in graph.inputs],
        "outputs": [asdict(value) for value in graph.outputs],
        "layers": [
            asdict(layer) | {"parameters": layer.parameters, "flops": layer.flops}
            for layer in graph.layers
        ],
        "edges": [asdict(edge) for edge in graph.edges],
        "groups": [asdict(group) for group in graph.groups],
        "coverage": asdict(graph.coverage),
    }
