"""The doctor: what was seen of the machine, the state folder and the project, judged. Pure: facts
are gathered by `freshet doctor`.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from freshet.engine.counts import counted
from freshet.engine.reports import Fault
from freshet.sensors.landing.mounts import is_shared

Level = Literal["ok", "info", "warning", "error"]

MIN_PYTHON = (3, 11)

MENDED_SQLITE = (3, 51, 3)
"""Before it, two connections that write or checkpoint a WAL file at once can corrupt it."""

LOW_BYTES = 1 << 30
"""Free space that is worth a warning: a day of a busy stream, or some large values."""

NO_BYTES = 16 << 20
"""Free space with which the next hour is not certain."""

CLOCK_S = 5.0
"""A recorded time so far ahead is more than clocks of machines differ that are set from outside."""

DRIFT_RATIO = 0.01
"""How much faster or slower the wall clock may go than the steady one: a clock being slewed."""

SHOWN = 5
"""Names listed of many."""


class Extra(msgspec.Struct, frozen=True):
    """An optional extra: what it gives, and the version of each of its packages ("": none)."""

    name: str
    gives: str
    found: dict[str, str]


class Place(msgspec.Struct, frozen=True):
    """A folder: is it there, may it be written, on what file system, with how much space."""

    path: str
    exists: bool
    writable: bool
    kind: str = ""
    free_bytes: int | None = None


class Chain(msgspec.Struct, frozen=True):
    """How many of the newest events were checked against the hash chain, and what is wrong."""

    checked: int
    problem: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What was seen. What does not exist, or cannot be known, is None or empty."""

    release: str
    python: tuple[int, ...]
    packages: dict[str, str]
    """Version by package ("": not installed) of those it cannot do without."""
    extras: tuple[Extra, ...]
    sqlite: tuple[int, ...]
    state: Place
    store: Place | None = None
    target: str = ""
    fault: Fault | None = None
    """Why the target does not load."""
    folders: int | None = None
    """Below what the project's file sensors watch."""
    max_watches: int | None = None
    max_instances: int | None = None
    now_us: int = 0
    newest_us: int = 0
    """Recorded time of the newest event; 0: there is none."""
    wall_s: float = 0.0
    """How far the wall clock came during a look at it, and how far the steady one."""
    steady_s: float = 0.0
    holder: str = ""
    """Who holds the lease, in words."""
    answers: bool = False
    chain: Chain | None = None
    left: tuple[str, ...] = ()
    """Runs that have staged something in the store."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing looked at: what was seen; unless all is well, why that matters and what to do."""

    level: Level
    subject: str
    seen: str
    why: str = ""
    hint: str = ""


def findings(facts: Facts) -> tuple[Finding, ...]:
    """What the facts say, in the order in which a person would look."""
    return tuple(found for judge in JUDGES for found in judge(facts))


def _python(facts: Facts) -> Iterator[Finding]:
    seen = f"Freshet {facts.release} on Python {_dotted(facts.python)}"
    if facts.python < MIN_PYTHON:
        need = _dotted(MIN_PYTHON)
        yield Finding("error", "python", seen, f"it needs {need} or newer", f"use Python {need}")
    else:
        yield Finding("ok", "python", seen)
    missing = [name for name, version in facts.packages.items() if not version]
    seen = ", ".join(f"{name} {version or 'missing'}" for name, version in facts.packages.items())
    if missing:
        hint = f"pip install {' '.join(missing)}"
        yield Finding("error", "packages", seen, "nothing works without them", hint)
    else:
        yield Finding("ok", "packages", seen)


def _extras(facts: Facts) -> Iterator[Finding]:
    for extra in facts.extras:
        missing = [name for name, version in extra.found.items() if not version]
        have = [f"{name} {version}" for name, version in extra.found.items() if version]
        if missing:
            hint = f"pip install 'freshet[{extra.name}]'"
            seen = f"without {', '.join(missing)}"
            yield Finding("info", f"extra {extra.name}", seen, f"it would give {extra.gives}", hint)
        else:
            yield Finding("ok", f"extra {extra.name}", ", ".join(have))


def _sqlite(facts: Facts) -> Iterator[Finding]:
    seen = f"SQLite {_dotted(facts.sqlite)}"
    if facts.sqlite >= MENDED_SQLITE:
        yield Finding("ok", "sqlite", seen)
        return
    yield Finding(
        "info",
        "sqlite",
        f"{seen}, older than {_dotted(MENDED_SQLITE)}",
        "in it, two connections that write or checkpoint one WAL file at once can corrupt it;"
        " Freshet has one writer, and its readers never do, so it is not concerned",
        "let no other program write to stream.db; open it read-only: sqlite3 -readonly",
    )


def _state(facts: Facts) -> Iterator[Finding]:
    state = facts.state
    if not state.writable:
        what = "cannot be written" if state.exists else "cannot be made"
        seen = f"'{state.path}' {what}"
        hint = "check owner and permissions, or name another folder with --state"
        yield Finding("error", "state", seen, "nothing can be recorded", hint)
    else:
        seen = f"'{state.path}' can be {'written' if state.exists else 'made'}"
        yield Finding("ok", "state", seen)
    if is_shared(state.kind):
        yield Finding(
            "error",
            "file system",
            f"'{state.path}' lies on {state.kind}",
            "its locks and shared memory cannot be relied on: two daemons might write one stream",
            "keep the state folder on a local disk: --state FOLDER; values may lie anywhere",
        )
    else:
        yield Finding("ok", "file system", state.kind or "of an unknown kind")


