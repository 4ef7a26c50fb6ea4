"""Reading the outputs of connectionist temporal classification, and comparing texts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def collapse(codes: NDArray[np.integer], *, blank: int) -> list[list[int]]:
    """Return what [n, steps] best codes say: repeats are one, blanks are none."""
    said = []
    for row in codes:
        first = np.concatenate([[True], row[1:] != row[:-1]])
        said.append([int(code) for code in row[first] if code != blank])
    return said


def character_error_rate(text: Sequence[object], answer: Sequence[object]) -> float:
    """Return the edit distance of ``text`` from ``answer`` over the length of ``answer``."""
    row = list(range(len(answer) + 1))
    for i, character in enumerate(text, 1):
        above, row = row, [i]
        for j, wanted in enumerate(answer, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (character != wanted)))
    return row[-1] / max(1, len(answer))
