"""The documented keys of a job are those of its fields."""

from experiments.cli_docs import DOCS, with_table


def test_the_table_of_keys_says_what_the_fields_say() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert with_table(text) == text, "run `python -m experiments.cli_docs`"
