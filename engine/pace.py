"""Pace: whether a disk is so quick that a commit is better made where one is than in a thread."""

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

QUICK_S = 0.001
"""A commit on a quick disk takes no longer. A trip to a thread and back costs 0.1 ms, about as much
as a sync there; and for 1 ms the loop may stand still: a decision can take as long.
"""

FEW_BYTES = 16 * 1024
"""What is committed without such a trip: so much takes no longer than a small event does."""

TRIALS = 16
"""So many commits in a row have to be quick."""


class Pace:
    """The commits of one writer, as long as they took. A disk counts as slow until it has shown
    that it is not, and again from the first commit that takes long.
    """

    def __init__(self) -> None:
        self.quick = False
        """Were the last commits all quick, so that the next one will be?"""
        self._trials_left = TRIALS

    def slow_down(self) -> None:
        """A commit could not be made as quickly as expected."""
        self.quick = False
        self._trials_left = TRIALS

    def took(self, seconds: float) -> None:
        """A commit took so long."""
        if seconds > QUICK_S:
            self.slow_down()
        elif not self.quick:
            self._trials_left -= 1
            self.quick = not self._trials_left

    def timed(self, work: Callable[..., T], *given: object) -> T:
        """Do this work, and note how long it takes, also if it fails."""
        began = perf_counter()
        try:
            return work(*given)
        finally:
            self.took(perf_counter() - began)
