"""Logs: lines for people on a terminal, one JSON object per line for everything else; to stderr, or
to a file that may be moved away at any time.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import RawIOBase, TextIOBase
from pathlib import Path
from typing import TextIO

import structlog

from freshet.engine.capture import structured
from freshet.engine.secrets import has_secrets, redact


class Redacted(TextIOBase):
    """A text stream that writes to another one, secrets taken out. What is written below it, by a
    subprocess or by `os.write`, it does not see.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # as the stream says it
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as the stream says it
        return self._stream.errors

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def buffer(self) -> "_Bytes":
        """For what writes bytes."""
        return _Bytes(self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class _Bytes(RawIOBase):
    """Bytes as text, on the way to the same place."""

    def __init__(self, text: Redacted) -> None:
        self._text = text

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        self._text.write(bytes(data).decode(self._text.encoding or "utf-8", "backslashreplace"))
        self._text.flush()
        return len(bytes(data))

    def writable(self) -> bool:
        return True


@contextmanager
def redacted_output() -> Iterator[None]:
    """Whatever is printed in this block is printed without secrets."""
    with redirect_stdout(Redacted(sys.stdout)), redirect_stderr(Redacted(sys.stderr)):
        yield


class Rotated:
    """A log file to be appended to. If it was moved or removed, as those do who rotate logs, the
    next line begins a new one; so nobody has to tell us. What cannot be written there goes to
    stderr: no log is worth a daemon.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()

    def write(self, text: str) -> int:
        """Append the text; whole lines are written at once."""
        try:
            if not self._is_there():
                self._file.close()
                self._file = self._open()
            return self._file.write(text)
        except (OSError, ValueError):  # ValueError: it is closed, as opening it again has failed
            return sys.stderr.write(text)

    def flush(self) -> None:
        """Nothing waits: the file is written line by line."""

    def close(self) -> None:
        self._file.close()

    def _open(self) -> TextIO:
        return self._path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def _is_there(self) -> bool:
        """Is the file at the path the one that is open?"""
        try:
            found, own = self._path.stat(), os.fstat(self._file.fileno())
        except (OSError, ValueError):
            return False
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def configure(path: Path | None = None) -> None:
    """Send all logs of the process to stderr, in the form its reader wants; or to this file. Raises
    OSError when that cannot be written.
    """
    person = path is None and sys.stderr.isatty()
    target = sys.stderr if path is None else Rotated(path)
    # Without the locals of each frame: they may hold users' own secrets.
    rich = structlog.dev.RichTracebackFormatter(show_locals=False)

    def plain(stream: TextIO, error: structlog.typing.ExcInfo) -> None:
        # A box around lines would break secrets, and then they are not found.
        formatter = structlog.dev.plain_traceback if has_secrets() else rich
        formatter(stream, error)

    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if person:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=plain)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structured,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if person else "iso", utc=not person),
            *([] if person else [structlog.processors.format_exc_info]),
            _silent,
            _rendered(renderer),
        ],
        logger_factory=structlog.WriteLoggerFactory(target),  # type: ignore[arg-type]  # writes
        cache_logger_on_first_use=False,
    )


def _silent(
    logger: object, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The texts without secrets: before they are written as JSON, which writes some otherwise."""
    return {key: redact(value) if isinstance(value, str) else value for key, value in event.items()}


def _rendered(renderer: structlog.typing.Processor) -> structlog.typing.Processor:
    """The renderer, with a line without secrets."""

    def render(logger: object, name: str, event: structlog.typing.EventDict) -> str:
        return redact(str(renderer(logger, name, event)))

    return render
