"""How a plan is trained: what is learned, how fast, and what is lowered when."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

from mpsearch.errors import PlanError, SettingError
from mpsearch.settings import check_settings, own_settings

Masks = Literal["fixed", "reselected", "linear", "cubic"]
Ranges = Literal["lsq", "pact", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a plan is trained.

    Attributes:
        optimizer: ``adamw`` or ``sgd`` (with momentum), torch's own.
        rate: Learning rate of weights, relative to each tensor's root mean square; biases and norms take it too. None: 0.002
            from plain rounding; from what was recovered or trained already, which a high rate undoes, 0.0005, and 0.0015 of pruned
            weights, whose others have more to make up for.
        scale_rate: Learning rate of scales and steps, relative to each.
        batch: Samples of a step.
        warm_up: Share of the training in which the rate rises to its full height.
        decay: Weight decay of the masters.
        clip: Largest norm of the gradient of all parameters; 0 does not clip.
        labels: Share of the loss against labels, where there are any; the rest is divergence from the fp32 model.
        features: Weight of the relative squared error of inner layers' outputs, beside the loss.
        scales: Whether scales of weights are learned (LSQ), where their format has more than powers of two.
        ranges: How steps of static activations are learned: LSQ, by what is cut off alone (PACT), or not.
        masks: Whether n:m masks stay, are selected anew every ``reselect`` steps until the last quarter, or prune gradually.
        reselect: Steps between two selections.
        ramp: Share of the training by whose end all pruned weights are zero, of ``linear`` and ``cubic``.
        lowering: Share of the training by whose end all layers run in their schemes, one after another; 0: from the start.
        held_out: Share of the data that does not train: the best state is chosen on it.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    rate: float | None = None
    scale_rate: float = 1e-3
    batch: int = 32
    warm_up: float = 0.05
    decay: float = 0.0
    clip: float = 1.0
    labels: float = 0.5
    features: float = 0.0
    scales: bool = True
    ranges: Ranges = "lsq"
    masks: Masks = "fixed"
    reselect: int = 20
    ramp: float = 0.5
    lowering: float = 0.0
    held_out: float = 0.2

    def __post_init__(self) -> None:
        for name in ("warm_up", "labels", "ramp", "lowering"):
            if not 0 <= getattr(self, name) <= 1:
                raise PlanError(f"`0 <= {name} <= 1` must hold, got {getattr(self, name)}")
        for name in ("rate", "scale_rate", "decay", "clip", "features"):
            if (getattr(self, name) or 0.0) < 0:
                raise PlanError(f"`{name} >= 0` must hold, got {getattr(self, name)}")
        if not 0 < self.held_out < 1:
            raise PlanError(f"`0 < held_out < 1` must hold, got {self.held_out}")
        if self.batch < 1 or self.reselect < 1:
            raise PlanError(f"`batch` and `reselect` must be at least 1, got {self}")

    def full_rate(self, *, recovered: bool, sparse: bool = False) -> float:
        """Return the full rate of a plan whose weights are those of plain rounding or have been recovered, or of its pruned weights."""
        if self.rate is not None:
            return self.rate
        if not recovered:
            return 2e-3
        return 1.5e-3 if sparse else 5e-4

    def rate_at(self, done: float) -> float:
        """Return the share of the full rate when the share ``done`` of the training is over: warm-up, then a cosine."""
        if done < self.warm_up:
            return (done + 1e-3) / (self.warm_up + 1e-3)
        left = (done - self.warm_up) / max(1 - self.warm_up, 1e-9)
        return 0.5 * (1 + cos(pi * min(left, 1.0)))

    def kept_at(self, done: float) -> float:
        """Return what pruned weights are multiplied with."""
        if self.masks not in ("linear", "cubic") or done >= self.ramp:
            return 0.0
        left = 1 - done / self.ramp
        return left if self.masks == "linear" else left**3

    def lowered_at(self, done: float, layers: int) -> int:
        """Return how many layers, from the first on, run in their schemes."""
        if done >= self.lowering:
            return layers
        return int(layers * done / self.lowering)


def read_recipe(given: Iterable[str]) -> Recipe:
    """Return the recipe of settings such as ``rate=0.001``.

    Raises:
        SettingError: One does not read like that, is unknown, or of another kind; the message lists the choices.
        PlanError: A value is out of its bounds.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, said = text.partition("=")
        if not equals or not name.strip():
            raise SettingError(f"a setting of the training must read like NAME=VALUE; got {text!r}")
        try:
            values[name.strip()] = tomllib.loads(f"value = {said}")["value"]
        except tomllib.TOMLDecodeError:
            values[name.strip()] = said
    return Recipe(**check_settings("training", own_settings(Recipe), values))
