"""Settling: gates open as debts are paid, what turns out equal is cut off without a run, and what
would do something new is listed (pull).

The second half of the mechanism of DESIGN.md's appendix. Invariant once settled: no row is fresher
than what it is made from, `owed(n) <= owed(u)`.
"""

from heapq import heappop

from freshet.projections.cells import (
    GAPS,
    OPEN,
    SHUT,
    Cell,
    due_us,
    fingerprint,
    gate,
    must_run,
    upstream_owed,
    wanted,
    wants_itself,
)
from freshet.projections.ledger import Ledger
from freshet.projections.marks import BULK, FRESH, LIVE, MISSING, MOVING, NOTHING, STALE, WAITING
from freshet.projections.plain import weigh
from freshet.projections.standing import standstill
from freshet.projections.states import AssetState


class Settling(Ledger):
    """The ledger, and the way back to rest after an event."""

    def settle(self) -> None:
        """Pull: open gates, cut off what is equal, until nothing moves.

        Assets upstream first, and in each the earlier partitions first: so each row is looked at
        once, after everything that it reads.
        """
        pending = self._pending
        while pending:
            state = self.order[heappop(pending)]
            touched, i = state.touched, state.low
            while i >= 0:
                touched[i] = 0
                if state.exists[i]:
                    self._settle_one(state, i)
                # What is settled may touch rows that come after it.
                i = touched.find(1, i + 1, state.high + 1) if i < state.high else -1
            state.low, state.high = 1 << 62, -1

    def _set_out(self, state: AssetState, i: int, news: bool) -> None:
        """As `_settle_one`, of a plain row whose run has just begun."""
        if state.ready[i] or self.timed.at:
            self.unlist(state, i)
        state.state[i] = (STALE if news else WAITING) if state.there[i] else MISSING

    def _come_home(self, state: AssetState, i: int) -> None:
        """As `_settle_one`, of a row that was just made: nothing that it reads has moved."""
        if not state.plain or state.owed[i] < NOTHING:
            self._settle_one(state, i)
            return
        state.state[i] = FRESH

    def _settle_one(self, state: AssetState, i: int) -> None:
        """Look at a row."""
        if state.is_source:
            state.state[i] = FRESH if state.there[i] else MISSING
            return
        was, owed, runs = state.ready[i], state.owed[i], i in state.live
        owes, open_, news = owed < NOTHING, SHUT, False
        if state.plain and (owes or runs):
            complete, low, _, news = weigh(state, i)
            open_ = OPEN if complete and low > owed and not runs else SHUT
        elif owes or runs:
            open_ = gate(state, i) if not runs else SHUT
            news = must_run(state, i)
        if open_ == SHUT:
            if was or self.timed.at:
                self.unlist(state, i)
            if state.due and not owes and not runs:
                state.due.take(i)
        elif news:
            self._list(state, i, open_)
        else:
            self._cut_off(state, i)
            if state.tells and owed < state.owed[i] < NOTHING:
                open_ = gate(state, i)  # it waits for what it owes now
        if not state.there[i]:
            state.state[i] = MISSING
        elif state.owed[i] == NOTHING and not runs:
            state.state[i] = FRESH
        else:
            state.state[i] = STALE if news else WAITING
        if state.tells:
            self._tell(state, i, open_)
        if state.ready[i] != was and not state.there[i]:
            # Who goes on without this row waits if it is about to come.
            self.touch_below(state, i, skipping=True)

    def satisfy(self, state: AssetState, i: int, before: int = NOTHING) -> None:
        """The demands on a row that are older than a position have what they asked for."""
        for position in state.demand.take(i, before):
            if position in self.bulk:
                self.bulk[position].built += 1

    def _tell(self, state: AssetState, i: int, open_: int) -> None:
        """Keep `stalled` true; who reads this row may go on without it, or has to wait for it."""
        idle = i not in state.live and not state.ready[i] and state.owed[i] < NOTHING
        idle = idle and not (self.timed.at and Cell(state, i) in self.timed.at)
        found = standstill(state, i, open_) if idle else MOVING
        if state.stalled[i] != found:
            state.stalled[i] = found
            self.touch_below(state, i)
        elif not state.relook and state.there[i]:
            return
        if state.followed:
            self.marks.moved.append((state, i, state.owed[i]))

    def _cut_off(self, state: AssetState, i: int) -> None:
        self.satisfy(state, i)
        state.due.take(i)
        left = upstream_owed(state, i)
        if left == state.owed[i]:
            self.unlist(state, i)  # all it still owes is what nobody moves: it has gone on without
            return
        state.note_cut(i, state.owed[i], self.position)
        self.cut_offs += 1
        state.failures.pop(i, None)
        state.owe(i, left)
        self.unlist(state, i)
        if not state.is_wall:
            self.touch_below(state, i)

    def _list(self, state: AssetState, i: int, open_: int) -> None:
        """Put a row that would do something new where its policy and its last failure say."""
        failure = state.failures.get(i) if state.failures else None
        at = due_us(state, i) if open_ == GAPS else 0
        if not (state.is_eager or wanted(state, i)):
            self.unlist(state, i)
            return
        if failure is not None and failure.is_of(fingerprint(state, i), state.trial):
            if failure.retry_at is None:
                self.unlist(state, i)
                return
            at = max(at, failure.retry_at)
        if at:
            self.unlist(state, i)
            self.timed.set(Cell(state, i), at)
        else:
            if self.timed.at:
                self.timed.drop(Cell(state, i))
            state.set_ready(i, BULK if self.bulk and self._is_bulk(state, i) else LIVE)
            if state not in self.ready:
                self.ready.join(state)
                state.ready_us = self.marks.now[1]

    def _is_bulk(self, state: AssetState, i: int) -> bool:
        """Does it owe nothing but what a backfill asks for, or does nobody else ask for it?"""
        if state.owed[i] in self.bulk:
            return True
        wishes = (*state.demand.get(i, ()), *state.due.get(i, ()))
        return all(at in self.bulk for at in wishes) and not wants_itself(state, i)

    def unlist(self, state: AssetState, i: int) -> None:
        """The row is not ready now."""
        if self.timed.at:
            self.timed.drop(Cell(state, i))
        if state.ready[i]:
            state.set_ready(i, 0)
            if not state.ready_counts[LIVE] and not state.ready_counts[BULK]:
                self.ready.leave(state)
