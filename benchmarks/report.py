"""`python -m benchmarks.report`: `benchmarks/README.md` and its pictures, from the results that are
kept and the readings written by hand (`readings.md`). The same files give the same text.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.case import Figure, Spread
from benchmarks.peers.environment import python_of
from benchmarks.pictures import OVER_TIME, Picture, pictures
from benchmarks.results import FOLDER, HERE, Result, bound, quantity, read, where

README = HERE / "README.md"
READINGS = HERE / "readings.md"
MATPLOTLIB = "matplotlib==3.10.8"

DRAWING_S = 300.0
"""Longest time for all pictures."""

GENERATED = (
    "<!-- Made by `python -m benchmarks.report` from results/ and readings.md: edit those. -->"
)

Row = tuple[str, ...]


class Readings(NamedTuple):
    """What is written by hand: the beginning, and for each case its title and its reading."""

    beginning: str
    cases: dict[str, tuple[str, str]]


def main() -> int:
    """Write the page, and draw; exit 1 if pictures could not be drawn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--no-pictures", action="store_true", help="leave them as they are")
    options = parser.parse_args()
    results = read(FOLDER)
    README.write_text(render(results, readings(READINGS.read_text("utf-8"))), encoding="utf-8")
    if options.no_pictures:
        return 0
    found = [picture for result in results.values() for picture in pictures(result)]
    return 0 if draw(found, FOLDER) else 1


def readings(text: str) -> Readings:
    """The parts of `readings.md`; a heading is `## case: title`."""
    beginning, *sections = re.split(r"^## +", text, flags=re.MULTILINE)
    cases = {}
    for section in sections:
        heading, _, reading = section.partition("\n")
        case, _, title = heading.partition(":")
        cases[case.strip()] = (title.strip(), reading.strip())
    return Readings(beginning.strip(), cases)


def render(results: Mapping[str, Result], written: Readings) -> str:
    """The whole page."""
    cases = list(dict.fromkeys([*written.cases, *results]))
    parts = [GENERATED, written.beginning]
    parts += _summary([results[case] for case in cases if case in results])
    for case in cases:
        title, reading = written.cases.get(case, ("", ""))
        parts.append(f"## {case}: {title}" if title else f"## {case}")
        parts += _measured(results[case]) if case in results else ["Not measured yet."]
        if reading:
            parts.append(reading)
    return "\n\n".join(parts) + "\n"


def draw(found: list[Picture], folder: Path) -> bool:
    """Draws them anew, and removes those that are not called for any more."""
    for path in folder.glob("*.svg"):
        if path.name not in {picture.file for picture in found}:
            path.unlink()
    if not found:
        return True
    python = python_of("pictures", MATPLOTLIB)
    if python is None:
        return False
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "pictures.json")
        source.write_bytes(msgspec.json.encode(found))
        command = [python, HERE / "draw.py", source, folder]
        done = subprocess.run(command, check=False, timeout=DRAWING_S)
    return done.returncode == 0


def _summary(results: Sequence[Result]) -> Iterator[str]:
    """Everything that is held against a bound, in one table."""
    held = [
        (result.case, figure)
        for result in results
        for figure in result.figures
        if figure.bound is not None
    ]
    if not held:
        return
    kept = sum(figure.met is True for _, figure in held)
    yield "## Bounds"
    yield f"{kept} of {len(held)} bounds are kept."
    yield _table(
        ("case", "what", "measured", "bound", ""),
        [
            (case, _what(figure), quantity(figure.value, figure.unit), bound(figure), met(figure))
            for case, figure in held
        ],
    )


def _measured(result: Result) -> Iterator[str]:
    """All of a result but its reading."""
    yield f"{where(result)}."
    yield f"How: {result.configuration}."
    for side, configuration in result.sides.items():
        yield f"{side}: {configuration}."
    told = [figure for figure in result.figures if figure.counted not in OVER_TIME]  # drawn alone
    for case in dict.fromkeys(figure.case for figure in told):
        figures = [figure for figure in told if figure.case == case]
        yield _table(
            (case, "side", "measured", "bound", "", "runs", "min", "median", "p99", "max"),
            [_row(figure) for figure in figures],
        )
    if result.failures:
        rows = [(failure.side, failure.reason) for failure in result.failures]
        yield _table(("not measured", "why"), rows)
    for picture in pictures(result):
        yield f"![{picture.title}](results/{picture.file})"


def _row(figure: Figure) -> Row:
    return (
        _what(figure),
        figure.side,
        quantity(figure.value, figure.unit),
        bound(figure),
        met(figure),
        *_spread(figure.spread, figure.unit),
    )


def _spread(spread: Spread | None, unit: str) -> Row:
    if spread is None:
        return ("", "", "", "", "")
    values = (spread.min, spread.median, spread.p99, spread.max)
    return (f"{spread.runs:,}", *(quantity(value, unit) for value in values))


def met(figure: Figure) -> str:
    """The verdict, as it is read."""
    return {True: "met", False: "**NOT MET**", None: ""}[figure.met]


def _what(figure: Figure) -> str:
    if figure.size is None:
        return figure.what
    return f"{figure.what}; {figure.size:,.0f} {figure.counted}".rstrip()


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
