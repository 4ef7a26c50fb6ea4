"""The documented targets are those of the files."""

from experiments.targets_doc import DOCS, with_tables


def test_the_tables_of_targets_say_what_the_files_say() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `python -m experiments.targets_doc`"
