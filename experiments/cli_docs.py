"""Write the table of a job's keys into ``docs/cli.md`` from the fields of the job: ``python -m experiments.cli_docs``."""

from pathlib import Path

from mpsearch.runs.job import Job
from mpsearch.runs.knob import grouped_keys

DOCS = Path(__file__).parents[1] / "docs" / "cli.md"
BEGIN, END = (
    "<!-- keys of a job; written by experiments/cli_docs.py -->\n",
    "<!-- end of keys -->\n",
)


def keys_table() -> str:
    """Return the keys under their headings, with options and defaults."""
    lines = []
    for group, keys in grouped_keys(Job).items():
        lines += [f"| **{group}** | option | default | |", "|---|---|---|---|"]
        for key in keys:
            cells = (f"`{key.name}`", f"`{key.option}`", key.default, key.description)
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """Return the page with the table of now."""
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + "\n" + keys_table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    DOCS.write_text(with_table(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
