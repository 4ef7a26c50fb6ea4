"""Random models from the file to the proof: nothing differs silently, nothing ends in a traceback.

Kind C: every form in which a file states layers; kind D: models on which a runtime fails while it runs; kind
F: operators of all attributes between layers. The long sweeps run with ``-m slow``, a slice at a time with
``-k 'forms and 3'``; MPSEARCH_GRAPHS sets how many graphs a kind has.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.failing_models import KINDS, draw_failing
from tests.support.prove import Step, prove
from tests.support.random_models import FORMS, draw_model
from tests.support.wrapped_operators import NAMES, draw_wrapped

Draw = Callable[[int], Any]
SLICES = 13
GRAPHS = int(os.environ.get("MPSEARCH_GRAPHS", "520"))
SWEEPS: dict[str, tuple[Draw, int]] = {
    "forms": (draw_model, len(FORMS)),
    "failing": (draw_failing, len(KINDS)),
    "operators": (draw_wrapped, 12),
}


def sweep(draw: Draw, start: int, count: int, folder: Path) -> list[Step]:
    """Prove ``count`` graphs from number ``start`` on; return all steps.

    Raises:
        AssertionError: A graph is computed, exported or verified wrongly, or ends in a traceback.
    """
    done, number, steps, wrong = 0, start, list[Step](), list[str]()
    while done < count:
        drawn = draw(number)
        if drawn is not None:
            kind, model, x = drawn
            found = prove(model, x, number, folder)
            wrong += [
                f"{number} ({kind}): {step}"
                for step in found
                if step.verdict in ("differs", "traceback")
                or (step.verdict == "refused" and not step.stage.startswith("verify"))
            ]
            steps += found
            done += 1
        number += 1
    assert not wrong, "\n".join(wrong)
    return steps


@pytest.mark.parametrize("kind", SWEEPS)
def test_a_few_random_models_are_right_from_file_to_proof(kind: str, tmp_path: Path) -> None:
    draw, count = SWEEPS[kind]
    steps = sweep(draw, 0, count, tmp_path)
    right = [step for step in steps if step.verdict == "right"]
    assert len(right) > 3 * count  # fp32, export, and a proof in one runtime at least
    assert kind != "failing" or any("while it ran" in step.message for step in steps)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("kind", SWEEPS)
def test_many_random_models_are_right_from_file_to_proof(
    kind: str, part: int, tmp_path: Path
) -> None:
    # numbers of a slice are far apart: one may draw more than it proves
    sweep(SWEEPS[kind][0], 100 + 1000 * part, GRAPHS // SLICES, tmp_path)


def test_every_form_and_operator_is_drawn() -> None:
    assert {draw_model(n)[0] for n in range(len(FORMS))} == set(FORMS)
    drawn = [d[0] for n in range(2 * len(NAMES)) if (d := draw_wrapped(n)) is not None]
    assert len(set(drawn)) > len(NAMES) / 2
