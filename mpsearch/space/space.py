"""Search spaces: which schemes a layer may take, and why not the others."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from mpsearch.artifacts import Content
from mpsearch.errors import SpaceError, UnknownNameError
from mpsearch.graph.model import Gemm, ModelGraph
from mpsearch.schemes import Scheme, find_scheme

RecoveryName = Literal["none", "obs"]
Reasons = Mapping[tuple[str, str], str]
EPILOGUES = (
    *("Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"),
    *("Gelu", "Mish", "Softplus", "Add", "Sub", "Mul", "Div", "BatchNormalization"),
)
"""Operators on single elements: what the kernels of most runtimes take in."""


class Rule(Content):
    """What the layers that match every given condition may not take.

    Attributes:
        reason: Why, in the words that reports repeat.
        allow: Names or patterns of the only schemes that are left; None does not limit.
        forbid: Names or patterns of schemes that are taken away.
        role: Pattern of the layer's role: ``depthwise``, ``attention.*``.
        op: Pattern of the operator: ``Conv``.
        name: Pattern of the layer's name.
        has_weight: Whether the layer multiplies by a weight; None is either.
        position: ``first`` or ``last`` layer of the schedule; None is any.
        misaligned: Applies where the channels of the reduction are not divisible by this.
    """

    reason: str
    allow: tuple[str, ...] | None = None
    forbid: tuple[str, ...] = ()
    role: str = "*"
    op: str = "*"
    name: str = "*"
    has_weight: bool | None = None
    position: Literal["first", "last"] | None = None
    misaligned: int = 1

    def matches(self, graph: ModelGraph, index: int) -> bool:
        """Whether the rule speaks of layer ``index``."""
        layer = graph.layers[index]
        positions = {"first": 0, "last": len(graph.layers) - 1}
        return (
            fnmatchcase(layer.role, self.role)
            and fnmatchcase(layer.op_type, self.op)
            and fnmatchcase(layer.name, self.name)
            and self.has_weight in (None, layer.has_weight)
            and (self.position is None or positions[self.position] == index)
            and (
                self.misaligned == 1
                or any(reduction_channels(gemm) % self.misaligned for gemm in layer.gemms)
            )
        )

    def forbids(self, scheme: str) -> bool:
        """Whether the rule takes ``scheme`` away from a layer that it matches."""
        kept = self.allow is None or any(fnmatchcase(scheme, pattern) for pattern in self.allow)
        return not kept or any(fnmatchcase(scheme, pattern) for pattern in self.forbid)


class Fusing(Content):
    """What a runtime runs within the kernel of a layer, or in one kernel of its own.

    Attributes:
        epilogues: Operators that the kernel before them takes in, where nothing else reads its result.
        quantisation: Whose activations a kernel quantises as it writes them, where their range is static:
            those of readers that take the writer's own spec (``same``), of any reader (``static``), or of none (``never``).
        elementwise: Whether neighbouring operators that are no layers are one kernel.
        fallbacks: Pattern of schemes to the scheme that the runtime computes them in, between casts, where the
            device has no kernel for them.
    """

    epilogues: tuple[str, ...] = EPILOGUES
    quantisation: Literal["same", "static", "never"] = "same"
    elementwise: bool = True
    fallbacks: Mapping[str, str] = Field(default_factory=dict)

    def fallback(self, scheme: Scheme) -> Scheme | None:
        """What the runtime computes ``scheme`` in where the device has no kernel for it; None: nothing."""
        names = (to for name, to in self.fallbacks.items() if fnmatchcase(scheme.name, name))
        name = next(names, None)
        return None if name is None else find_scheme(name)


DEFAULT_FUSING = Fusing()


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
        target: Name of the runtime whose rules are included; "" without.
        untie: Patterns of layer names that leave their groups, each to decide for itself; layers that
            read one weight tensor stay together. Ties come after it.
        fusing: What the runtime fuses.
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


def reduction_channels(gemm: Gemm) -> int:
    """Elements along the reduction at one kernel position of one convolution group."""
    return gemm.k // gemm.positions
