"""Debts: asset partitions that come into being and go, on top of the ledger that settles itself.

`staleness` says which event sets what in motion, `deployment` fits the rows to new definitions.
"""

from freshet.engine.keys import AssetPartition
from freshet.projections.cells import Cell, downstream, upstream_owed
from freshet.projections.feeds import let_in, progress_of
from freshet.projections.marks import ABSENT, NOTHING, Keepsake, Live
from freshet.projections.settling import Settling
from freshet.projections.states import AssetState, Link


class Debts(Settling):
    """All rows and what they owe. Changed by the fold of staleness alone."""

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
            self._touch_newest(here)
            if self.moved is not None:
                self.moved.add(here.spec.key)
                continue
            for link in here.down:
                if link.brings and link.down.grows:
                    below = link.lane.brings(row, link.down.n)
                    stack.extend((link.down, k) for k in below if link.down.space.valid(k))
        if self.moved is not None:
            self.born += [(*each, mark) for each in opened]
        else:
            for here, row, owed in opened:
                self.begin(here, row, owed, mark)

    def begin(self, state: AssetState, i: int, owed: int, mark: int) -> None:
        """A partition that has come into being owes what it is to owe, and so do those below."""
        self.touch_below(state, i)
        if state.is_wall and state.there[i]:
            self.mark_below(state, i, mark)  # a remembered version is news for who reads it
        if state.is_source:
            self.touch(state, i)
            return
        live = state.live.get(i)
        if live is not None and not state.is_wall:
            # It was gone and is back while its run goes on: those below owe what it pays.
            self.mark_below(state, i, live.paying)
        # A mark reaches those below that exist; who comes into being later asks for it.
        self.mark(state, i, min(owed, upstream_owed(state, i, every=True)))

    def _touch_newest(self, state: AssetState) -> None:
        """A partition came or went: look at those that are among the newest now, or no more."""
        i, newest = state.n, state.spec.policy.newest
        for _ in range(newest + 1 if newest is not None else 0):
            i = state.exists.rfind(1, 0, i)
            if i < 0:
                return
            self.touch(state, i)

    def _appear(self, state: AssetState, i: int) -> int:
        """A row comes into being: as a new one, or as far as it is remembered as the old one.
        Returns the mark with which it went, if it did.
        """
        state.exists[i] = 1
        state.existing += 1
        if not (self.ghosts or self.attic or state.heard):
            return NOTHING
        name = state.key(i)
        live = self.ghosts.pop(name, None)
        if live is not None:
            state.live[i] = live
            state.owe(i, live.paying)
            self._forget_debt(live)
            if live.feeds or state.reads_changes:
                state.absorbed[i] = {}  # it reads what it read then, whatever it would read now
        if state.hear(i):
            let_in(state, i)
        kept = self.attic.pop(name, None)
        if kept is None:
            return NOTHING
        state.made_at[i] = kept.made_at
        state.started_at[i] = kept.started_at
        if kept.absorbed is not None:
            state.absorbed[i] = kept.absorbed
        if kept.halfway:
            state.halfway.add(i)
        if kept.made:
            state.consumed[i] = kept.consumed
            state.code[i] = state.code_number(kept.code)
        state.set_version(i, kept.hash, self.position)
        if kept.gone < NOTHING:
            self.marks.known[kept.gone] = kept.gone_us
        return kept.gone

    def retire(self, state: AssetState, i: int, mark: int) -> None:
        """Take a row out of the game, remembering what it made; a live run may still end."""
        name = state.key(i)
        if state.there[i]:
            cell = Cell(state, i)
            self.attic[name] = Keepsake(
                state.hash[i], state.made_at[i], state.consumed[i], cell.code,
                state.started_at[i], cell.consumed is not None, mark, self.marks.time_of(mark),
                None if state.is_source else progress_of(state, i), i in state.halfway,
            )  # fmt: skip
        state.forget_version(i)
        state.exists[i] = 0
        state.existing -= 1
        state.state[i] = ABSENT
        state.consumed[i] = state.code[i] = state.changed_at[i] = 0
        state.started_at[i] = 0
        if not state.is_source:
            state.made_at[i] = 0
        if state.cut_at is not None:
            state.cut_at[i] = 0
        state.explicit.discard(i)
        state.halfway.discard(i)
        state.absorbed.pop(i, None)
        state.elsewhere.pop(i, None)
        live = state.live.pop(i, None)
        if live is not None:
            self._set_next(live, NOTHING)
            self.ghosts[name] = live
            if live.paying < NOTHING:
                self.marks.hold(live.paying)
        state.owe(i, NOTHING)
        state.forced.take(i)
        state.due.take(i)
        state.stalled[i] = 0
        for position in state.demand.take(i):
            if position in self.bulk:
                self.bulk[position].wanted -= 1
        state.failures.pop(i, None)
        state.kills.pop(i, None)
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
            self._touch_newest(here)
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
