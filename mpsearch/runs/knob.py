"""How people meet a key of a job: on the command line, in the file that ``init`` writes, in the docs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

GROUPS = (
    FILES := "Files",
    DEVICE := "Device and search space",
    TABLE := "Sensitivity",
    SEARCH := "Search",
    CHOICE := "Choice of plans",
    MACHINE := "Machine and repeatability",
)
"""Headings, in the order in which keys are shown."""


@dataclass(frozen=True, slots=True)
class Knob:
    """What a key is beside its type, its default and its description.

    Attributes:
        group: Heading that it stands under, one of ``GROUPS``.
        unset: What holds where it is not given; "" is its default, as it is.
        example: Value in a file that leaves it out; None is its default.
        option: Its option; "" is its name.
        metavar: What the option takes; "" is the name of its type.
        joined: Whether several values are one word with commas, and not one option each.
    """

    group: str
    unset: str = ""
    example: Any = None
    option: str = ""
    metavar: str = ""
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a job.

    Attributes:
        name: Its name; ``limits.loss`` in a table.
        field: Its type, default and description.
        knob: How people meet it.
    """

    name: str
    field: FieldInfo
    knob: Knob

    @property
    def option(self) -> str:
        """Its option on the command line."""
        return self.knob.option or f"--{self.name.replace('_', '-')}"

    @property
    def default(self) -> str:
        """What holds where it is not given; "" where it must be."""
        if self.knob.unset or self.field.is_required():
            return self.knob.unset
        return str(self.field.get_default(call_default_factory=True))

    @property
    def description(self) -> str:
        """What it is, as a sentence."""
        return self.field.description or ""

    @property
    def least(self) -> float | None:
        """Its least value; None where there is none."""
        return next((c.ge for c in self.field.metadata if hasattr(c, "ge")), None)


def find_keys(kind: type[BaseModel], table: str = "") -> Iterator[Key]:
    """Yield the keys of a job that people set, those of its tables included.

    Args:
        kind: The job, or a table of it.
        table: Name of the table; "" is the job itself.
    """
    for name, field in kind.model_fields.items():
        path = f"{table}.{name}" if table else name
        knob = next((m for m in field.metadata if isinstance(m, Knob)), None)
        if knob is not None:
            yield Key(path, field, knob)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from find_keys(field.annotation, path)


def grouped_keys(kind: type[BaseModel]) -> dict[str, list[Key]]:
    """Return each of the ``GROUPS`` to its keys."""
    keys = list(find_keys(kind))
    return {group: [key for key in keys if key.knob.group == group] for group in GROUPS}
