"""Run logs: what a run says while it works, as JSON lines in the state folder, one file a run.

logs/212.jsonl    what run 212 has printed and logged; there is none if it was silent
"""

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from io import FileIO
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from freshet.engine.secrets import redact
from freshet.engine.specs import Plain

FOLDER = "logs"
"""Inside the state folder."""

MAX_RUN_BYTES = 1024 * 1024
"""Of one run: half of it for how it began, half for how it ended; what is between is left out."""

MAX_RUNS = 1000
"""Runs whose logs are kept, the newest: more than anybody reads, few enough for one folder."""

MAX_BYTES = 256 * 1024 * 1024
"""Of all logs together, whatever the number of runs."""

MAX_LINE_CHARS = 16 * 1024
"""Of one line; what goes on longer without an end is cut into several."""

LEVELS = ("debug", "info", "warning", "error", "critical")
"""Of logged lines, mildest first; what is printed counts as info."""

Stream = Literal["stdout", "stderr", "log"]

_encoder = msgspec.json.Encoder()
_said = logging.getLogger("freshet.run")


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: when (µs since the epoch), where it was said, and what. `level` and `fields` are
    those of what is logged.
    """

    at: int
    stream: Stream
    text: str
    level: str = ""
    fields: dict[str, Plain] = {}


class Sink(Protocol):
    """Where lines of a run go. Never raises, and may be called from any thread."""

    def write(
        self, stream: Stream, text: str, level: str = "", fields: Mapping[str, object] = {}
    ) -> None:
        """Take a whole line."""
        ...

    def hear(self, stream: Stream, text: str) -> None:
        """Take a piece of what is printed; it may end in the middle of a line."""
        ...


SINK: ContextVar[Sink | None] = ContextVar("freshet_run_log", default=None)
"""The log of the run in which this code is called; none: it belongs to no run."""


class RunLogger:
    """What `context.log` is: lines with a level and fields, in the log of the run. Outside of a
    run, as in a unit test, they go to the logger `freshet.run` of the standard library.
    """

    def debug(self, text: object, /, **fields: object) -> None:
        self._say("debug", text, fields)

    def info(self, text: object, /, **fields: object) -> None:
        self._say("info", text, fields)

    def warning(self, text: object, /, **fields: object) -> None:
        self._say("warning", text, fields)

    def error(self, text: object, /, **fields: object) -> None:
        self._say("error", text, fields)

    def _say(self, level: str, text: object, fields: Mapping[str, object]) -> None:
        sink = SINK.get()
        if sink is not None:
            sink.write("log", spoken(text), level, fields)
            return
        told = "".join(f" {name}={spoken(value)}" for name, value in fields.items())
        _said.log(logging.getLevelNamesMapping()[level.upper()], "%s%s", spoken(text), told)


LOGGER = RunLogger()


class RunLogs:
    """The logs of a state folder, bounded: opening one may remove the oldest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, int] | None = None
        """Bytes by run, oldest first; None until the folder was looked at."""
        self._total = 0
        self._open: set[int] = set()

    def of(self, run: int) -> "RunLog":
        """The log of a run; its file is made when there is something to write."""
        return RunLog(self, run)

    def begin(self, run: int) -> FileIO:
        """A file for one more run. Raises OSError."""
        with self._lock:
            if self._kept is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._kept = OrderedDict(sorted(sizes(self._folder).items()))
                self._total = sum(self._kept.values())
            self._total -= self._kept.get(run, 0)
            self._kept[run] = 0
            self._open.add(run)
            self._prune(self._kept)
            try:
                return self._new_file(run)
            except OSError:
                self._open.discard(run)
                del self._kept[run]
                raise

    def _new_file(self, run: int) -> FileIO:
        path = path_of(self._folder, run)
        try:
            return FileIO(path, "w")
        except FileNotFoundError:  # somebody has tidied up
            self._folder.mkdir(parents=True, exist_ok=True)
            return FileIO(path, "w")

    def ended(self, run: int, size: int) -> None:
        """Nothing more is written of this run."""
        with self._lock:
            self._open.discard(run)
            if self._kept is not None and run in self._kept:
                self._total += size - self._kept[run]
                self._kept[run] = size
                self._prune(self._kept)

    def _prune(self, kept: OrderedDict[int, int]) -> None:
        while len(kept) > MAX_RUNS or self._total > MAX_BYTES:
            oldest = next((run for run in kept if run not in self._open), None)
            if oldest is None:
                return
            self._total -= kept.pop(oldest)
            with suppress(OSError):  # it stays; nobody fails for that
                path_of(self._folder, oldest).unlink(missing_ok=True)


