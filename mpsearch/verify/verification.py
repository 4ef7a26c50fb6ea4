"""What a verification found, for people and for programs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mpsearch.stats.digits import with_error
from mpsearch.stats.estimates import Estimate


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
class Measured:
    """What the whole model loses or scores, as it was measured on the samples that were run.

    Attributes:
        name: ``KL`` or ``relative MSE`` against the fp32 model; with labels ``nll`` (or squared error), ``accuracy``.
        fp32: The fp32 model's; None of what compares with it.
        simulation: The simulated plan's.
        runtime: The export's in the runtime.
    """

    name: str
    fp32: Estimate | None
    simulation: Estimate
    runtime: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return name and ``{mean, stderr}`` of each."""
        sides = {"fp32": self.fp32, "simulation": self.simulation, "runtime": self.runtime}
        return {"name": self.name} | {
            side: value._asdict() for side, value in sides.items() if value is not None
        }


@dataclass(frozen=True, slots=True)
class DeployedCheck:
    """The export as its runtime runs it by default, where a proof needs other settings.

    Attributes:
        kernels: Layer to the kernel that multiplies it, of those that could be told.
        promoted: Layers that integers multiply although their scheme says nothing of it.
        whole: The check of the outputs so; None where the runtime refused, or can prove nothing of them.
        refused: Why the runtime does not run it so; "" where it does.
        is_meant: The export was written for this runtime: it must agree. Of another this is told only.
    """

    kernels: Mapping[str, str]
    promoted: tuple[str, ...]
    whole: WholeCheck | None
    refused: str
    is_meant: bool

    @property
    def agrees(self) -> bool:
        """Whether the result is the same, and every layer runs as the plan says."""
        same = self.whole is None or self.whole.ok
        return not self.refused and not self.promoted and same

    @property
    def ok(self) -> bool:
        """Whether it agrees where it must."""
        return self.agrees or not self.is_meant

    def __str__(self) -> str:
        """Return one line."""
        if self.refused:
            return self.refused
        counts = Counter(self.kernels.values()).most_common()
        told = ", ".join(f"{n} {kernel}" for kernel, n in counts)
        same = "" if self.whole is None else f"{self.whole.measure} {self.whole.runtime:.3g}; "
        promoted = f"promoted to integers: {', '.join(self.promoted)}" if self.promoted else ""
        return f"{same}{told}; {promoted or 'nothing promoted'}"


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
        measured: What the exported model loses in the runtime, and with labels what it scores.
        deployed: The same export with the runtime's own defaults, where they are others.
    """

    model: str
    runtime: str
    n_samples: int
    tolerance: float
    layers: tuple[LayerCheck, ...]
    whole: WholeCheck | None
    unproven: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    measured: tuple[Measured, ...] = ()
    deployed: DeployedCheck | None = None

    @property
    def ok(self) -> bool:
        """Whether everything that was compared agrees."""
        checks = (*self.layers, self.whole, self.deployed)
        return all(check is None or check.ok for check in checks)

    @property
    def worst(self) -> LayerCheck | None:
        """The layer that differs most, None if none was compared."""
        return max(self.layers, key=lambda check: check.error, default=None)

    @property
    def first(self) -> LayerCheck | None:
        """The first layer of the schedule that departs from the simulation, None if none does."""
        return next((check for check in self.layers if not check.ok), None)

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
                + (f"; the first is {bad[0].layer!r}" if len(bad) > 1 else "")
            )
        if self.whole is not None and not self.whole.ok:
            alone = "each layer agrees on its own inputs, but " if self.layers else ""
            return (
                f"{alone}the outputs differ by a {self.whole.measure} of {self.whole.runtime:.2g}, "
                f"where {self.whole.limit:.2g} is allowed"
            )
        if self.deployed is not None and not self.deployed.ok:
            return f"with default optimisations it is another model: {self.deployed}"
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
        if self.whole is None or self.whole.ok:
            return (
                f"It matters: {self.runtime} is run so by default. Turn its graph optimisations off, or export again "
                "with another scheme for what is named.",
            )
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
        more = {
            "ok": self.ok,
            "first": None if self.first is None else self.first.layer,
            "measured": [each.to_json() for each in self.measured],
        }
        return asdict(self) | more

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
        lines += [f"  measured {_told(each)}" for each in self.measured]
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
        if self.deployed is not None:
            lines.append(f"  default  {self.deployed}")
            if not self.deployed.agrees and not self.deployed.is_meant:
                lines.append(f"           export with --target {self.runtime} to run it so")
        if not self.ok:
            lines += [
                f"  what     {self.difference}",
                *(f"  then     {line}" for line in self.advice),
            ]
        return "\n".join(lines)


def _told(found: Measured) -> str:
    """A measured quantity in the runtime, beside the simulation's and the fp32 model's."""
    beside = f"simulated {with_error(found.simulation)}"
    if found.fp32 is not None:
        beside += f", fp32 {with_error(found.fp32)}"
    return f"{found.name} {with_error(found.runtime)} in the runtime ({beside})"
