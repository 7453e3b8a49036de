"""Results as they are kept: one file of JSON for each case, with what they were measured on.

No host name and no path of the machine is written.
"""

import os
import platform
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.case import Figure

HERE = Path(__file__).parent
FOLDER = HERE / "results"

PACKAGES = ("anyio", "msgspec", "aiosqlite", "watchfiles", "structlog", "uvloop")
"""What a figure depends on besides Freshet, Python and SQLite."""

WRITTEN = (":!benchmarks/results", ":!benchmarks/README.md")
"""What measuring itself writes: a tree that differs in nothing else is that of its commit."""


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    cores: int
    cpu: str
    memory_gib: float
    system: str


class Failure(msgspec.Struct, frozen=True):
    """A side that could not be measured, and why, in one line."""

    side: str
    reason: str


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """All figures of one case from one run of it."""

    case: str
    date: str
    commit: str
    machine: Machine
    versions: dict[str, str]
    load_before: float
    """Load average of the last minute before it began."""
    configuration: str
    figures: tuple[Figure, ...]
    sides: dict[str, str] = {}
    """How each other side was set up, in one sentence."""
    failures: tuple[Failure, ...] = ()

    @property
    def missed(self) -> list[Figure]:
        """The figures whose bound is not kept."""
        return [figure for figure in self.figures if figure.met is False]


def result_of(
    case: str,
    configuration: str,
    figures: Sequence[Figure],
    load_before: float,
    sides: Mapping[str, str] | None = None,
    failures: Sequence[Failure] = (),
) -> Result:
    """What was measured just now, with the machine, the versions and the commit."""
    return Result(
        case,
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit(),
        machine(),
        versions(),
        round(load_before, 2),
        configuration,
        tuple(map(rounded, figures)),
        dict(sides or {}),
        tuple(failures),
    )


def write(result: Result, folder: Path = FOLDER) -> Path:
    """Keep it in place of an earlier one of the same case."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.case}.json"
    frame = msgspec.json.encode(msgspec.structs.replace(result, figures=()))
    before, empty, after = msgspec.json.format(frame, indent=1).partition(b'"figures": []')
    assert empty, "a result has figures, be they none"
    lines = b",\n  ".join(map(msgspec.json.encode, result.figures))  # one each: short differences
    path.write_bytes(before + b'"figures": [\n  ' + lines + b"\n ]" + after + b"\n")
    return path


def read(folder: Path = FOLDER) -> dict[str, Result]:
    """All that is kept, by case."""
    files = sorted(folder.glob("*.json"))
    return {path.stem: msgspec.json.decode(path.read_bytes(), type=Result) for path in files}


def rounded(figure: Figure) -> Figure:
    """Samples to five digits: nobody reads more, and they are most of a file."""
    samples = tuple(float(f"{sample:.5g}") for sample in figure.samples)
    return msgspec.structs.replace(figure, samples=samples)


def machine() -> Machine:
    """This one, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}"
    return Machine(os.cpu_count() or 0, _cpu(), round(memory, 1), system)


def versions() -> dict[str, str]:
    """Of Python, SQLite, Freshet and what it stands on; uvloop only where it is there."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in ("freshet", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Of the tree that is measured; with "dirty" if anything but results differs from it."""
    name = _git("rev-parse", "--short=12", "HEAD")
    if not name:
        return "unknown"
    return f"{name} dirty" if _git("status", "--porcelain", "--", ".", *WRITTEN) else name


def show(result: Result) -> None:
    """One table on the terminal, with bounds."""
    table = Table(box=None, header_style="bold")
    for name in ("case", "what", "side", "measured", "bound", "runs", "min", "max", ""):
        right = name in ("measured", "bound", "runs", "min", "max")
        table.add_column(name, justify="right" if right else "left")
    for figure in result.figures:
        spread = figure.spread
        table.add_row(
            figure.case,
            figure.what,
            figure.side,
            quantity(figure.value, figure.unit),
            bound(figure),
            str(spread.runs) if spread else "",
            quantity(spread.min, figure.unit) if spread else "",
            quantity(spread.max, figure.unit) if spread else "",
            {True: "met", False: "[red]NOT MET[/]", None: ""}[figure.met],
        )
    console = Console(width=None if os.isatty(1) else 160)
    console.print(table)
    for failure in result.failures:
        console.print(f"{failure.side}: not measured: {failure.reason}", markup=False)
    console.print(where(result), highlight=False, markup=False)


def where(result: Result) -> str:
    """One line: machine, versions, commit, date and load."""
    on, used = result.machine, dict(result.versions)
    python, sqlite = used.pop("python", "?"), used.pop("sqlite", "?")
    loop = "with uvloop" if "uvloop" in used else "without uvloop"
    cores = f"{on.cores} cores of {on.cpu}, {on.memory_gib:g} GiB, {on.system}"
    return (
        f"{result.date}, commit {result.commit}; {cores};"
        f" Python {python}, SQLite {sqlite}, {loop}; load before {result.load_before:g}"
    )


def bound(figure: Figure) -> str:
    """As it is read: `≥ 0.6`."""
    if figure.bound is None:
        return ""
    return f"{'≥' if figure.higher_is_better else '≤'} {quantity(figure.bound, figure.unit)}"


def quantity(value: float, unit: str) -> str:
    """A value with its unit; of seconds, those that fit."""
    if unit == "s" and 0 < abs(value) < 0.1:
        value, unit = (value * 1e3, "ms") if abs(value) >= 1e-4 else (value * 1e6, "µs")
    return f"{number(value)} {unit}"


def number(value: float) -> str:
    """Three digits that count, and all of those before the point."""
    if value == 0 or abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=HERE.parent
    )
    return done.stdout.strip()
