"""What a runtime of checkpoints must offer to be verified against: whole models whose modules show what they read."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mpsearch.runtimes.rounding import Rounding
from mpsearch.runtimes.session import Array


@dataclass(frozen=True, slots=True)
class Shown:
    """One run of a checkpoint.

    Attributes:
        outputs: What the model returns, in order.
        modules: Module to what it read and gave.
    """

    outputs: tuple[Tensor, ...]
    modules: Mapping[str, tuple[Tensor, Tensor]]


class CheckpointSession(Protocol):
    """A checkpoint in one runtime.

    Attributes:
        rounding: What the runtime documents about its rounding.
        note: What a reader of the result must know about how it was run.
        modules: Names of all modules.
    """

    @property
    def rounding(self) -> Rounding: ...  # noqa: D102

    @property
    def note(self) -> str: ...  # noqa: D102

    @property
    def modules(self) -> Collection[str]: ...  # noqa: D102

    def bias(self, module: str) -> Tensor | None:
        """Return what a module adds to its product."""
        ...

    def run(self, inputs: Mapping[str, Array], modules: Sequence[str]) -> Shown:
        """Run the model on named inputs.

        Raises:
            PlanError: The runtime has no such module or input, or fails while it runs.
        """
        ...


@dataclass(frozen=True, slots=True)
class CheckpointRuntime:
    """A runtime that loads a folder and knows layers by the names of modules.

    Attributes:
        open: Opens the folder of an export.
    """

    open: Callable[[Path], CheckpointSession]
