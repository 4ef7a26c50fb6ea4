"""Tables of a job file: what a plan must keep to, and what is told to a plug-in alone."""

from typing import Annotated

from pydantic import Field

from mpsearch.artifacts import Content
from mpsearch.runs.knob import CHOICE, Knob


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
    loss: Annotated[
        float | None,
        Knob(CHOICE, "none", example=0.01, option="--max-loss"),
        Field(description="Greatest measured loss, that is, increase over the fp32 model."),
    ] = None

    def given(self) -> dict[str, float]:
        """Return name to value of the limits that are set."""
        values = {name: getattr(self, name) for name in Limits.model_fields if name != "extensions"}
        return {name: value for name, value in values.items() if value is not None}


class OwnSettings(Content):
    """What is told to a plug-in alone.

    Attributes:
        settings: Its own settings by name; ``mpsearch.registry.find(kind, name).settings`` says which there are.
    """

    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)
