"""The map of the house is true: what docs/design.md names is there."""

import re
from pathlib import Path

import pytest

from tests.test_architecture import PACKAGE, ROWS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "design.md").read_text()
WALKS = re.findall(r"## A (?:weight|job|measured loss)'s way\n(.*?)(?=\n## )", TEXT, re.DOTALL)
PLACES = sorted({path for walk in WALKS for path in re.findall(r"`([a-z_]+/[\w/]*\.py)`", walk)})
TABLE = re.findall(r"^\| (?!question)([^|`]+[^|]*) \| `([^`]+\.py)` \|$", TEXT, re.MULTILINE)


def test_three_walks_are_told() -> None:
    assert len(WALKS) == 3
    assert len(PLACES) >= 25


@pytest.mark.parametrize("path", PLACES)
def test_every_place_on_a_walk_is_there(path: str) -> None:
    assert (PACKAGE / path).is_file()


def test_thirty_questions_have_an_answer() -> None:
    questions = [question for question, _ in TABLE]
    assert len(questions) >= 30
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize(("question", "path"), TABLE)
def test_every_answer_is_there(question: str, path: str) -> None:
    assert (ROOT / path).is_file(), question


def test_the_rows_are_those_of_the_test() -> None:
    rows = re.findall(r"^\| \d+ \| ((?:`\w+` ?)+) \|", TEXT, re.MULTILINE)
    assert [tuple(re.findall(r"`(\w+)`", row)) for row in rows] == list(ROWS)