def _space(facts: Facts) -> Iterator[Finding]:
    for name, place in (("state", facts.state), ("store", facts.store)):
        if place is None or place.free_bytes is None:
            continue
        seen = f"{_size(place.free_bytes)} free for '{place.path}'"
        if place.free_bytes < LOW_BYTES:
            level: Level = "error" if place.free_bytes < NO_BYTES else "warning"
            why = "on a full disk nothing is recorded and nothing runs until there is space"
            yield Finding(level, f"space of the {name}", seen, why, "free or add space")
        else:
            yield Finding("ok", f"space of the {name}", seen)
    if facts.store is not None and not facts.store.writable:
        seen = f"'{facts.store.path}' cannot be written"
        yield Finding("error", "store", seen, "no value can be kept", "check its permissions")


def _inotify(facts: Facts) -> Iterator[Finding]:
    if facts.max_watches is None:
        return
    seen = f"{facts.max_watches} watches"
    if facts.max_instances is not None:
        seen += f", {facts.max_instances} instances"
    if facts.folders is None:
        yield Finding("ok", "inotify", f"{seen} at most")
        return
    seen = f"{counted(facts.folders, 'folder')} to watch, of {seen} at most"
    hint = f"sysctl fs.inotify.max_user_watches={max(2 * facts.folders, 65536)}"
    if facts.folders >= facts.max_watches:
        why = "what cannot be watched is found by the next scan only, seconds later"
        yield Finding("warning", "inotify", seen, why, hint)
    elif 2 * facts.folders >= facts.max_watches:
        why = "all programs of the user share them"
        yield Finding("warning", "inotify", seen, why, hint)
    else:
        yield Finding("ok", "inotify", seen)


def _clock(facts: Facts) -> Iterator[Finding]:
    if facts.steady_s and abs(facts.wall_s / facts.steady_s - 1) > DRIFT_RATIO:
        yield Finding(
            "warning",
            "clock",
            f"in {facts.steady_s:.3f} s the wall clock came {facts.wall_s:.3f} s further",
            "it is being set right now; the daemon's time follows, and never goes back",
            "have the clock of the machine kept by chrony or systemd-timesyncd",
        )
    ahead_s = (facts.newest_us - facts.now_us) / 1_000_000
    if facts.newest_us and ahead_s > CLOCK_S:
        yield Finding(
            "warning",
            "clock",
            f"the newest event was recorded {ahead_s:.0f} s ahead of the clock",
            "the daemon's time goes on from there, slower, until both agree: timers are late",
            "set the clock of this machine, or that of the machine that wrote the stream",
        )
    elif not facts.steady_s or abs(facts.wall_s / facts.steady_s - 1) <= DRIFT_RATIO:
        yield Finding("ok", "clock", "goes evenly, and no event lies ahead of it")


def _daemon(facts: Facts) -> Iterator[Finding]:
    if facts.holder and not facts.answers:
        yield Finding(
            "error",
            "daemon",
            f"{facts.holder} holds the lease, and does not answer",
            "a daemon that hangs, or is of another host or release, keeps others from starting",
            "look at its log; stop it, and start it anew",
        )
    elif facts.answers:
        yield Finding("ok", "daemon", f"{facts.holder or 'one'} holds the lease and answers")
    else:
        yield Finding("info", "daemon", "none runs", "nothing is kept fresh", "freshet run TARGET")


def _chain(facts: Facts) -> Iterator[Finding]:
    if facts.chain is None:
        yield Finding("ok", "stream", "there is none yet")
    elif facts.chain.problem:
        why = "what was recorded has been damaged or changed: no state can be told from it"
        hint = "restore stream.db from a backup; `freshet verify` tells the first bad position"
        yield Finding("error", "stream", facts.chain.problem, why, hint)
    else:
        seen = f"the newest {counted(facts.chain.checked, 'event')} fit the hash chain"
        yield Finding("ok", "stream", seen)


def _left(facts: Facts) -> Iterator[Finding]:
    if not facts.left:
        return
    shown = ", ".join(facts.left[:SHOWN]) + (" …" if len(facts.left) > SHOWN else "")
    yield Finding(
        "warning",
        "staged",
        f"{counted(len(facts.left), 'run')} left something staged that nobody publishes: {shown}",
        "it takes space, and no reader sees it",
        "`freshet run` discards it when it starts",
    )


def _project(facts: Facts) -> Iterator[Finding]:
    if not facts.target:
        return
    if facts.fault is None:
        yield Finding("ok", "project", f"'{facts.target}' loads")
    else:
        why = "`freshet run` and `freshet reload` refuse it"
        yield Finding("error", "project", str(facts.fault), why, facts.fault.hint or "")


JUDGES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _python,
    _sqlite,
    _state,
    _space,
    _inotify,
    _clock,
    _daemon,
    _chain,
    _left,
    _project,
    _extras,
)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _size(count: int) -> str:
    """A size in the largest unit that leaves a whole number."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count // size} {unit}"
    return f"{count} bytes"
