"""Tables that can be read in a terminal and pasted into a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "–"


def number(value: float | None, digits: int) -> str:
    """A figure with so many digits behind the point, or a dash where it is undefined."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns padded; the first is aligned to the left, figures to the right."""
    assert all(len(row) == len(header) for row in rows), [len(row) for row in rows]
    widths = [max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
