"""What a peer needs running beside its script: started, waited for, asked, and always ended.

Only the standard library, as `said`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_S = 15.0
"""How long a process may take to end when asked to, before it is killed."""

ANSWER_S = 30.0
"""Longest wait for one answer over HTTP: a busy machine may need seconds."""


class Servers:
    """Processes that log into `folder`, each in a group of its own with what it starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts a process with these variables beside those of this process."""
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                cwd=self._folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def call(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], limit_s: float
    ) -> None:
        """Starts a process that ends by itself, and waits for that."""
        self.start(name, command, environment)
        if self._running[name].wait(limit_s):
            raise RuntimeError(f"{name} failed: {self._last_line(name)}")
        del self._running[name]

    def until(
        self, ask: Callable[[], T | None], what: str, limit_s: float, every_s: float = 0.02
    ) -> T:
        """What `ask` answers as soon as it does; fails if a process ends before, or it is late."""
        late = time.monotonic() + limit_s
        seen = ""
        while time.monotonic() < late:
            try:
                if (answer := ask()) is not None:
                    return answer
            except OSError as error:  # not up yet, or not ready to answer
                seen = f"; last seen: {error}"
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended before {what}: {self._last_line(name)}")
            time.sleep(every_s)
        raise TimeoutError(f"no {what} within {limit_s:g} s{seen}")

    def stop(self) -> None:
        """Ends all, the last one started first, with everything that they have started."""
        for process in reversed(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Processes that do not outlive the block, even when this one is asked to end meanwhile."""
    opened = Servers(folder)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))
    try:
        yield opened
    finally:
        opened.stop()
        signal.signal(signal.SIGTERM, before)


def free_port() -> int:
    """A port of this machine on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: object = None, token: str | None = None) -> Any:
    """The JSON that is answered to a GET, or to a POST of `body` when there is one; None if
    the answer is empty.
    """
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return json.loads(answer.read() or b"null")
