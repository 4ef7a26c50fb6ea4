"""What torch's ``padding="same"`` pads, where its exporter wrote the padding as a node of its own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mpsearch.program.program import Step


def has_pads(step: Step) -> bool:
    """Return whether a convolution pads by itself."""
    pads = step.node.attributes.get("pads", ())
    automatic = step.node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET")
    return automatic or (isinstance(pads, Sequence) and any(pads)) or not isinstance(pads, Sequence)


def same_padding(weight: Tensor, dilation: Any) -> list[int]:
    """Return what ``F.pad`` adds for a kernel of the size of ``weight`` [out, in, …]."""
    sizes = weight.shape[2:]
    spread = [dilation] * len(sizes) if isinstance(dilation, int) else list(dilation)
    padding: list[int] = []
    for size, step in zip(reversed(sizes), reversed(spread), strict=False):
        total = step * (size - 1)
        padding += [total // 2, total - total // 2]
    return padding
