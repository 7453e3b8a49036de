"""Hints: what the system tells of changes below some roots. They say when to look, never what is
true.

watchfiles loses hints without a sign: when the kernel's queue overflows, for what is written into a
new folder before it is watched, and once the limits of inotify are reached. It gives up at a name
that is not UTF-8, and goes on watching a root that was removed. So whoever relies on hints scans as
well, always after `attach` says so.
"""

import os
import threading
from collections.abc import Sequence
from time import monotonic

import anyio
import anyio.to_thread
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from freshet.engine.logger import Logger
from freshet.sensors.landing.mounts import is_remote

STEP_MS, IDLE_STEP_MS = 5, 20
"""Quiet time after which hints are handed over: the floor of the latency (watchfiles' default is
50). Each step wakes a thread, at 30 to 60 µs: the longer ones make an idle sensor cost a quarter.
"""

IDLE_S = 2.0
"""Time without hints after which steps are the longer ones."""

DEBOUNCE_MS = 50
"""Longest time hints are held back while more keep coming."""

IDLE_MS = 1000
"""Longest sleep: how soon a root that was removed and made again is noticed."""

ANEW_S = 1.0
"""Least time between two watches."""

RETRY_S = 60.0
"""Time to the next try after the system refused a watch."""

LIMITS = {
    "os error 24": "fs.inotify.max_user_instances",
    "MaxFilesWatch": "fs.inotify.max_user_watches",
}

Ident = tuple[int, int]

log = Logger("freshet.sensors.files")


class Hints:
    """One watch over all roots; those that are `remote` are left to scans."""

    def __init__(self, sensor: str, roots: Sequence[str], *, recursive: bool, poll: bool) -> None:
        self.problem = ""
        """Why hints may be missing; empty when they should all come."""
        self.is_deaf = False
        """Is nothing watched for now?"""
        self.remote: set[str] = set()
        self.real: dict[str, str] = {}
        """The absolute path of each root that is there, as hints have it."""
        self._sensor = sensor
        self.roots = frozenset(roots)
        self._recursive = recursive
        self._poll = poll
        self._notify: RustNotify | None = None
        self._found: dict[str, Ident | None] | None = None
        self._attached_at = monotonic() - ANEW_S
        self._attach_at = self._retry_at = monotonic()
        self._heard = monotonic()
        self._partial = False
        self._stop = threading.Event()
        self._thread = anyio.CapacityLimiter(1)

    def attach(self) -> bool:
        """Watch the roots that are there; true when a scan must follow, because the watch is new.

        A root that came, went, or is another folder now is noticed here.
        """
        now = monotonic()
        if self._found is None and now < self._attach_at:
            return False
        found = {root: ident_of(root) for root in self.roots}
        retry = bool(self.problem) and now >= self._retry_at
        if found == self._found and not retry:
            return False
        self._detach()
        there = [root for root, ident in found.items() if ident is not None]
        self.real = {root: os.path.realpath(root) for root in there}
        self.remote = {root for root in self.roots if self._poll or is_remote(root)}
        self._found = found
        self._attached_at = now
        if not self.is_deaf:
            self._watch([self.real[root] for root in there if root not in self.remote])
        return True

    def start_anew(self) -> None:
        """Drop the watch; `attach` makes another, at most once in ANEW_S."""
        self._detach()
        self._found = None
        self._attach_at = max(monotonic(), self._attached_at + ANEW_S)

    def listen(self) -> None:
        """Watch from now on: `attach` begins."""
        self.is_deaf = False
        self._found = None
        self._attach_at = monotonic()

    def touched(self) -> None:
        """A folder has changed: if some could not be watched before, that one may be now."""
        if self._partial:
            self.start_anew()

    def check(self) -> None:
        """Would the system still watch one more folder? If not, new ones go unwatched silently."""
        if self._notify is None or not self._recursive:
            return
        try:
            RustNotify(list(self.real.values())[:1], False, False, 300, False, False).close()
        except (FileNotFoundError, PermissionError):
            pass
        except (OSError, WatchfilesRustInternalError) as error:
            self._limited(error)
            return
        self.problem = ""

    async def wait(self, timeout_s: float) -> set[str]:
        """The paths of the next hints, or none when there were none for so long."""
        timeout_ms = min(max(1, int(timeout_s * 1000)), IDLE_MS)
        if self._notify is None:
            await anyio.sleep(timeout_ms / 1000)
            return set()
        step_ms = STEP_MS if monotonic() < self._heard + IDLE_S else IDLE_STEP_MS
        try:
            hints = await anyio.to_thread.run_sync(
                self._notify.watch,
                DEBOUNCE_MS,
                min(step_ms, timeout_ms),
                timeout_ms,
                self._stop,
                abandon_on_cancel=True,
                limiter=self._thread,
            )
        except WatchfilesRustInternalError as error:  # one name that is not UTF-8 is enough
            log.warning("watch is started anew", sensor=self._sensor, reason=str(error))
            self.start_anew()
            return set()
        if not isinstance(hints, set):
            return set()
        self._heard = monotonic()
        return {path for _, path in hints}

    @property
    def stopped(self) -> threading.Event:
        """Set once it is closed."""
        return self._stop

    def close(self) -> None:
        """Stop watching; the waiting thread returns within a step."""
        self._stop.set()
        self._detach()

    def _watch(self, paths: list[str]) -> None:
        self._partial = False
        self.problem = ""
        if not paths:
            return
        try:
            self._notify = RustNotify(paths, False, False, 300, self._recursive, False)
        except FileNotFoundError:
            self._found = None  # it went at this moment
        except PermissionError:
            self._partial = True
            self._notify = RustNotify(paths, False, False, 300, self._recursive, True)
        except (OSError, WatchfilesRustInternalError) as error:
            self._limited(error)

    def _limited(self, error: Exception) -> None:
        found = next((limit for sign, limit in LIMITS.items() if sign in str(error)), "")
        why = f"{found} is reached" if found else str(error)
        self.problem = f"the system gives no more hints: {why}; scans find what lands"
        self._retry_at = monotonic() + RETRY_S

    def _detach(self) -> None:
        if self._notify is not None:
            self._notify.close()
            self._notify = None


def ident_of(root: str) -> Ident | None:
    """Which folder it is; None when there is none."""
    try:
        found = os.stat(root)
    except OSError:
        return None
    return found.st_dev, found.st_ino
