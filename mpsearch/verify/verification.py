"""What a verification found, for people and for programs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One layer, fed the runtime's own inputs.

    Attributes:
        layer: Its name.
        scheme: What it runs in.
        error: ‖runtime - simulation‖ / ‖simulation‖ of its output, over all samples.
        ok: Whether that is within the tolerance.
    """

    layer: str
    scheme: str
    error: float
    ok: bool


@dataclass(frozen=True, slots=True)
class WholeCheck:
    """The whole model, where small differences may grow from layer to layer.

    Attributes:
        measure: ``KL`` in nats, or ``relative MSE``.
        runtime: Between runtime and simulation.
        simulation: Between fp32 and simulation: what the plan itself changes.
        limit: What ``runtime`` may be: a tenth of ``simulation``, or 1e-6.
        ok: Whether it is within the limit.
    """

    measure: str
    runtime: float
    simulation: float
    limit: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """An exported plan in one real runtime, compared with the simulation.

    Attributes:
        model: File name of the model.
        runtime: Name of the runtime.
        n_samples: Samples that were run.
        tolerance: Largest allowed error of a layer.
        layers: One check a proven layer, in schedule order.
        whole: The check of the outputs, None where the runtime can prove nothing of them.
        unproven: Layer, or "outputs", to why it could not be compared.
        note: How the runtime was run.
    """

    model: str
    runtime: str
    n_samples: int
    tolerance: float
    layers: tuple[LayerCheck, ...]
    whole: WholeCheck | None
    unproven: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything that was compared agrees."""
        return (self.whole is None or self.whole.ok) and all(check.ok for check in self.layers)

    @property
    def worst(self) -> LayerCheck | None:
        """The layer that differs most, None if none was compared."""
        return max(self.layers, key=lambda check: check.error, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        """Return a few lines: the verdict, the worst layers, what was not proven."""
        proven = sum(check.ok for check in self.layers)
        total = len(self.layers) + sum(name != "outputs" for name in self.unproven)
        verdict = "agrees with" if self.ok else "DIFFERS FROM"
        lines = [
            f"{self.model} in {self.runtime} {verdict} the simulation ({self.n_samples} samples)",
            f"  layers   {proven} of {total} within {self.tolerance:g}",
        ]
        if self.whole is not None:
            lines.append(
                f"  outputs  {self.whole.measure} {self.whole.runtime:.3g}, limit {self.whole.limit:.3g} "
                f"(the plan itself changes {self.whole.simulation:.3g})"
            )
        if self.worst is not None:
            lines.append(
                f"  worst    {self.worst.layer} ({self.worst.scheme}): {self.worst.error:.2g}"
            )
        lines += [
            f"  differs  {check.layer} ({check.scheme}): {check.error:.2g}"
            for check in self.layers
            if not check.ok
        ]
        lines += [f"  unproven {layer}: {why}" for layer, why in self.unproven.items()]
        if self.note:
            lines.append(f"  note     {self.note}")
        return "\n".join(lines)
