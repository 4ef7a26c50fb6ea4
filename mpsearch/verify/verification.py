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

    @property
    def difference(self) -> str:
        """What differs, in one line; "" where all agrees."""
        bad = [check for check in self.layers if not check.ok]
        if bad:
            worst = max(bad, key=lambda check: check.error)
            count = f"{len(bad)} layers differ" if len(bad) > 1 else "1 layer differs"
            return (
                f"{count} on the same inputs by more than {self.tolerance:g}, most of all "
                f"{worst.layer!r} in {worst.scheme} by {worst.error:.2g}"
            )
        if self.whole is not None and not self.whole.ok:
            alone = "each layer agrees on its own inputs, but " if self.layers else ""
            return (
                f"{alone}the outputs differ by a {self.whole.measure} of {self.whole.runtime:.2g}, "
                f"where {self.whole.limit:.2g} is allowed"
            )
        return ""

    @property
    def advice(self) -> tuple[str, ...]:
        """Whether the difference matters, and what to do about it; () where all agrees."""
        if self.ok:
            return ()
        if any(not check.ok for check in self.layers):
            names = " ".join(f"--keep '{check.layer}'" for check in self.layers if not check.ok)
            return (
                f"It matters: {self.runtime} computes other products there than the plan was measured with.",
                f"Search again with {names}, or compare with --runtime reference: what agrees there is a "
                f"matter of {self.runtime}, not of the export.",
            )
        assert self.whole is not None  # else all agrees
        plan = self.whole.simulation
        share = (
            f"it is {self.whole.runtime / plan:.0%} of what the plan itself changes ({plan:.2g})"
            if plan > 0
            else "the plan itself changes nothing"
        )
        return (
            f"Rounding that differs in the last bit grows from layer to layer; {share}, so that losses "
            "measured here hold in the runtime only to about that share.",
            "Compare the model's score in the runtime with that in the report; if it is as good, the plan can be "
            "used. More --samples make the comparison surer; --runtime reference shows the export without the runtime.",
        )

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
        if not self.ok:
            lines += [
                f"  what     {self.difference}",
                *(f"  then     {line}" for line in self.advice),
            ]
        return "\n".join(lines)
