"""Debts: how a change spreads to what newly owes, and how debts are paid, cut off or found ready.

The mechanism of DESIGN.md's appendix; `staleness` says which event sets what in motion. Debts
spread from a change to what newly owes (push); gates open as debts are paid, and whatever turns out
equal is cut off without a run (pull). The cost is the number of rows that move, not the size of the
graph. Invariant once settled: no row is fresher than what it is made from, `owed(n) <= owed(u)`.
"""

from heapq import heappop, heappush
from typing import NamedTuple

from freshet.engine.events import Recorded
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.projections.cells import (
    GAPS,
    SHUT,
    Cell,
    downstream,
    due_us,
    fingerprint,
    gate,
    must_run,
    upstream_owed,
)
from freshet.projections.marks import (
    ABSENT,
    BULK,
    FRESH,
    LIVE,
    MISSING,
    NOTHING,
    STALE,
    WAITING,
    Live,
    Marks,
    Tally,
)
from freshet.projections.states import AssetState, Link

WAVE_US = 250_000
"""Source changes recorded within this time of the first share its mark (DESIGN.md: 250 ms)."""


class Keepsake(NamedTuple):
    """What an asset partition that is not defined (any more) last was, and was made from."""

    hash: int
    made_at: int
    consumed: int = 0
    code: str = ""
    started_at: int = 0
    made: bool = False
    gone: int = NOTHING
    """The mark with which it went: should it return, it has not absorbed that it was gone."""


