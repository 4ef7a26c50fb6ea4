"""Search spaces: which schemes a layer may take, and why not the others."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mpsearch.errors import SpaceError, UnknownNameError
from mpsearch.schemes import Scheme
from mpsearch.space.rules import DEFAULT_FUSING, Fusing, Rule
from mpsearch.space.storage import CANONICAL, Storage
from mpsearch.space.targets import Target

RecoveryName = Literal["none", "obs"]
Reasons = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The schemes that are searched, and the rules that take some away from some layers.

    Attributes:
        name: Name of the space.
        schemes: [S]; the base format is one of them.
        base: Name of the scheme that every layer may always take.
        rules: What matching layers may not take.
        ties: Patterns of layer names whose groups must share one scheme, one set a tie.
        min_block_fill: Share of a block's elements that channels must fill, on average: 0.5 forbids
            block formats to layers of fewer than 8 channels where blocks are 16 long.
        target: Name of the runtime that is to take the plan; "" without.
        untie: Patterns of layer names that leave their groups, each to decide for itself; layers that
            read one weight tensor stay together. Ties come after it.
        fusing: What the runtime fuses.
        runtime: What the target's file says of it; None without a target.
    """

    name: str
    schemes: tuple[Scheme, ...]
    base: str = "fp16"
    rules: tuple[Rule, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()
    min_block_fill: float = 0.0
    target: str = ""
    untie: tuple[str, ...] = ()
    fusing: Fusing = DEFAULT_FUSING
    runtime: Target | None = None

    def __post_init__(self) -> None:
        names = [scheme.name for scheme in self.schemes]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise SpaceError(f"{self.name}: a scheme must be given once, got {min(twice)!r} twice")
        if self.base not in names:
            raise SpaceError(
                f"{self.name}: the base must be one of the schemes {', '.join(names)}; "
                f"got {self.base!r}"
            )
        base = self.schemes[names.index(self.base)]
        if not (base.weight.is_cast and base.activation.is_cast and base.sparsity is None):
            raise SpaceError(
                f"{self.name}: the base must be a dense float format without scales, such as fp16, "
                f"bf16 or fp32; got {self.base!r}"
            )

    @property
    def storage(self) -> Storage:
        """How weights are stored for the target; as plain ONNX does without one."""
        return CANONICAL if self.runtime is None else self.runtime.storage

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the schemes, in order."""
        return tuple(scheme.name for scheme in self.schemes)

    def index(self, name: str) -> int:
        """Return the position of scheme ``name``.

        Raises:
            UnknownNameError: The space has no such scheme.
        """
        if name not in self.names:
            raise UnknownNameError(
                f"scheme must be one of {', '.join(self.names)} in space {self.name!r}; got {name!r}"
            )
        return self.names.index(name)


def choose_ranges(space: SearchSpace, estimator: str) -> SearchSpace:
    """Return ``space`` whose activations' calibrated ranges come from ``estimator``; a scheme's own one is kept.

    Args:
        space: The schemes.
        estimator: As :class:`mpsearch.schemes.Spec` takes it: ``mse``, ``percentile:99.9``, ``history:16``, …

    Raises:
        SchemeError: No estimator has this name, or its number is out of its range.
        SpaceError: No scheme of the space has a calibrated range.
    """
    schemes = tuple(
        replace(scheme, activation=replace(scheme.activation, estimator=estimator))
        if scheme.activation.is_calibrated and scheme.activation.estimator == "amax"
        else scheme
        for scheme in space.schemes
    )
    if not any(scheme.activation.is_calibrated for scheme in schemes):
        raise SpaceError(
            f"ranges are for schemes with a calibrated range, such as int8, fp8 or nvfp4; {space.name} has "
            f"{', '.join(space.names)}"
        )
    return replace(space, schemes=schemes)
