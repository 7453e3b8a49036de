"""Capture: what is printed and logged in this process goes into the log of the run it belongs to,
beside where it goes anyway.

Which run that is, a context variable says: it follows calls, awaits, tasks, and the worker threads
of anyio and asyncio. A thread that a function starts by itself belongs to no run.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

from freshet.engine.runlogs import SINK, Stream, spoken


class Routed:
    """A text stream as it was, but that runs are heard."""

    def __init__(self, original: TextIO, stream: Stream) -> None:
        self.original = original
        self._stream = stream

    def write(self, text: str) -> int:
        sink = SINK.get()
        if sink is not None and isinstance(text, str):
            sink.hear(self._stream, text)
        return self.original.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # whatever a text stream has
        return getattr(self.original, name)


class Records(logging.Handler):
    """Puts what is logged in a run into its log. As long as it is the only handler, warnings go to
    stderr too, as they do where nobody has set up logging.
    """

    def __init__(self, stderr: TextIO | None) -> None:
        super().__init__()
        self._stderr = stderr

    def emit(self, record: logging.LogRecord) -> None:
        sink = SINK.get()
        try:
            text = self.format(record)
        except Exception as error:  # recorded: in place of the line
            text = f"{record.msg!r} cannot be formatted: {type(error).__name__}"
        if sink is not None:
            sink.write("log", text, record.levelname.lower(), {"logger": record.name})
        alone = logging.getLogger().handlers == [self]
        if alone and record.levelno >= logging.WARNING and self._stderr is not None:
            self._stderr.write(text + "\n")


class _Installed:
    """How things were before; there is one for the process, however many engines run in it."""

    count = 0
    handler: Records | None = None
    level: int | None = None


def structured(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: what is logged in a run goes into its log too."""
    sink = SINK.get()
    if sink is not None:
        fields = {name: value for name, value in event.items() if name not in ("event", "level")}
        sink.write("log", spoken(event.get("event", "")), event.get("level", method), fields)
    return event


@contextmanager
def captured() -> Iterator[None]:
    """While this lasts, runs in this process are heard."""
    if not _Installed.count:
        _install()
    _Installed.count += 1
    try:
        yield
    finally:
        _Installed.count -= 1
        if not _Installed.count:
            _uninstall()


def _install() -> None:
    root = logging.getLogger()
    _Installed.level = None
    if not root.handlers and root.level == logging.WARNING:
        # Nobody has set up logging: what a run logs as info is worth keeping in its log.
        _Installed.level = root.level
        root.setLevel(logging.INFO)
    _Installed.handler = Records(sys.stderr)
    root.addHandler(_Installed.handler)
    sys.stdout = Routed(sys.stdout, "stdout")
    sys.stderr = Routed(sys.stderr, "stderr")


def _uninstall() -> None:
    root = logging.getLogger()
    if _Installed.handler is not None:
        root.removeHandler(_Installed.handler)
    if _Installed.level is not None and root.level == logging.INFO:
        root.setLevel(_Installed.level)
    if isinstance(sys.stdout, Routed):
        sys.stdout = sys.stdout.original
    if isinstance(sys.stderr, Routed):
        sys.stderr = sys.stderr.original
