"""How memory is kept: what large values took goes back to the system when they go, and what is
there to stay is not looked through for garbage again and again.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from time import perf_counter

import anyio

MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's mallopt."""

ARENA_MAX = -8
"""M_ARENA_MAX of glibc's mallopt."""

ARENAS = 2
"""Threads, the loop among them, are given one or the other: Python's lock has them take turns."""

LARGE_BYTES = 128 * 1024
"""What is larger is mapped alone: glibc's own value to begin with."""

YOUNG = 10_000
"""New objects after which the collector looks at them: Python's own 700 come with two runs."""

COLLECT_EVERY_S = 30.0
"""So often, while there is something to do, all that came since is looked through for garbage."""

COLLECT_SHARE = 1000
"""One part in so many of the time goes into that at most: nothing else is done meanwhile."""

OURS_TO_SET = (
    ("MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold", MMAP_THRESHOLD, LARGE_BYTES),
    ("MALLOC_ARENA_MAX", "glibc.malloc.arena_max", ARENA_MAX, ARENAS),
)
"""What is set, unless whoever started the process has set it by either name: they are obeyed."""

TUNABLES = "GLIBC_TUNABLES"
"""The variable that holds glibc's newer names."""


def give_back() -> None:
    """Keep the threshold where it is, and all threads in few arenas; nothing without glibc.

    Left alone the threshold rises to the largest block that was ever freed, up to 32 MB, and each
    of the arenas that threads have, up to eight for a core, keeps for good what was once needed in
    it: a daemon grows by the largest value in each of its threads, and by 2 MB whenever Python's
    own table of names moves to another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for name, tunable, parameter, value in OURS_TO_SET:
            if name not in os.environ and tunable not in os.environ.get(TUNABLES, ""):
                mallopt(parameter, value)


def settle_down() -> None:
    """What is there now, definitions and the view, is there to stay: the collector looks through
    what comes after it, and that less often. Without it a quarter of the time of small runs goes
    into looking, and now and then a pause that grows with the number of assets.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)


async def collect_garbage(moved: Callable[[], object]) -> None:
    """For ever: what assets leave behind in circles, with all the tables that hang on it, goes
    within `COLLECT_EVERY_S`, provided that `moved()` says something else than it did then. Left
    alone the collector comes to what is old after a million objects or never. Takes some
    milliseconds, as what was there at the start is frozen.
    """
    before, pause_s = moved(), COLLECT_EVERY_S
    while True:
        await anyio.sleep(pause_s)
        if (now := moved()) == before:
            continue
        before, began = now, perf_counter()
        gc.collect()
        pause_s = max(COLLECT_EVERY_S, COLLECT_SHARE * (perf_counter() - began))
