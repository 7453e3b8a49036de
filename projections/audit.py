"""The audit: what became of every change that was recorded. Each is absorbed by a run, cut off as
equal, waits under a policy, is blocked by something with a name, or is read by nobody.
"""

from bisect import bisect_left
from collections.abc import Iterator

import msgspec

from freshet.engine.events import Observed, Recorded, SourceChanged
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.projections.causes import blocker_text
from freshet.projections.cells import Cell, downstream, must_run
from freshet.projections.marks import NOTHING
from freshet.projections.view import View

MAX_PENDING = 1000
"""Partitions named that changes wait for; of more, only the changes are counted."""

WHY = {
    "running": "a run is going on",
    "ready": "it waits for its turn",
    "retrying": "its run failed and will be tried again",
    "failed": "its run failed",
    "unwanted": "it is manual, and nobody has asked for it",
    "deferred": "its policy does not ask for it yet",
    "held": "it waits for its deadline",
    "paused": "it is paused",
    "tripped": "its circuit is open",
}
"""What an activity says of a partition that owes, where nothing else holds it up."""


class Account(msgspec.Struct, frozen=True):
    """The changes of one source, by what became of them; `unaccounted` must be 0.

    A change counts as waiting or blocked as long as any partition made from it, at any distance,
    has not absorbed it; as cut off when no run was needed for it.
    """

    source: AssetKey
    changes: int
    absorbed: int
    cut_off: int
    waiting: int
    blocked: int
    unread: int
    unaccounted: int


class Pending(msgspec.Struct, frozen=True):
    """An asset partition that has not absorbed all changes yet: since which, and why not."""

    asset: AssetKey
    partition: PartitionKey
    owed: int
    blocked: bool
    why: str


class Audit(msgspec.Struct, frozen=True):
    """What became of all changes up to a position; `rejected` is what sensors could not let count
    and nobody has settled yet.
    """

    position: int
    changes: int
    unaccounted: int
    rejected: int
    accounts: tuple[Account, ...]
    pending: tuple[Pending, ...]


class Changes:
    """The positions of all changes by source partition; to be given every event, in order."""

    def __init__(self) -> None:
        self.at: dict[AssetPartition, list[int]] = {}

    def note(self, recorded: Recorded) -> None:
        event = recorded.event
        if isinstance(event, SourceChanged | Observed):
            name = AssetPartition(event.asset, event.partition)
            self.at.setdefault(name, []).append(recorded.position)


def audit(view: View, changes: Changes) -> Audit:
    """The account of every change. Costs the partitions below each that changed."""
    reasons: dict[Cell, Pending | None] = {}
    sums: dict[AssetKey, list[int]] = {}
    for (asset, partition), positions in changes.at.items():
        state = view.staleness.states.get(asset)
        if state is not None and not state.is_source:
            continue  # an observation of what Freshet makes: its runs say what became of it
        cell = view.staleness.cell(asset, partition)
        found = _account(view, cell, positions, reasons)
        total = sums.setdefault(asset, [0] * len(found))
        for n, count in enumerate(found):
            total[n] += count
    accounts = tuple(Account(asset, sum(counts), *counts) for asset, counts in sorted(sums.items()))
    pending = [one for one in reasons.values() if one is not None]
    pending.sort(key=lambda one: (not one.blocked, one.owed))
    return Audit(
        view.position,
        sum(account.changes for account in accounts),
        sum(account.unaccounted for account in accounts),
        sum(health.rejected for health in view.sensors.health.values()),
        accounts,
        tuple(pending[:MAX_PENDING]),
    )


def _account(
    view: View, cell: Cell | None, positions: list[int], reasons: dict[Cell, Pending | None]
) -> tuple[int, int, int, int, int, int]:
    """Of the changes of one source partition: how many are absorbed, cut off, waiting, blocked,
    unread and unaccounted for.
    """
    below = list(_below(cell)) if cell is not None else []
    if not below:
        return 0, 0, 0, 0, len(positions), 0
    nameless = blocked = waiting = NOTHING  # the oldest debt of each kind
    for other in below:
        owed = min(other.owed, other.next)
        if owed == NOTHING:
            wrong = not other.running and must_run(other.home, other.i)
            nameless = 0 if wrong else nameless
            continue
        if other not in reasons:
            reasons[other] = _pending(view, other, owed)
        reason = reasons[other]
        if reason is None:
            nameless = min(nameless, owed)
        elif reason.blocked:
            blocked = min(blocked, owed)
        else:
            waiting = min(waiting, owed)
    newest_run = max(other.started_at for other in below)
    first = [bisect_left(positions, at) for at in (nameless, blocked, waiting, newest_run)]
    end = len(positions)
    unaccounted = end - first[0]
    is_blocked = max(0, first[0] - first[1])
    is_waiting = max(0, min(first[0], first[1]) - first[2])
    paid = min(first[:3])
    absorbed = min(first[3], paid)
    return absorbed, paid - absorbed, is_waiting, is_blocked, 0, unaccounted


def _below(cell: Cell) -> Iterator[Cell]:
    """All partitions made from this one, each once; not what lies behind a manual asset, which only
    follows when that is asked for.
    """
    seen: set[Cell] = set()
    stack = [cell]
    while stack:
        here = stack.pop()
        for state, i in downstream(here.home, here.i):
            found = Cell(state, i)
            if found not in seen:
                seen.add(found)
                yield found
                if not state.is_wall:
                    stack.append(found)


def _pending(view: View, cell: Cell, owed: int) -> Pending | None:
    """Why a partition that owes has not absorbed it yet; None if nothing says so."""
    status = view.status_of(cell)
    blocker = status.blocker
    if not status.activity and blocker is None:
        return None
    blocked = status.activity in ("failed", "blocked")
    why = blocker_text(blocker) if blocker is not None else WHY.get(status.activity, "")
    return Pending(*cell.key, owed, blocked, why)
