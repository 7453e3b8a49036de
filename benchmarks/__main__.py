"""`python -m benchmarks [case …] [--json FILE]`: measure, and print one table
with bounds and ratios.
"""

import argparse
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import (
    append,
    executors,
    kafka,
    landings,
    partitions,
    policies,
    reaction,
    restart,
    startup,
    throughput,
)
from benchmarks.case import Figure


def appends() -> list[Figure]:
    """Events per second of `benchmarks.append`, and their ratio to raw sqlite3 in the same run."""
    found = []
    for case, figures in append.run().items():
        name = f"append, {case}"
        batched = not case.startswith("1 ")
        for what in ("raw per second", "freshet per second"):
            found.append(Figure(name, what, figures[what], "events/s"))
        ratio, bound = figures["ratio to raw"], 0.6 if batched else None
        found.append(Figure(name, "ratio to raw sqlite3", ratio, "×", bound, True))
    return found


CASES: dict[str, Callable[[], list[Figure]]] = {
    "append": appends,
    "reaction": reaction.run,
    "landings": landings.run,
    "kafka": kafka.run,
    "throughput": throughput.run,
    "executors": executors.run,
    "partitions": partitions.run,
    "policies": policies.run,
    "startup": startup.run,
    "restart": restart.run,
}


def main() -> int:
    """Run the named cases (none: all); exit 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help=", ".join(CASES))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures = [figure for name in options.cases or CASES for figure in CASES[name]()]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(figures))
    console.print(_where(), highlight=False)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    return 1 if any(figure.met is False for figure in figures) else 0


def _table(figures: list[Figure]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("case", "what", "measured", "bound", "times better", ""):
        table.add_column(name, justify="right" if name in ("measured", "bound") else "left")
    for figure in figures:
        sign = "≥" if figure.higher_is_better else "≤"
        bound = f"{sign} {figure.bound:g}" if figure.bound is not None else ""
        ratio = f"{figure.ratio:.1f}" if figure.ratio is not None else ""
        verdict = {True: "met", False: "[red]NOT MET[/]", None: ""}[figure.met]
        digits = 2 if figure.value < 100 else 0
        measured = f"{figure.value:,.{digits}f} {figure.unit}"
        table.add_row(figure.case, figure.what, measured, bound, ratio, verdict)
    return table


def _where() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, commit {commit or 'unknown'}"
    )


if __name__ == "__main__":
    sys.exit(main())
