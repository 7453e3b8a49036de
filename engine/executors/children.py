"""Children: processes of other programs, each in a process group of its own, heard while they work,
and ended with all that they have started.

children/3f2a…    of a child that is alive: its process id and when it started. What stands there
                  when a daemon starts was left behind by one that was killed, and is ended.
"""

import codecs
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

from freshet.engine.executors.invoke import readable
from freshet.engine.secrets import SHOWN

FOLDER = "children"
"""Inside the state folder."""

TOKEN = "FRESHET_CHILD"
"""The environment variable by which a child, and all that it starts, is known again."""

LOOK_S = 0.05
"""How often is looked whether a child has ended, where the system cannot wake us for that."""

CHUNK_BYTES = 64 * 1024
"""Read at once of what a child says: as much as a pipe holds."""

MAX_CHUNKS = 16
"""Read of one pipe once its child has ended: 1 MiB, the most that Linux lets a pipe hold."""

LAST_BYTES = 64 * 1024
"""Of stderr, kept to say why a child failed: far more than is said, as secrets are taken out
first.
"""

Heard = Callable[[bytes], None]


class Child:
    """One child. Used by one thread at a time; only `kill` may come from any.

    Raises OSError when the program cannot be started. What it prints goes to `sys.stdout` and
    `sys.stderr`, so into the log of the run that attends to it. `sources` are further pipes to be
    read, with who takes what comes; `passed` the descriptors it inherits.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        passed: Sequence[int] = (),
        sources: Mapping[int, Heard] | None = None,
    ) -> None:
        token = uuid4().hex
        self._note = folder / token if folder is not None else None
        if self._note is not None:
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.touch()  # before it starts: whenever we are killed, it is found
        self._lock = threading.Lock()
        self._over = False
        self._killed = False
        try:
            self._process = subprocess.Popen(
                command,
                env={**environment, TOKEN: token},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=tuple(passed),
            )
        except BaseException:
            self._forget()
            raise
        if self._note is not None:
            self._note.write_text(f"{self.pid} {_started(self.pid)}")
        self._selector = selectors.DefaultSelector()
        self._last = bytearray()
        self._is_cut = False
        out, err = self._process.stdout, self._process.stderr
        assert out is not None
        assert err is not None
        self._listen(out.fileno(), _printer("stdout"))
        told = _printer("stderr")
        self._listen(err.fileno(), lambda data: self._complain(data, told))
        for descriptor, heard in (sources or {}).items():
            self._listen(descriptor, heard)
        self._pidfd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1
        if self._pidfd >= 0:
            self._selector.register(self._pidfd, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    @property
    def is_done(self) -> bool:
        """Has it ended, or was it told to?"""
        return self._killed or self._has_ended()

    def attend(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Take what it says until that is so (True), or it has ended (False)."""
        while not until():
            ended = self._has_ended()
            self._take(0 if ended else None if self._pidfd >= 0 else LOOK_S)
            if ended:
                return until()
        self._take(0)
        return True

    def last_words(self, most: int) -> str:
        """The end of what it said on stderr, in characters, without secrets."""
        text = readable(self._last.decode("utf-8", "replace")).strip()
        if self._is_cut:  # it may begin in the middle of a secret
            _, _, rest = text.partition("\n")
            text = rest or text[max(text.find(SHOWN), 0) :]
        return text[-most:]

    def kill(self) -> None:
        """End it and all in its group, at once. Safe at any time, from any thread."""
        with self._lock:
            self._killed = True
            if not self._over:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """End what is left of its group, and it too; returns its exit code, or the number of the
        signal that ended it, negated.
        """
        if self._over:
            return self._process.wait()
        self.kill()
        with self._lock:
            code = self._process.wait()
            self._over = True  # from here on its number may be that of another process
        self._take(0)
        self._selector.close()
        for descriptor in (self._process.stdout, self._process.stderr):
            assert descriptor is not None
            descriptor.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._forget()
        return code

    def _complain(self, data: bytes, told: Heard) -> None:
        self._last += data
        self._is_cut |= len(self._last) > LAST_BYTES
        del self._last[:-LAST_BYTES]
        told(data)

    def _listen(self, descriptor: int, heard: Heard) -> None:
        os.set_blocking(descriptor, False)
        self._selector.register(descriptor, selectors.EVENT_READ, heard)

    def _take(self, timeout: float | None) -> None:
        """Wait for something, and take all there is."""
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                continue
            try:
                data = os.read(key.fd, CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            key.data(data)
            if not data:
                self._selector.unregister(key.fd)
            elif len(data) == CHUNK_BYTES:
                timeout = 0  # there may be more
        if timeout == 0 and any(key.data for key, _ in self._selector.select(0)):
            self._take_rest()

    def _take_rest(self) -> None:
        """Take what is in the pipes, but no more than they hold: it may go on for ever."""
        for key in [key for key in self._selector.get_map().values() if key.data is not None]:
            for _ in range(MAX_CHUNKS):
                try:
                    data = os.read(key.fd, CHUNK_BYTES)
                except OSError:
                    break
                if not data:
                    break
                key.data(data)

    def _has_ended(self) -> bool:
        """Without reaping it, where that can be asked: until then its number is its own."""
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True  # somebody else in this process has waited for it
        return found is not None

    def _forget(self) -> None:
        if self._note is not None:
            self._note.unlink(missing_ok=True)


def ending(code: int) -> str:
    """How a process has ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def end_left_behind(folder: Path) -> int:
    """End what the runs of an earlier daemon have left behind; returns how many processes."""
    notes = {path.name: path for path in folder.glob("*")} if folder.is_dir() else {}
    if not notes:
        return 0
    wanted: dict[bytes, list[int]] = {}
    for token, path in notes.items():
        wanted[f"{TOKEN}={token}".encode()] = [int(word) for word in path.read_text().split()]
    ended = 0
    for pid in _processes():
        if any(_is_meant(pid, token, note) for token, note in wanted.items()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                ended += 1
    for path in notes.values():
        path.unlink(missing_ok=True)
    return ended


def _is_meant(pid: int, token: bytes, note: Sequence[int]) -> bool:
    """Was it started by that child, and is it in its group? If the note was not finished, the
    token alone says so; a program may have cleared its environment, then the group's leader does.
    """
    with suppress(OSError):
        if note and os.getpgid(pid) != note[0]:
            return False
        if token in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return True
        return len(note) == 2 and _started(note[0]) == note[1]
    return False


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []  # a system that does not show its processes: workers end by themselves


def _started(pid: int) -> int:
    """When a process started, in ticks since the machine did; 0 if that is not known."""
    try:
        # The name may contain anything; what follows its last bracket is numbers.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def _printer(name: str) -> Heard:
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    return partial(_print, name, decode)


def _print(name: str, decode: Callable[[bytes, bool], str], data: bytes) -> None:
    text = decode(data, not data)
    if text:
        with suppress(OSError, ValueError):  # whoever read our output has gone
            getattr(sys, name).write(text)
