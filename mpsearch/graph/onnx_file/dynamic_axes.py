"""Dynamic axes: which one is the batch, what the user binds, and probes for the rest.

Shapes are inferred with all axes at concrete sizes, several times over: once as bound, once with
another batch, and once or twice with other sizes of axes that nobody bound. What differs between
the probes depends on the data; what agrees may be folded. So folding never freezes the batch.
"""

import ast
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from mpsearch.errors import ModelError

Dim = int | str  # a fixed size, or a symbol
# Sizes that probes give to axes nobody bound, in the order they are tried: divisible by the strides
# of common networks and longer than their kernels; then longer, shorter, and as long as sounds are.
FREE_SIZES = ((64, 128), (384, 768), (16, 32), (16000, 32000))
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


@dataclass(frozen=True, slots=True)
class Binding:
    """Sizes of every input's axes in each probe.

    Attributes:
        batch: Batch size of the first probe.
        probes: One dictionary a probe: input name to sizes; inputs without a rank are missing.
        unbound: ``input[axis]`` of every axis that is neither fixed nor bound, nor the batch.
        dynamic: Input name to the axes that the folded graph leaves free (the batch among them).
        last_batch_probe: Probes up to this one differ in the batch alone.
    """

    batch: int
    probes: tuple[Mapping[str, tuple[int, ...]], ...]
    unbound: tuple[str, ...]
    dynamic: Mapping[str, frozenset[int]]
    last_batch_probe: int


def bind_axes(
    inputs: Sequence[onnx.ValueInfoProto],
    shapes: Mapping[str, Sequence[int | None]] | None,
    model: str,
    *,
    batch_axes: Mapping[str, int | None] | None = None,
    free_sizes: tuple[int, int] = FREE_SIZES[0],
    fixed_batch: bool = False,
) -> Binding:
    """Return sizes of all axes of ``inputs`` given the user's ``shapes``.

    The first axis of every input, if dynamic, is the batch: 1 unless ``shapes`` says otherwise. An
    input whose first axis is fixed (say a recurrent state) has it at its first unnamed dynamic one.
    Where every first axis is fixed at more than 1 (time, directions), the second one is the batch.

    Args:
        inputs: What the user feeds.
        shapes: Sizes that the user binds; None leaves an axis free, 0 is empty (a cache's past).
        batch_axes: Input to the axis that samples run over, None for none, where the user says it.
        model: File name, for messages.
        free_sizes: What the probes try for axes that nobody bound.
        fixed_batch: Take the batch as fixed: the model runs at no other.

    Raises:
        ModelError: A name, rank or size in ``shapes``, or an axis, does not fit the model.
    """
    declared = {value.name: _declared(value) for value in inputs}
    shapes = dict(shapes or {})
    for name in shapes:
        if name not in declared:
            raise ModelError(
                f"{model}: shapes must name inputs ({', '.join(declared) or 'none'}), got {name!r}"
            )
    symbols: dict[str, list[Dim]] = {}
    bound: dict[str, int] = {}
    for name, dims in declared.items():
        given = shapes.get(name)
        if dims is None:
            if given is None:
                continue
            dims = [f"{name}[{axis}]" for axis in range(len(given))]
        symbols[name] = dims
        if given is not None:
            _bind(name, dims, given, bound, model)
    named = _named_axes(symbols, batch_axes or {}, model)
    for symbol in {dim for dims in symbols.values() for dim in dims if isinstance(dim, str)}:
        expression = None if symbol in bound else _parsed(symbol)
        value = None if expression is None else _calculated(expression, bound)
        if value is not None and value > 0:
            bound[symbol] = value
    batch_symbols = _batch_symbols(symbols, named)
    batches = {bound[s] for s in batch_symbols if s in bound}
    if len(batches) > 1:
        raise ModelError(f"{model}: shapes must agree in the batch, got {sorted(batches)}")
    firsts = [dims[named.get(name) or 0] for name, dims in symbols.items() if dims]
    fixed = [size for size in firsts if isinstance(size, int)]
    batch = batches.pop() if batches else 1
    free = {
        dim
        for dims in symbols.values()
        for dim in dims
        if isinstance(dim, str) and dim not in bound and dim not in batch_symbols
    }
    probes = []
    if fixed_batch:
        bound.update(dict.fromkeys(batch_symbols, batch))
        batch_symbols = set()
    plans = [(batch, free_sizes[0])]
    if batch_symbols:
        plans.append((2 * batch + 1, free_sizes[0]))
    last_batch_probe = len(plans) - 1
    if any(_is_plain(symbol) for symbol in free):
        plans.append((batch, free_sizes[1]))
    for batch_size, free_size in plans:
        sizes = {
            s: bound.get(s, free_size)
            for dims in symbols.values()
            for s in dims
            if isinstance(s, str)
        }
        sizes.update(dict.fromkeys(batch_symbols, batch_size))
        probes.append(
            {name: tuple(_size(d, sizes) for d in dims) for name, dims in symbols.items()}
        )
    dynamic = {
        name: frozenset(i for i, d in enumerate(dims) if d in batch_symbols or d in free)
        for name, dims in symbols.items()
    }
    unbound = tuple(
        f"{name}[{axis}]"
        for name, dims in symbols.items()
        for axis, d in enumerate(dims)
        if d in free
    )
    if not batch_symbols and not fixed_batch and fixed:
        batch = fixed[0]
    return Binding(batch, tuple(probes), unbound, dynamic, last_batch_probe)


