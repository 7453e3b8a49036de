"""What an import costs a fresh process, less what a bare python costs.

Only the standard library, as `said`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping

from said import Side, say  # type: ignore[import-not-found]  # beside this script when it is run

LIMIT_S = 120.0
"""Longest wait for one process."""

_MEMORY = "; print([line.split()[1] for line in open('/proc/self/status') if 'VmRSS' in line][0])"


def say_start(
    side: Side, statement: str, tries: int, environment: Mapping[str, str] | None = None
) -> None:
    """Seconds that `statement` adds to a fresh process, and the memory the process then has.

    The two kinds of process alternate, so a busy moment hurts both; one that is not counted fills
    the caches before. Memory is the resident set as Linux tells it.
    """
    _seconds(statement, environment)
    seconds, megabytes = [], []
    for _ in range(tries):
        bare, _memory = _seconds("pass", environment)
        loaded, memory = _seconds(statement, environment)
        seconds.append(loaded - bare)
        megabytes.append(memory)
    say(side, f"{statement}, less a bare python", "s", seconds)
    say(side, f"memory after {statement}", "MB", megabytes)


def _seconds(statement: str, environment: Mapping[str, str] | None) -> tuple[float, float]:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}{_MEMORY}"],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    return time.perf_counter() - began, int(done.stdout.split()[-1]) * 1024 / 1e6