class RunLog:
    """What one run says. A failing disk ends the log, and nothing else."""

    def __init__(self, logs: RunLogs, run: int) -> None:
        self._logs = logs
        self._run = run
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._written = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._left_out = 0
        self._partial: dict[Stream, str] = {}
        self._over = False

    def write(
        self, stream: Stream, text: str, level: str = "", fields: Mapping[str, object] = {}
    ) -> None:
        """Write a whole line."""
        with self._lock:
            self._add(stream, text, level, fields)

    def hear(self, stream: Stream, text: str) -> None:
        """Take what is printed, write what are whole lines of it. Of what is overwritten in place,
        as by progress bars, the last is kept.
        """
        with self._lock:
            *lines, rest = (self._partial.get(stream, "") + text).split("\n")
            for line in lines:
                self._add(stream, line.rstrip("\r").rpartition("\r")[2])
            # Cut far from its end: a secret that has only half arrived is not cut in two.
            while len(rest) > 2 * MAX_LINE_CHARS:
                rest = redact(rest.rpartition("\r")[2])
                if len(rest) > 2 * MAX_LINE_CHARS:
                    self._add(stream, rest[:MAX_LINE_CHARS])
                    rest = rest[MAX_LINE_CHARS:]
            self._partial[stream] = rest

    def close(self) -> None:
        """Write what is left. What comes later, as from a function that was left behind, is not
        kept. Safe to call again.
        """
        with self._lock:
            for stream, rest in self._partial.items():
                text = redact(rest.rstrip("\r").rpartition("\r")[2])
                for start in range(0, len(text), MAX_LINE_CHARS):
                    self._add(stream, text[start : start + MAX_LINE_CHARS])
            self._partial.clear()
            self._over = True
            if self._file is None:
                return
            if self._left_out:
                kept = f"of a run {MAX_RUN_BYTES >> 20} MiB is kept"
                text = f"… {self._left_out:,} bytes left out here: {kept} …"
                self._put(_encoded("log", text, "warning", {}))
            self._put(b"".join(self._tail))
            self._tail.clear()
            self._file.close()
            self._file = None
            self._logs.ended(self._run, self._written)

    def _add(
        self, stream: Stream, text: str, level: str = "", fields: Mapping[str, object] = {}
    ) -> None:
        if self._over:
            return
        data = _encoded(stream, text, level, fields)
        if not self._tail and self._written + len(data) <= MAX_RUN_BYTES // 2:
            self._put(data)
            return
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes > MAX_RUN_BYTES // 2:
            gone = len(self._tail.popleft())
            self._tail_bytes -= gone
            self._left_out += gone

    def _put(self, data: bytes) -> None:
        try:
            if self._file is None:
                self._file = self._logs.begin(self._run)
            self._file.write(data)
            self._written += len(data)
        except OSError:
            self._over = True  # the disk is full, or the folder gone: the run goes on in silence


def path_of(folder: Path, run: int) -> Path:
    """The file of a run's log, in the folder of all."""
    return folder / f"{run}.jsonl"


def sizes(folder: Path) -> dict[int, int]:
    """The runs that have a log in the folder, and how many bytes."""
    found: dict[int, int] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.partition(".")
                if stem.isdigit() and suffix == "jsonl":
                    found[int(stem)] = entry.stat().st_size
    except FileNotFoundError:
        pass
    return found


def read_log(path: Path, after: int = 0) -> Iterator[tuple[int, Line]]:
    """The lines of a log from byte `after` on, each with the byte it ends at. A line that is not
    whole yet is left for later. Raises OSError.
    """
    with path.open("rb") as file:
        file.seek(after)
        for data in file:
            if not data.endswith(b"\n"):
                return
            after += len(data)
            yield after, msgspec.json.decode(data, type=Line)


def spoken(value: object) -> str:
    """The text of whatever is said; never raises for what user code says of itself."""
    try:
        text = str(value)
    except Exception as error:  # recorded: in place of the text
        text = f"(its text cannot be had: {type(error).__name__})"
    return text.encode("utf-8", "replace").decode()


def _encoded(stream: Stream, text: str, level: str, fields: Mapping[str, object]) -> bytes:
    text = redact(spoken(text))
    if len(text) > MAX_LINE_CHARS:
        text = text[: MAX_LINE_CHARS - 1] + "…"
    kept = {spoken(name): _plain(value) for name, value in fields.items()}
    line = Line(time.time_ns() // 1000, stream, text, level, kept)
    return _encoder.encode(line) + b"\n"


def _plain(value: object) -> Plain:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    return redact(spoken(value))[:MAX_LINE_CHARS]
