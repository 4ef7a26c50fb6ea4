"""What a runtime must offer to be timed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

from mpsearch.errors import MissingExtraError, UnknownNameError

Array = NDArray[Any]
TIMED = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Layouts:
    """Values of a model that lie in memory in their plain layout although a convolution reads or gives them.

    Attributes:
        entered: Those that are brought into a convolution's layout.
        left: Those that are brought back from one.
    """

    entered: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class TimedRuntime(Protocol):
    """A runtime on one thread.

    Attributes:
        name: ``onnxruntime``, ``openvino``.
        version: With its name.
        has_boundaries: Whether roundings are kernels of their own, which are then measured too.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def version(self) -> str: ...  # noqa: D102

    @property
    def has_boundaries(self) -> bool: ...  # noqa: D102

    def open_timed(
        self, model: onnx.ModelProto | Path, feeds: Mapping[str, Array]
    ) -> Callable[[], None]:
        """Return what runs ``model`` once on ``feeds``, in the calling thread alone.

        Raises:
            PlanError: The runtime cannot load or run it.
        """
        ...

    def find_shares(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array]
    ) -> list[tuple[str, str, float]]:
        """Return (operator, node, share of the time) of each kernel that runs, in order; [] if it does not say."""
        ...

    def layouts(self, model: Path) -> Layouts:
        """Return where the model changes the layout of a value for a convolution or behind one."""
        ...


def find_timed(name: str) -> TimedRuntime:
    """Return the runtime that is timed by ``name``.

    Raises:
        UnknownNameError: None of it is known.
        MissingExtraError: It is not installed.
    """
    if name not in TIMED:
        raise UnknownNameError(
            f"a runtime to profile must be one of {', '.join(TIMED)}, or torch with --device cuda; got {name!r}"
        )
    try:
        runtime: TimedRuntime = import_module(f"mpsearch.profile.{name}").RUNTIME
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"profiling in {name} needs the package {error.name!r}; install it with: pip install {error.name}"
        ) from error
    return runtime
