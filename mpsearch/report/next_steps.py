"""What to do with a finished run: the commands, ready to be copied."""

import shlex
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do next."""

    why: str
    command: str


def next_steps(run: str, plan: str, model: str, data: str) -> tuple[Step, ...]:
    """Return the commands that follow a search.

    Args:
        run: The run folder.
        plan: The main plan's file in it: ``plans/fast.json``; "" where none was written.
        model: The model.
        data: Calibration data; "" where there were none.
    """
    if not plan:
        why = "Measure what the formats cost in accuracy"
        return (Step(why, _line("search", model, "--data", "calib.npz", "-o", f"{run}-measured")),)
    path, out = str(PurePath(run) / plan), str(PurePath(run) / "exported")
    return (
        Step("See what the plan decides", _line("plan", "show", path)),
        Step("Write the quantised model", _line("export", path, "--model", model, "-o", out)),
        Step("Prove it in a runtime", _line("verify", out, "--model", model, "--data", data)),
        Step(
            "Or choose another point of the front",
            _line("plan", "choose", run, "--knee", "-o", str(PurePath(run) / "plans/own.json")),
        ),
    )


def _line(*words: str) -> str:
    return "mpsearch " + " ".join(map(shlex.quote, words))
