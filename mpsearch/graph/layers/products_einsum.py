"""Einsum of two operands as a matrix product."""

from collections.abc import Mapping

from mpsearch.graph.layers.operands import ShapeOf, input_name, is_weight, operand, product
from mpsearch.graph.model import Gemm, Node
from mpsearch.graph.onnx_file.constants import Constant


def einsum(node: Node, shape_of: ShapeOf, constants: Mapping[str, Constant]) -> tuple[Gemm, ...]:
    """Return the product that a two-operand equation is, () if it is none.

    Letters in both operands and in the result are a batch, those in both and not in the result the
    reduction. Blocks run along the last letter of the reduction; the others count as positions.
    """
    if len(node.inputs) != 2:
        return ()
    parsed = _parse(str(node.attributes.get("equation", "")))
    shapes = [shape_of(name) for name in node.inputs]
    if parsed is None:
        return ()
    left, right, out = parsed
    sizes: dict[str, int | None] = {}
    for letters, shape in zip((left, right), shapes, strict=True):
        if shape is None or len(shape) != len(letters):
            if is_weight(input_name(node, 0), constants) or is_weight(
                input_name(node, 1), constants
            ):
                sizes.update(dict.fromkeys(letters))
                continue
            return ()
        for letter, size in zip(letters, shape, strict=True):
            if sizes.get(letter) in (None, 1):
                sizes[letter] = size
    swap = is_weight(input_name(node, 0), constants) and not is_weight(
        input_name(node, 1), constants
    )
    x, w = (right, left) if swap else (left, right)
    x_index, w_index = (1, 0) if swap else (0, 1)
    reduced = [c for c in w if c in x and c not in out]
    batch = [c for c in w if c in x and c in out]
    rows = [c for c in x if c not in w]
    columns = [c for c in w if c not in x]
    if not reduced or any(c not in out for c in rows + columns):
        return ()
    inner = reduced[-1]
    k, n, m = (product(sizes[c] for c in letters) for letters in (reduced, columns, rows))
    stack = product(sizes[c] for c in batch)
    weight = is_weight(input_name(node, w_index), constants)
    channels = tuple(i for i, c in enumerate(w) if c in columns or c in batch)
    return (
        Gemm(
            m=m,
            n=n * stack if weight else n,
            k=k,
            left=operand(node, x_index, constants, reduction=x.index(inner)),
            right=operand(node, w_index, constants, reduction=w.index(inner), channels=channels),
            has_weight=weight,
            positions=product(sizes[c] for c in reduced[:-1]),
            groups=stack if weight else 1,
            calls=1 if weight else stack,
            batch_in_m=weight or not batch,
        ),
    )


def _parse(equation: str) -> tuple[str, str, str] | None:
    """Return the letters of both operands and of the result; None with an ellipsis or a diagonal."""
    text = equation.replace(" ", "")
    if "." in text or text.count(",") != 1:
        return None
    operands, arrow, out = text.partition("->")
    left, right = operands.split(",")
    if not arrow:
        joined = left + right
        out = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    if any(len(set(letters)) != len(letters) for letters in (left, right, out)):
        return None
    return left, right, out
