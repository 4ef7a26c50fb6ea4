"""What a view says where a run does not have what it shows, and what to do then."""

from mpsearch.dashboard.opened import Shown

_SAID = {
    "graph": "The model is not written yet.",
    "costs": "Costs are not worked out yet.",
    "table": "Sensitivities are not measured yet.",
    "front": "There is no front yet.",
    "points": "Nothing was found or measured yet.",
    "chosen": "No plan is chosen: choose one above.",
    "report": "The run has not reached its end: run the same search again to go on.",
}


def lacks(shown: Shown | None, *what: str, chosen: str = "") -> str:
    """Return what is missing of ``what`` in a run, in words; "" if nothing is."""
    if shown is None:
        return "There is no run here: start one with `mpsearch search … -o RUN`."
    if shown.state == "damaged":
        return f"This run is damaged: {shown.why}. Run the same search again to mend it; other runs are not affected."
    for name in what:
        there = {
            "chosen": bool(chosen) and chosen in shown.points,
            "points": shown.front is not None and bool(shown.front.points),
        }.get(name, getattr(shown, name, None) is not None)
        if not there:
            return f"{_SAID[name]} {shown.why[:1].upper()}{shown.why[1:]}".strip()
    return ""
