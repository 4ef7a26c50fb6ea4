"""What a method of recovery is given, and how it is declared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mpsearch.deadline import Deadline
from mpsearch.errors import SchemeError
from mpsearch.registry import find
from mpsearch.simulate.changes import Changes
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Ints

Told = Callable[[int, int, str], None]
Kind = Literal["transform", "weights", "bias"]
_ORDER: tuple[Kind, ...] = ("transform", "weights", "bias")


@dataclass(frozen=True, slots=True, eq=False)
class RecoveryTask:
    """One recovery of a plan, or the next step of one.

    Attributes:
        made: The plan's model as methods before changed it (``made.calibrated.changes``), on the data that recover.
        judge: The same on data that judge what is made; None where there are none.
        assignment: [G] scheme index of each group: the plan.
        bias: Whether biases are to be changed along with weights.
        seed: Seed of whatever is drawn.
        progress: Told how many steps are done, of how many.
        deadline: Stop then, with what there is.
    """

    made: Simulator
    judge: Simulator | None
    assignment: Ints
    bias: bool = False
    seed: int = 0
    progress: Told | None = None
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """What a method makes of a plan.

    Attributes:
        changes: All that the plan then changes: what it changed before, and more.
        errors: Layer to the squared error of its output relative to the fp32 model's, before and after, on data that
            judge; of layers where that is known.
    """

    changes: Changes
    errors: Mapping[int, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """A method of recovery: what is registered under ``mpsearch.recovery_methods``.

    Attributes:
        recover: ``recover(task) -> Recovered``.
        kind: ``transform`` (equivalent, of constants; comes first), ``weights`` or ``bias``.
        takes_bias: Whether it changes biases itself where the task says so.
    """

    recover: Callable[[RecoveryTask], Recovered]
    kind: Kind = "weights"
    takes_bias: bool = False


def find_methods(names: tuple[str, ...]) -> dict[str, Method]:
    """Return methods by name, in the order that they are applied.

    Raises:
        UnknownNameError: There is none of that name.
        SchemeError: A name is given twice.
    """
    if len(set(names)) < len(names):
        raise SchemeError(f"each recovery must be named once, got {', '.join(names)}")
    found: dict[str, Method] = {name: find("recovery_methods", name) for name in names}
    return dict(sorted(found.items(), key=lambda item: _ORDER.index(item[1].kind)))


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the names of ``gptq,bias``; () for ``none``.

    Raises:
        UnknownNameError: There is none of a name.
        SchemeError: A name is given twice.
    """
    names = () if text == "none" else tuple(part.strip() for part in text.split(","))
    return tuple(find_methods(names))
