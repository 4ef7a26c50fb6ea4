"""Rules: what layers that match some conditions may not take, and what a runtime fuses."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from mpsearch.artifacts import Content
from mpsearch.graph.model import Gemm, ModelGraph
from mpsearch.schemes import Scheme, find_scheme

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

    def forbids(self, *names: str) -> bool:
        """Whether the rule takes a scheme with any of ``names`` away from a layer that it matches."""
        kept = self.allow is None or _is_among(names, self.allow)
        return not kept or _is_among(names, self.forbid)


def _is_among(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


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


def reduction_channels(gemm: Gemm) -> int:
    """Elements along the reduction at one kernel position of one convolution group."""
    return gemm.k // gemm.positions
