"""Instruments that count what work does, and do not look at a clock."""

import asyncio
import os
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

OURS = tuple(
    f"{ROOT}{os.sep}{parent}{folder}{os.sep}"
    for folder in ("engine", "projections", "sensors")
    for parent in ("", f"freshet{os.sep}")
)
"""Where the code lies whose instructions count."""

PATIENCE_S = 10.0
"""Longest wait for a thread that has a few instructions left."""

WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")

OUTSIDE = ("statements", "commits", "syncs", "hops", "turns", "timers")
CAN_STEP = not hasattr(sys, "monitoring")
"""Before Python 3.12. Later ones do not step through the first call of a function, and 3.12.1
crashes when it steps through a coroutine.
"""

INSIDE = ("instructions", "calls") if CAN_STEP else ("calls",)


class Meter:
    """Counts by name, from `installed()` on. `measuring` gives those of a block, of the names in
    `wanted`; what other threads do for it must have been waited for at its end.
    """

    def __init__(self) -> None:
        self._of: Counter[str] = Counter()
        self._inside: dict[int, list[int]] = {}
        """By thread, so that no two add to one number: instructions, calls, depth in our code."""

    def counts(self) -> Counter[str]:
        """All so far."""
        inside = list(self._inside.values())
        steps, calls = (sum(one[at] for one in inside) for at in (0, 1))
        return self._of + Counter(instructions=steps, calls=calls)

    @contextmanager
    def measuring(self, *wanted: str) -> Iterator[dict[str, int]]:
        """Filled at the end of the block."""
        found: dict[str, int] = {}
        inside = not set(wanted).isdisjoint(INSIDE)
        if inside:
            self._await_threads()
        before = self.counts()
        with self._tracing() if inside else ExitStack():
            yield found
        if inside:
            self._await_threads()
        after = self.counts()
        found.update({name: after[name] - before[name] for name in wanted})

    @contextmanager
    def installed(self) -> Iterator["Meter"]:
        """Connections, loops and threads that begin in the block are counted."""
        with ExitStack() as patches:
            loop = asyncio.BaseEventLoop
            patches.enter_context(_counted(loop, "call_soon", self._adding("turns")))
            patches.enter_context(_counted(loop, "call_at", self._adding("timers")))
            for name in ("fsync", "fdatasync"):
                patches.enter_context(_counted(os, name, self._adding("syncs")))
            heard = self._adding("hops", "turns")
            patches.enter_context(_counted(loop, "call_soon_threadsafe", heard))
            patches.enter_context(self._listening())
            before = threading.gettrace()
            threading.settrace(self._entered)
            patches.callback(threading.settrace, before)
            yield self

    def _adding(self, *names: str) -> Callable[[], None]:
        def add() -> None:
            for name in names:
                self._of[name] += 1

        return add

    @contextmanager
    def _listening(self) -> Iterator[None]:
        connect = sqlite3.connect

        def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)

            def said(statement: str) -> None:
                self._said(statement, alone=not connection.in_transaction)

            connection.set_trace_callback(said)
            return connection

        sqlite3.connect = connected  # type: ignore[assignment]
        try:
            yield
        finally:
            sqlite3.connect = connect

    def _said(self, statement: str, *, alone: bool) -> None:
        """`alone`: in no transaction, so that what writes is one of its own."""
        if not statement.startswith("--"):  # what triggers do comes as a comment
            self._of["statements"] += 1
            writes = statement.startswith(WRITES)
            self._of["commits"] += statement == "COMMIT" or (alone and writes)

    # --- instructions and calls ---------------------------------------------------------------

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._entered)
        try:
            yield
        finally:
            sys.settrace(before)

    def _entered(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        here = self._inside.setdefault(threading.get_ident(), [0, 0, 0])
        here[1] += 1
        if not CAN_STEP:
            return None
        here[2] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def stepped(_frame: FrameType, event: str, _: object) -> Any:
            here[0] += event == "opcode"
            here[2] -= event == "return"
            return stepped

        return stepped

    def _await_threads(self) -> None:
        """Until no other one is in our code: who has reported is not yet back."""
        until = time.monotonic() + PATIENCE_S
        others = [one for thread, one in self._inside.items() if thread != threading.get_ident()]
        while any(depth for _, _, depth in others) and time.monotonic() < until:
            time.sleep(0)


@contextmanager
def _counted(owner: Any, name: str, count: Callable[[], None]) -> Iterator[None]:
    original = getattr(owner, name)

    def counting(*arguments: Any, **options: Any) -> Any:
        count()
        return original(*arguments, **options)

    setattr(owner, name, counting)
    try:
        yield
    finally:
        setattr(owner, name, original)
