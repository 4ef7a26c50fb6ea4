"""A plug-in's own settings: the keyword-only parameters of its function, checked before it is called."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from mpsearch.errors import SettingError


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        name: What it is called.
        kinds: Types of the values that it takes, ``NoneType`` among them where it may be None; () takes any.
        choices: The only values that it takes; () takes all of ``kinds``.
        default: Its value where none is given.
    """

    name: str
    kinds: tuple[type, ...]
    choices: tuple[object, ...]
    default: object

    def takes(self, value: object) -> bool:
        """Return whether ``value`` is of the right kind; a whole number is a float too, a bool no number."""
        if self.choices and value in self.choices:
            return True
        if not self.kinds:
            return not self.choices
        return type(value) in self.kinds or (type(value) is int and float in self.kinds)

    @property
    def wanted(self) -> str:
        """The values that it takes, in words."""
        kinds = [kind.__name__ for kind in self.kinds if kind is not NoneType]
        return " or ".join([*map(str, self.choices), *kinds]) or "anything"


def own_settings(function: Callable[..., Any]) -> dict[str, Setting]:
    """Return the settings of a plug-in's function by name: its keyword-only parameters.

    Raises:
        SettingError: One has no default.
    """
    found = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.default is parameter.empty:
            raise SettingError(f"setting {name!r} of {function.__module__} must have a default")
        kinds, choices = _read_annotation(parameter.annotation)
        found[name] = Setting(name, kinds, choices, parameter.default)
    return found


def check_settings(
    owner: str, known: Mapping[str, Setting], given: Mapping[str, object]
) -> dict[str, Any]:
    """Return ``given`` if all of them are settings of ``owner`` and of the right kind.

    Args:
        owner: Whose settings they are, for the message: ``search method optuna``.
        known: The settings that there are.
        given: Name to value.

    Raises:
        SettingError: One is unknown or of another kind; the message lists the choices.
    """
    for name, value in given.items():
        if name not in known:
            choices = ", ".join(
                f"{setting.name} ({setting.wanted}; {setting.default})"
                for setting in known.values()
            )
            raise SettingError(f"{owner} has no setting {name!r}; it has {choices or 'none'}")
        if not known[name].takes(value):
            raise SettingError(f"{name} of {owner} must be {known[name].wanted}; got {value!r}")
    return dict(given)


def _read_annotation(annotation: Any) -> tuple[tuple[type, ...], tuple[object, ...]]:
    """Return the types and the choices that an annotation names; what is neither takes anything."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds: list[type] = []
    choices: list[object] = []
    for part in parts:
        if get_origin(part) is Literal:
            choices += get_args(part)
        elif isinstance(part, type) and part is not inspect.Parameter.empty:
            kinds.append(part)
        else:
            return (), ()
    return tuple(kinds), tuple(choices)
