"""Tables of a job file: what a plan must keep to, and what is told to a plug-in alone."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mpsearch.artifacts import Content
from mpsearch.runs.knob import CHOICE, DEVICE, Knob


def _phases(value: Any) -> Any:
    """Phases as texts; a number alone is the only one, without a name."""
    if isinstance(value, int):
        return {"": str(value)} if value else {}
    if isinstance(value, Mapping):
        return {name: str(text) for name, text in value.items()}
    return value


PhaseTokens = Annotated[
    dict[str, str],
    BeforeValidator(_phases),
    Knob(
        DEVICE,
        "as the model was read",
        example={"prefill": "2048", "decode": "1@kv=4096"},
        metavar="decode:1@kv=4096",
    ),
    Field(
        description="Tokens of a sample that latencies are for: a number, or one or more phases, each a latency of its own "
        "(latency_us:decode); kv is how many tokens came before."
    ),
]
PhaseMix = Annotated[
    dict[str, float],
    Knob(
        DEVICE,
        "one of each",
        example={"prefill": 0.2, "decode": 0.8},
        metavar="prefill=0.2,decode=0.8",
        joined=True,
    ),
    Field(description="Share of each phase in latency_us."),
]


class Limits(Content):
    """What the chosen plan must keep to; None does not limit."""

    latency_us: Annotated[
        float | None,
        Knob(CHOICE, "none", example=100.0, option="--max-latency-us"),
        Field(description="Greatest latency of one batch on the device, in microseconds."),
    ] = None
    weight_bytes: Annotated[
        float | None,
        Knob(CHOICE, "none", example=1e6, option="--max-weight-bytes"),
        Field(description="Greatest size: stored bytes of all decided weights."),
    ] = None
    effective_bits: Annotated[
        float | None,
        Knob(CHOICE, "none", example=6.0, option="--max-effective-bits"),
        Field(description="Most stored bits a decided weight, scales included."),
    ] = None
    energy_uj: Annotated[
        float | None,
        Knob(CHOICE, "none", example=500.0, option="--max-energy-uj"),
        Field(description="Greatest energy of one batch on the device, in microjoules."),
    ] = None
    memory_bytes: Annotated[
        float | None,
        Knob(CHOICE, "the device's memory", example=8e9, option="--max-memory-bytes"),
        Field(
            description="Greatest memory on the device: weights, activations that live together, keys and values."
        ),
    ] = None
    phase_us: Annotated[
        dict[str, float],
        Knob(
            CHOICE,
            "none",
            example={"decode": 50.0},
            option="--max-phase-us",
            metavar="decode=50",
        ),
        Field(description="Greatest latency of a phase of tokens, in microseconds."),
    ] = Field(default_factory=dict)
    loss: Annotated[
        float | None,
        Knob(CHOICE, "none", example=0.01, option="--max-loss"),
        Field(description="Greatest measured loss, that is, increase over the fp32 model."),
    ] = None

    def given(self) -> dict[str, float]:
        """Return name to value of the limits that are set."""
        apart = ("extensions", "phase_us")
        values = {name: getattr(self, name) for name in Limits.model_fields if name not in apart}
        phases = {f"latency_us:{name}": value for name, value in self.phase_us.items()}
        return {name: value for name, value in values.items() if value is not None} | phases


class OwnSettings(Content):
    """What is told to a plug-in alone.

    Attributes:
        settings: Its own settings by name; ``mpsearch.registry.find(kind, name).settings`` says which there are.
    """

    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)
