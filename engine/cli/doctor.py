"""`freshet doctor`: look at the machine, the state folder and a project, and say what is wrong."""

import os
import shutil
import sqlite3
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from freshet.engine.cli.daemon import answered
from freshet.engine.cli.output import print_json
from freshet.engine.cli.state import (
    NOBODY,
    STREAM_FILE,
    json_option,
    profile_option,
    run_async,
    state_option,
)
from freshet.engine.doctor import Chain, Extra, Facts, Finding, Place, findings
from freshet.engine.errors import FreshetError
from freshet.engine.lease import holder_of
from freshet.engine.project import Project
from freshet.engine.reports import Fault
from freshet.engine.running import fault_of, release
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stores.local import LocalStore
from freshet.engine.target import load_project
from freshet.sensors.files import FilesSensor
from freshet.sensors.landing.mounts import kind_at

CORE = (
    "anyio", "msgspec", "aiosqlite", "watchfiles", "structlog", "click", "rich", "cronsim",
    "typing-extensions",
)  # fmt: skip

EXTRAS = (
    ("polars", "tables of polars, and checks of them", ("polars", "narwhals")),
    ("pandas", "tables of pandas, and checks of them", ("pandas", "pyarrow", "narwhals")),
    ("arrow", "Arrow tables, and checks of them", ("pyarrow", "narwhals")),
    ("pandera", "fr.conforms", ("pandera",)),
    ("kafka", "fr.kafka", ("aiokafka", "cramjam")),
    ("objects", "fr.objects and fr.ObjectStore", ("obstore",)),
    ("duckdb", "fr.DuckDBStore", ("duckdb",)),
    ("fast", "a faster event loop", ("uvloop",)),
)

MAX_CHECKED = 10_000
"""Newest events whose hash chain is checked: some 100 ms; `freshet verify` checks all."""

MAX_FOLDERS = 1_000_000
"""Folders counted at most below what is watched."""

LOOK_S = 0.2
"""How long the clocks are compared."""

INOTIFY = Path("/proc/sys/fs/inotify")

MARKS = {"ok": "ok", "info": "--", "warning": "!!", "error": "XX"}


@click.command()
@click.argument("target", metavar="[TARGET]", required=False)
@profile_option
@state_option
@json_option
def doctor(target: str | None, state: Path, as_json: bool) -> int:
    """Look for what could keep Freshet from working here: versions, limits, space, clock, state.

    With a TARGET (`path.py` or `module:project`) also whether it loads, and what it watches.
    Changes nothing. Exit code 1 if there is an error.
    """
    found = findings(gather(target, state))
    if as_json:
        print_json(found)
    else:
        for finding in found:
            _print(finding)
    return 1 if any(finding.level == "error" for finding in found) else 0


def _print(finding: Finding) -> None:
    click.echo(f"{MARKS[finding.level]}  {finding.subject}: {finding.seen}")
    if finding.why:
        click.echo(f"      why: {finding.why}")
    if finding.hint:
        click.echo(f"      do:  {finding.hint}")


def gather(target: str | None, state: Path) -> Facts:
    """Look at everything; what cannot be looked at is left out."""
    project, fault = _load(target)
    wall, steady = time.time(), time.monotonic()
    stream = state / STREAM_FILE
    chain, newest_us = run_async(_chain, stream) if stream.exists() else (None, 0)
    answers = run_async(_answers, state)
    holder = holder_of(stream)
    root = project.store.root if project and isinstance(project.store, LocalStore) else None
    watched = _folders(project) if project is not None else None
    time.sleep(max(0.0, LOOK_S - (time.monotonic() - steady)))
    wall_s, steady_s = time.time() - wall, time.monotonic() - steady
    return Facts(
        release=release(),
        python=sys.version_info[:3],
        packages={name: _version(name) for name in CORE},
        extras=tuple(
            Extra(name, gives, {each: _version(each) for each in packages})
            for name, gives, packages in EXTRAS
        ),
        sqlite=sqlite3.sqlite_version_info,
        state=_place(state),
        store=_place(root) if root is not None else None,
        target=target or "",
        fault=fault,
        folders=watched,
        max_watches=_limit("max_user_watches"),
        max_instances=_limit("max_user_instances"),
        now_us=time.time_ns() // 1000,
        newest_us=newest_us,
        wall_s=wall_s,
        steady_s=steady_s,
        holder=f"process {holder.pid} on host {holder.host}" if holder else "",
        answers=answers,
        chain=chain,
        left=_left(root) if root is not None and not answers else (),
    )


def _load(target: str | None) -> tuple[Project | None, Fault | None]:
    if target is None:
        return None, None
    try:
        return load_project(target), None
    except FreshetError as error:
        return None, fault_of(error)


def _place(path: Path) -> Place:
    """Of a folder that is not there, what holds for the nearest one above it."""
    exists = path.is_dir()
    near = path.absolute()
    while not near.is_dir() and near != near.parent:
        near = near.parent
    blocked = path.exists() and not exists
    writable = os.access(near, os.W_OK | os.X_OK) and not blocked
    return Place(str(path), exists, writable, kind_at(str(near)), shutil.disk_usage(near).free)


async def _chain(stream: Path) -> tuple[Chain, int]:
    """The newest events against the hash chain, and when the last of them was recorded."""
    try:
        async with SqliteReader.open(stream) as reader:
            after = max(0, reader.head - MAX_CHECKED)
            last = await reader.at(reader.head)
            checked = await reader.verify(after) - after
            return Chain(checked), last.recorded_at if last is not None else 0
    except FreshetError as error:
        return Chain(0, str(fault_of(error))), 0


async def _answers(state: Path) -> bool:
    try:
        await answered(state)
    except NOBODY:
        return False
    return True


def _folders(project: Project) -> int:
    """Folders below the roots of the project's file sensors, those included."""
    roots = {
        target.pattern.root
        for sensor in project.sensors
        if isinstance(sensor, FilesSensor)
        for target in sensor.watched.targets
    }
    count = 0
    for root in roots:
        for _ in os.walk(root):
            count += 1
            if count >= MAX_FOLDERS:
                return count
    return count


def _left(root: Path) -> tuple[str, ...]:
    """Runs with something staged; while a daemon runs that is no news."""
    staged = root / ".staged"
    if not staged.is_dir():
        return ()
    return tuple(sorted(one.name for one in staged.iterdir() if any(one.rglob("*"))))


def _limit(name: str) -> int | None:
    try:
        return int((INOTIFY / name).read_text())
    except (OSError, ValueError):
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