def _named_axes(
    symbols: Mapping[str, Sequence[Dim]], axes: Mapping[str, int | None], model: str
) -> dict[str, int | None]:
    """Return the axes that the user names, counted from the front."""
    found: dict[str, int | None] = {}
    for name, axis in axes.items():
        dims = symbols.get(name)
        if dims is None:
            raise ModelError(
                f"{model}: batch axes must name inputs of known rank ({', '.join(symbols) or 'none'}), "
                f"got {name!r}"
            )
        if axis is not None and not -len(dims) <= axis < len(dims):
            raise ModelError(
                f"{model}: the batch axis of {name!r} must be one of its {len(dims)} axes, got {axis}"
            )
        found[name] = None if axis is None else axis % len(dims)
    return found


def _batch_symbols(
    symbols: Mapping[str, Sequence[Dim]], named: Mapping[str, int | None]
) -> set[str]:
    """Return what sizes the batch: where the user names it, else by the rule of :func:`bind_axes`."""
    said, sizes = set[Dim](), set[Dim]()  # symbols of the batch, and of what is certainly none
    for name, dims in symbols.items():
        if name in named:
            said.update(dims[axis] for axis in (named[name],) if axis is not None)
            sizes.update(dim for axis, dim in enumerate(dims) if axis != named[name])
    sizes -= said
    others = {name: dims for name, dims in symbols.items() if name not in named and dims}
    open_dims = {
        name: [dim if isinstance(dim, str) and dim not in sizes else 0 for dim in dims]
        for name, dims in others.items()
    }
    found = said | {dims[0] for dims in open_dims.values()}
    if not any(isinstance(dim, str) for dim in found):
        if any(dims[0] == 1 for dims in others.values()):
            return set()
        found = {dims[1] for dims in open_dims.values() if len(dims) > 1}
        return {dim for dim in found if isinstance(dim, str)}
    for name, dims in open_dims.items():
        if isinstance(others[name][0], int):
            first = next((dim for dim in dims if isinstance(dim, str)), "")
            found |= {first} if "[" in first else set()
    return {dim for dim in found if isinstance(dim, str)}


def _declared(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """Return sizes and symbols of an input's axes; None without a rank."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type" or not value.type.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        size = dim.dim_value if dim.HasField("dim_value") else 0
        if size > 0:
            dims.append(size)
        elif any(character.isalpha() for character in dim.dim_param):
            dims.append(dim.dim_param)
        else:  # unnamed, or named by a mark such as "?"
            dims.append(f"{value.name}[{axis}]")
    return dims


def _bind(
    name: str,
    dims: Sequence[Dim],
    given: Sequence[int | None],
    bound: dict[str, int],
    model: str,
) -> None:
    if len(given) != len(dims):
        raise ModelError(
            f"{model}: input {name!r} has {len(dims)} axes {tuple(dims)}, shapes give {len(given)}"
        )
    for axis, (dim, size) in enumerate(zip(dims, given, strict=True)):
        if size is None or size < 0:
            continue
        if isinstance(dim, int):
            if dim != size:
                raise ModelError(
                    f"{model}: axis {axis} of input {name!r} is fixed at {dim}, shapes give {size}"
                )
            continue
        if bound.setdefault(dim, int(size)) != size:
            raise ModelError(
                f"{model}: axis {axis} of input {name!r} is {dim!r}, "
                f"bound to {bound[dim]} and to {size}"
            )


def _is_plain(symbol: str) -> bool:
    return _parsed(symbol) is None


def _parsed(symbol: str) -> ast.expr | None:
    """Return the expression that ``symbol`` is (``past + 1``), None for a plain name."""
    if "[" in symbol or len(symbol) > 200:
        return None
    try:
        body = ast.parse(symbol, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return body if isinstance(body, ast.BinOp) else None


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    expression = _parsed(dim)
    value = None if expression is None else _calculated(expression, sizes)
    return value if value is not None and value > 0 else sizes[dim]


def _calculated(node: ast.expr, sizes: Mapping[str, int]) -> int | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes.get(node.id)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _calculated(node.left, sizes), _calculated(node.right, sizes)
        if left is None or right is None:
            return None
        if isinstance(node.op, (ast.Div, ast.FloorDiv)) and right == 0:
            return None
        return int(_OPERATORS[type(node.op)](left, right))
    return None