class Debts:
    """All rows, what they owe, and which of them may run. Changed by the fold of staleness
    alone.
    """

    def __init__(self) -> None:
        self.states: dict[AssetKey, AssetState] = {}
        self.order: list[AssetState] = []
        """The states, upstream first."""
        self.marks = Marks()
        self.attic: dict[AssetPartition, Keepsake] = {}
        """What is known of asset partitions that are not defined now, should they return."""
        self.ghosts: dict[AssetPartition, Live] = {}
        """Runs of partitions that went away meanwhile."""
        self.ready: dict[AssetState, None] = {}
        """Assets that have rows whose policy wants them run and whose gate is open; the one that
        was served last comes last.
        """
        self.timed: dict[Cell, int] = {}
        """Rows that would be ready but for a time (µs): a retry, or a deadline for what is
        missing.
        """
        self.times: list[tuple[int, AssetKey, int]] = []
        """The same as a heap, with entries that no longer hold."""
        self.bulk: dict[int, Tally] = {}
        """Backfills by position: what owes them runs in the share that backfills have."""
        self.position = 0
        self.now_us = 0
        """Time that has passed, as far as windows go."""
        self.watermarks: dict[AssetKey, int] = {}
        """The newest event time (µs) seen of each source that has windows."""
        self.moved: set[AssetKey] | None = None
        """While definitions are deployed: the assets whose partitions came or went. Then each asset
        derives its own, in order, and nothing spreads.
        """
        self.cut_offs = 0
        """Debts that turned out to be for nothing new, and were paid without a run."""
        self._wave_until = -NOTHING
        self._pending: list[int] = []

    # --- partitions that come and go ----------------------------------------------------------

    def open(self, state: AssetState, i: int, mark: int) -> None:
        """Bring a partition into being, and with it those that downstream definitions derive."""
        opened: list[tuple[AssetState, int, int]] = []
        stack = [(state, i)]
        while stack:
            here, row = stack.pop()
            if row < here.n and here.exists[row]:
                continue
            here.ensure(row)
            opened.append((here, row, min(mark, self._appear(here, row))))
            if self.moved is not None:
                self.moved.add(here.spec.key)
                continue
            for link in here.down:
                if link.brings and link.down.grows:
                    below = link.lane.brings(row, link.down.n)
                    stack.extend((link.down, k) for k in below if link.down.space.valid(k))
        for here, row, owed in opened:
            self.touch_below(here, row)
            if here.is_wall and here.there[row]:
                self.mark_below(here, row, mark)  # a remembered version is news for who reads it
            if here.is_source:
                self.touch(here, row)
                continue
            live = here.live.get(row)
            if live is not None and not here.is_wall:
                # It was gone and is back while its run goes on: those below owe what it pays.
                self.mark_below(here, row, live.paying)
            # A mark reaches those below that exist; who comes into being later asks for it.
            self.mark(here, row, min(owed, upstream_owed(here, row, every=True)))

    def _appear(self, state: AssetState, i: int) -> int:
        """A row comes into being: as a new one, or as far as it is remembered as the old one.
        Returns the mark with which it went, if it did.
        """
        state.exists[i] = 1
        state.existing += 1
        name = state.key(i)
        live = self.ghosts.pop(name, None) if self.ghosts else None
        if live is not None:
            state.live[i] = live
            state.owe(i, live.paying)
            self._forget_debt(live)
        kept = self.attic.pop(name, None) if self.attic else None
        if kept is not None:
            state.made_at[i] = kept.made_at
            state.started_at[i] = kept.started_at
            if kept.made:
                state.consumed[i] = kept.consumed
                state.code[i] = state.code_number(kept.code)
            state.set_version(i, kept.hash, self.position)
        return kept.gone if kept is not None else NOTHING

    def retire(self, state: AssetState, i: int, mark: int) -> None:
        """Take a row out of the game, remembering what it made; a live run may still end."""
        name = state.key(i)
        if state.there[i]:
            cell = Cell(state, i)
            self.attic[name] = Keepsake(
                state.hash[i], state.made_at[i], state.consumed[i], cell.code,
                state.started_at[i], cell.consumed is not None, mark,
            )  # fmt: skip
        state.forget_version(i)
        state.exists[i] = 0
        state.existing -= 1
        state.state[i] = ABSENT
        state.consumed[i] = state.code[i] = state.changed_at[i] = 0
        state.made_at[i] = state.started_at[i] = 0
        if state.cut_at is not None:
            state.cut_at[i] = 0
        state.explicit.discard(i)
        live = state.live.pop(i, None)
        if live is not None:
            self._set_next(live, NOTHING)
            self.ghosts[name] = live
            if live.paying < NOTHING:
                self.marks.hold(live.paying)
        state.owe(i, NOTHING)
        state.forced.take(i)
        for position in state.demand.take(i):
            if position in self.bulk:
                self.bulk[position].wanted -= 1
        state.failures.pop(i, None)
        self.unlist(state, i)

    def drop_ghost(self, name: AssetPartition, run: int) -> None:
        """The run of a partition that went away has ended."""
        live = self.ghosts.get(name)
        if live is not None and live.run == run:
            del self.ghosts[name]
            self._forget_debt(live)

    def _forget_debt(self, live: Live) -> None:
        if live.paying < NOTHING:
            self.marks.release(live.paying)

    def remove(self, state: AssetState, i: int, wave: int) -> None:
        """End a partition; what growing definitions derived from it alone ends too."""
        stack = [(state, i)]
        while stack:
            here, row = stack.pop()
            if not here.exists[row]:
                continue  # a deeper branch of the same removal came first
            below = list(downstream(here, row))
            self.retire(here, row, wave)
            if self.moved is not None:
                self.moved.add(here.spec.key)
            for other, k in below:
                if not other.exists[k]:
                    continue
                self.touch(other, k)
                if self.moved is not None or belongs(other, k):
                    self.mark(other, k, wave)
                else:
                    stack.append((other, k))

    # --- push -----------------------------------------------------------------------------------

    def wave_of(self, recorded: Recorded) -> int:
        """The mark shared by all changes recorded within `WAVE_US` of the first of them."""
        if recorded.recorded_at > self._wave_until:
            self.marks.wave = (recorded.position, recorded.recorded_at)
            self._wave_until = recorded.recorded_at + WAVE_US
        return self.marks.wave[0]

    def mark_below(self, state: AssetState, i: int, mark: int) -> None:
        for other, k in downstream(state, i):
            self.mark(other, k, mark)

    def mark(self, state: AssetState, i: int, mark: int) -> None:
        """Push: the row and all below owe `mark`, unless they owe as much already."""
        stack = [(state, i)]
        while stack:
            here, row = stack.pop()
            # Touched even if it owes already: its gate may have been open, and has just shut.
            self.touch(here, row)
            live = here.live.get(row)
            if live is not None:
                if mark < live.next:
                    self._set_next(live, mark)
            elif here.owed[row] > mark:
                here.owe(row, mark)
                if not here.is_wall:
                    stack.extend(downstream(here, row))

    def _set_next(self, live: Live, mark: int) -> None:
        if mark < NOTHING:
            self.marks.hold(mark)
        if live.next < NOTHING:
            self.marks.release(live.next)
        live.next = mark

    def touch(self, state: AssetState, i: int) -> None:
        """Look at this row again when the event settles."""
        if state.high < 0:
            heappush(self._pending, state.index)
        state.touched[i] = 1
        if i < state.low:
            state.low = i
        if i > state.high:
            state.high = i

    def touch_below(self, state: AssetState, i: int, *, skipping: bool = False) -> None:
        """Look at the rows that read this one again; `skipping`: at those that go on without it."""
        for link in state.down:
            if skipping and link.rule == "wait":
                continue
            for k in link.readers(i):
                self.touch(link.down, k)

    # --- pull -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Pull: open gates, cut off what is equal, until nothing moves.

        Assets upstream first, and in each the earlier partitions first: so each row is looked at
        once, after everything that it reads.
        """
        pending = self._pending
        while pending:
            state = self.order[heappop(pending)]
            touched = state.touched
            i = touched.find(1, state.low)
            while 0 <= i <= state.high:
                touched[i] = 0
                if state.exists[i]:
                    self._settle_one(state, i)
                i = touched.find(1, i + 1, state.high + 1)
            state.low, state.high = 1 << 62, -1

    def _settle_one(self, state: AssetState, i: int) -> None:
        if state.is_source:
            state.state[i] = FRESH if state.there[i] else MISSING
            return
        was = state.ready[i]
        if i not in state.live and state.owed[i] < NOTHING:
            open_ = gate(state, i)
            if open_ == SHUT:
                self.unlist(state, i)
            elif must_run(state, i):
                self._list(state, i, open_)
            else:
                self._cut_off(state, i)
        else:
            self.unlist(state, i)
        state.state[i] = self._look(state, i)
        if state.ready[i] != was and not state.there[i]:
            # Who goes on without this row waits if it is about to come.
            self.touch_below(state, i, skipping=True)

    def satisfy(self, state: AssetState, i: int, before: int = NOTHING) -> None:
        """The demands on a row that are older than a position have what they asked for."""
        for position in state.demand.take(i, before):
            if position in self.bulk:
                self.bulk[position].built += 1

    def _cut_off(self, state: AssetState, i: int) -> None:
        self.satisfy(state, i)
        state.note_cut(i, state.owed[i], self.position)
        self.cut_offs += 1
        state.failures.pop(i, None)
        state.owe(i, upstream_owed(state, i))
        self.unlist(state, i)
        if not state.is_wall:
            self.touch_below(state, i)

    def _look(self, state: AssetState, i: int) -> int:
        """What a row is, in one of the words of DESIGN.md."""
        if not state.there[i]:
            return MISSING
        if state.owed[i] == NOTHING and i not in state.live:
            return FRESH
        return STALE if must_run(state, i) else WAITING

    def _list(self, state: AssetState, i: int, open_: int) -> None:
        """Put a row that would do something new where its policy and its last failure say."""
        failure = state.failures.get(i)
        at = due_us(state, i) if open_ == GAPS else 0
        if state.is_wall and i not in state.demand:
            self.unlist(state, i)
            return
        if failure is not None:
            tried = (fingerprint(state, i), state.spec.code_version)
            if (failure.fingerprint, failure.code_version) == tried:
                if failure.retry_at is None:
                    self.unlist(state, i)
                    return
                at = max(at, failure.retry_at)
        if at:
            self.unlist(state, i)
            self.timed[Cell(state, i)] = at
            heappush(self.times, (at, state.spec.key, i))
        else:
            self._unlist_timed(state, i)
            state.set_ready(i, BULK if state.owed[i] in self.bulk else LIVE)
            self.ready.setdefault(state)

    def unlist(self, state: AssetState, i: int) -> None:
        """The row is not ready now."""
        self._unlist_timed(state, i)
        if state.ready[i]:
            state.set_ready(i, 0)
            if not state.ready_counts[LIVE] and not state.ready_counts[BULK]:
                self.ready.pop(state, None)

    def _unlist_timed(self, state: AssetState, i: int) -> None:
        if self.timed:
            self.timed.pop(Cell(state, i), None)

    def trim_times(self) -> None:
        """Drop entries of the heap that no longer hold, as far as they come first."""
        times = self.times
        while times:
            at, asset, i = times[0]
            state = self.states.get(asset)
            if state is not None and self.timed.get(Cell(state, i)) == at:
                return
            heappop(times)


def belongs(state: AssetState, i: int) -> bool:
    """Does the row exist under the present definition of its asset?"""
    if not state.space.valid(i):
        return False
    if not state.grows or i in state.explicit or i // state.stride < state.opened:
        return True
    return bool(state.there[i]) if state.is_source else _supported(state, i)


def _supported(state: AssetState, i: int) -> bool:
    """Does any upstream still bring this partition of a growing definition into being?"""
    return any(link.brings and _brings(link, i) for link in state.up)


def _brings(link: Link, i: int) -> bool:
    up = link.up
    return any(
        j < up.n and up.exists[j] and i in link.lane.brings(j, link.down.n)
        for j in link.lane.reads(i, up.n)
    )
