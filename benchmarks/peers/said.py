"""What the script of a peer says: one line of JSON on stdout for each figure, and for each failure.

Only the standard library: the scripts run in environments that have nothing of Freshet.
"""

import contextlib
import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType


@dataclass(frozen=True)
class Side:
    """Who is measured, and how it was set up.

    `setting` is "best" or "default"; `configuration` is one sentence: what was set, and why that
    favours the peer.
    """

    peer: str
    version: str
    case: str
    setting: str
    configuration: str


def say(
    side: Side, what: str, unit: str, values: Sequence[float], size: float | None = None
) -> None:
    """One figure: each value is a single honest sample, as it was measured.

    Values of unit "/s" are better when they are higher, all others when they are lower. `size` is
    what the cost is held against, when it is a point of a curve.
    """
    if not values:
        raise ValueError(f"no samples of {what!r}: a figure that was not measured is a failure")
    line = {
        "peer": side.peer,
        "version": side.version,
        "case": side.case,
        "what": what,
        "setting": side.setting,
        "configuration": side.configuration,
        "unit": unit,
        "values": list(values),
        "size": size,
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


def failed(side: Side, reason: str) -> None:
    """What could not be measured, and why, on one line."""
    line = {
        "peer": side.peer,
        "version": side.version,
        "case": side.case,
        "setting": side.setting,
        "failed": " ".join(reason.split()),
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


@contextlib.contextmanager
def within(side: Side, limit_s: float) -> Iterator[None]:
    """Whatever is raised inside, or is not over after `limit_s` seconds, is said as a failure.

    Only in the main thread of a process, as it waits for a signal; one at a time.
    """
    before = signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    except _TooLate:
        failed(side, f"not over after {limit_s:g} s")
    except Exception as error:  # recorded: as the failure of this peer
        failed(side, f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _TooLate(BaseException):
    """Passes the `except Exception` of a peer's own code."""


def _too_late(_number: int, _frame: FrameType | None) -> None:
    raise _TooLate
