#!/usr/bin/env python
"""Compare this program with numbers from reference implementations.

    python scripts/check_parity.py FILE.npz|FILE.json ...

Each file is recognised by what is in it. Prints the largest difference of every output; exits with 0 if all are within
tolerance, 1 if one is not, 2 if a file cannot be read, is of no known kind, or has no checker yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from parity_checks import Fixture, FixtureError, Row, check, load
from rich.console import Console
from rich.table import Table

WITHIN_TOLERANCE, ABOVE_TOLERANCE, UNUSABLE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all files, also after a failure; returns the exit code, the worst of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="parity fixture, .npz or .json")
    console = Console(width=110, highlight=False)
    return max(check_file(path, console) for path in parser.parse_args(arguments).files)


def check_file(path: Path, console: Console) -> int:
    """Check one fixture and print its table; returns its exit code."""
    try:
        fixture = load(path)
        rows = check(fixture)
    except FixtureError as error:
        console.print(f"{path}: {error}", markup=False, soft_wrap=True)
        return UNUSABLE
    console.print(_table(fixture, rows))
    failed = sum(not row.ok for row in rows)
    console.print(f"{path}: {len(rows) - failed} of {len(rows)} outputs within tolerance", markup=False, soft_wrap=True)
    return ABOVE_TOLERANCE if failed else WITHIN_TOLERANCE


def _table(fixture: Fixture, rows: list[Row]) -> Table:
    table = Table("output", "largest difference", "tolerance", "", title=f"{fixture.path.name}: {fixture.kind}")
    for row in rows:
        verdict = "ok" if row.ok else "ABOVE"
        label = f"{row.output}  ({row.note})" if row.note else row.output
        table.add_row(label, f"{row.difference:.2e}", f"{row.tolerance:.0e}", verdict, style="" if row.ok else "red")
    return table


if __name__ == "__main__":
    sys.exit(main())
