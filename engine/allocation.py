"""How the C library keeps memory: what large values took goes back to the system when they go."""

import ctypes
import os
import sys

MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's mallopt."""

LARGE_BYTES = 128 * 1024
"""What is larger is mapped alone: glibc's own value to begin with."""

OURS_TO_SET = "MALLOC_MMAP_THRESHOLD_"
"""Who has set it for the process is obeyed."""


def give_back() -> None:
    """Keep the threshold where it is; where there is no glibc, do nothing.

    Left alone it rises to the largest block that was ever freed, up to 32 MB, and each of the
    arenas that threads have keeps blocks of that size for good: a daemon grows by the largest value
    in each of its threads, and by 2 MB whenever Python's own table of names moves to another one.
    """
    if sys.platform == "linux" and OURS_TO_SET not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(MMAP_THRESHOLD, LARGE_BYTES)
