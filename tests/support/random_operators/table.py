"""Every operator that is drawn, and the case of a number."""

import zlib

import numpy as np
import onnx

from tests.support.random_operators import (
    choosing,
    elementwise,
    moving,
    products,
    reductions,
    windows,
)
from tests.support.random_operators.draw import MICROSOFT, Case, Draw, Maker

OLDEST, NEWEST = 7, 24
_OWN = (choosing, elementwise, moving, products, reductions, windows)
MAKERS: dict[tuple[str, str], Maker] = {
    **{("", name): maker for kind in _OWN for name, maker in kind.MAKERS.items()},
    **{(MICROSOFT, name): maker for name, maker in products.FUSED.items()},
}


def _opsets() -> dict[str, list[int]]:
    """Return, for each operator, the opsets that gave it a meaning; the oldest one stands for those before."""
    found: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= NEWEST and not schema.deprecated:
            found.setdefault(schema.name, set()).add(max(schema.since_version, OLDEST))
    return {name: sorted(versions) for name, versions in found.items()}


_OPSETS = _opsets()
_LAST = {"Upsample": 9, "Scatter": 9}  # deprecated from the next one on


def draw_case(domain: str, op_type: str, number: int) -> Case:
    """Return case ``number`` of an operator: always the same one."""
    rng = np.random.default_rng([zlib.crc32(f"{domain}{op_type}".encode()), number])
    opsets = [1] if domain else _OPSETS[op_type]
    opsets = [o for o in opsets if o <= _LAST.get(op_type, NEWEST)]
    draw = Draw(rng, op_type, int(opsets[int(rng.integers(len(opsets)))]))
    return MAKERS[domain, op_type](draw)
