"""How answers look in a terminal: small tables, ages in words, and JSON for programs."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from freshet.engine.schemas import Difference
from freshet.engine.secrets import told

COLOURS = {
    "fresh": "green",
    "stale": "yellow",
    "waiting": "cyan",
    "missing": "magenta",
    "failed": "red",
    "blocked": "red",
    "running": "blue",
    "retrying": "yellow",
    "ready": "blue",
    "deferred": "cyan",
    "tripped": "red",
}

WIDTH_WITHOUT_TERMINAL = 1000
"""Columns when stdout is a file or a pipe: wide enough that keys are not cut."""


def console(*, stderr: bool = False) -> Console:
    """Rich on stdout, or stderr; plain and wide when that is no terminal. Text is shown as it is,
    brackets too.
    """
    if (sys.stderr if stderr else sys.stdout).isatty():
        return Console(stderr=stderr, markup=False, emoji=False)
    return Console(
        stderr=stderr,
        width=WIDTH_WITHOUT_TERMINAL,
        no_color=True,
        highlight=False,
        soft_wrap=True,
        markup=False,
        emoji=False,
    )


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(msgspec.json.encode(value, enc_hook=told))


def coloured(word: str) -> Text:
    """A state or activity in its colour."""
    return Text(word, style=COLOURS.get(word, ""))


def table(*columns: str) -> Table:
    """A table without lines; columns starting with `>` are right-aligned."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return made


def age(us: int) -> str:
    """A length of time (µs) in the largest unit that leaves a whole number."""
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000)):
        if us >= 2 * size:
            return f"{us // size} {unit}"
    return f"{us / 1_000_000:.1f} s" if us >= 1_000_000 else f"{us // 1000} ms"


def moment(us: int) -> str:
    """A recorded time (µs) in local time, to the millisecond."""
    return datetime.fromtimestamp(us / 1_000_000, UTC).astimezone().isoformat(" ", "milliseconds")


def print_drift(asset: str, drift: Iterable[Difference]) -> None:
    """A line for each column that is declared other than it was published."""
    for difference in drift:
        click.echo(f"schema drift: {asset}: {difference}")
