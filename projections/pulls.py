"""Pulls: what has to move upstream so that a row can absorb what it owes.

Demand travels upstream along the rows that owe, past those that move by themselves, to those that
nobody has asked for yet; never past a wall (a source, a manual asset).
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

from freshet.engine.keys import AssetKey
from freshet.projections.cells import Cell, owing_rows
from freshet.projections.marks import NOTHING
from freshet.projections.states import AssetState

MAX_ROWS = 100_000
"""Rows visited for one demand: what lies further up is asked for when its readers' turn comes."""


def debt_ahead(state: AssetState, i: int) -> int:
    """The oldest change that nothing under way will absorb: of a running row, what it will owe."""
    live = state.live.get(i)
    return live.next if live is not None else state.owed[i]


class Ways(NamedTuple):
    """The ways by which a row owes: every row on them, the row itself included, with the longest
    time (µs) from the start of its run to the end of the row's; and each step from a row to one it
    reads, assets downstream first.
    """

    routes: dict[Cell, int]
    steps: list[tuple[Cell, Cell]]


def ways_above(state: AssetState, i: int, time_us: Callable[[AssetKey], int]) -> Ways:
    """The row and all rows upstream that owe something not under way. Each is visited once, after
    everything it feeds.
    """
    routes = {Cell(state, i): time_us(state.spec.key)}
    steps: list[tuple[Cell, Cell]] = []
    pending = [(-state.index, -i, state)]
    while pending and len(routes) < MAX_ROWS:
        _, row, here = heappop(pending)
        reader = Cell(here, -row)
        below = routes[reader]
        for link in here.up:
            up = link.up
            if not up.tells:
                continue  # nothing there or above can be waiting to be asked
            for j in owing_rows(link, -row, NOTHING - 1):
                if not up.exists[j] or debt_ahead(up, j) == NOTHING:
                    continue
                cell, route = Cell(up, j), below + time_us(up.spec.key)
                if cell not in routes:
                    heappush(pending, (-up.index, -j, up))
                if route > routes.get(cell, -1):
                    routes[cell] = route
                steps.append((reader, cell))
    return Ways(routes, steps)


def needed_above(state: AssetState, i: int) -> list[Cell]:
    """The rows upstream that owe something not under way, nearest first."""
    return list(ways_above(state, i, lambda _: 0).routes)[1:]
