"""A plug-in's own settings: read from its function, and checked in one line."""

from typing import Any, Literal

import pytest

from mpsearch.errors import SettingError
from mpsearch.settings import check_settings, own_settings


def function(
    task: object,
    *,
    share: float = 0.5,
    size: int | None = None,
    how: Literal["slow", "fast"] = "slow",
    seeded: bool = True,
    where: str | None = None,
) -> None:
    """Do nothing."""


def test_settings_are_the_keyword_only_parameters() -> None:
    found = own_settings(function)
    assert list(found) == ["share", "size", "how", "seeded", "where"]
    assert found["how"].choices == ("slow", "fast")
    assert found["share"].default == 0.5


@pytest.mark.parametrize(
    "given",
    [
        {"share": 1},
        {"share": 0.25},
        {"size": None},
        {"how": "fast"},
        {"seeded": False, "where": "x"},
    ],
)
def test_values_of_the_right_kind_are_taken(given: dict[str, Any]) -> None:
    assert check_settings("method own", own_settings(function), given) == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"sizes": 3},
            r"^method own has no setting 'sizes'; it has share \(float; 0.5\), size \(int; ",
        ),
        ({"size": 3.5}, r"^size of method own must be int; got 3.5$"),
        ({"size": True}, r"size of method own must be int; got True"),
        ({"share": "a"}, r"share of method own must be float; got 'a'"),
        ({"how": "quick"}, r"how of method own must be slow or fast; got 'quick'"),
        ({"seeded": 1}, r"seeded of method own must be bool; got 1"),
    ],
)
def test_what_is_unknown_or_of_another_kind_lists_the_choices(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        check_settings("method own", own_settings(function), given)
