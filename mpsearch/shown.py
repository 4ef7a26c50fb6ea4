"""Values as people see them: in a terminal one line, in a notebook a table; names of strangers stay text."""

import html
from collections.abc import Iterable, Sequence
from unicodedata import category

_MOST_ROWS = 12
_MOST_LETTERS = 240


def visible(text: str) -> str:
    """Return ``text`` with what steers a terminal or turns the direction of writing made visible."""
    if text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    """Whether a character is none to read: controls but the end of a line, marks of direction, halves of pairs."""
    return character != "\n" and category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def shorten(text: str, limit: int = 0) -> str:
    """Return ``text`` on one line, without its middle if it is longer than ``limit`` (0: no limit).

    Layer names differ at their ends, so more of the end is kept.
    """
    plain = visible(" ".join(text.split()))
    if not limit or len(plain) <= limit:
        return plain
    head = (limit - 1) // 3
    return plain[:head] + "…" + plain[len(plain) - (limit - 1 - head) :]


def say(kind: str, *facts: str) -> str:
    """Return what a terminal shows of a value: ``<Front: 7 points, 3 measured>``; empty facts are left out."""
    return f"<{kind}: {', '.join(shorten(fact, _MOST_LETTERS) for fact in facts if fact)}>"


def count(number: int, noun: str) -> str:
    """Return ``1 point`` or ``7 points``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def html_table(
    caption: str, columns: Sequence[str], rows: Sequence[Iterable[str]], *, more: int = 0
) -> str:
    """Return what a notebook shows of a value: its first rows as an HTML table in which all is text.

    Args:
        caption: What the value is.
        columns: Heads.
        rows: Cells; the first dozen rows are shown.
        more: Rows that are left out beside those of ``rows``.
    """
    head = "".join(f"<th scope='col'>{_text(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>"
        for row in rows[:_MOST_ROWS]
    )
    more += len(rows[_MOST_ROWS:])
    rest = f"<tr><td colspan='{len(columns)}'>and {more} more</td></tr>" if more else ""
    return (
        f"<table><caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}{rest}</tbody></table>"
    )


def _text(value: str) -> str:
    """``value`` as text of a page; what notebooks take for formulas is none."""
    return html.escape(shorten(value, _MOST_LETTERS)).replace("$", "&#36;")


def spread(count: int, most: int = _MOST_ROWS) -> list[int]:
    """Return at most ``most`` indices of ``count`` things, evenly spread, both ends kept."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
