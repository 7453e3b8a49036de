"""The ledger: all rows and what they owe, and how a change spreads to what newly owes (push).

The first half of the mechanism of DESIGN.md's appendix; `settling` has the other. The cost of a
change is the number of rows that newly owe, not the size of the graph.
"""

from heapq import heappush

from freshet.engine.events import Recorded
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.projections.alarms import Alarms
from freshet.projections.cells import downstream
from freshet.projections.lineup import Lineup
from freshet.projections.marks import NOTHING, WAITING, Keepsake, Live, Marks, Tally
from freshet.projections.projection import Projection
from freshet.projections.states import AssetState

WAVE_US = 250_000
"""Source changes recorded within this time of the first share its mark (DESIGN.md: 250 ms)."""


class Ledger(Projection):
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
        self.ready = Lineup()
        """Assets that have rows whose policy wants them run and whose gate is open; the one that
        was served last comes last.
        """
        self.timed = Alarms()
        """Rows that would be ready but for a time: a retry, or a deadline for what is missing."""
        self.bulk: dict[int, Tally] = {}
        """Backfills by position: what owes them runs in the share that backfills have."""
        self.live_bulk: set[int] = set()
        """The live runs in that share."""
        self.live_suspects: set[int] = set()
        """The live runs of rows that ran when the engine was killed, more than once in a row."""
        self.position = 0
        self.heard: dict[AssetKey, dict[PartitionKey, int]] = {}
        """Of sources that are not defined now, the position of the newest change of each partition.
        """
        self.now_us = 0
        """Time that has passed, as far as windows go."""
        self.watermarks: dict[AssetKey, int] = {}
        """The newest event time (µs) seen of each source that has windows."""
        self.moved: set[AssetKey] | None = None
        """While definitions are deployed: the assets whose partitions came or went. Then each asset
        derives its own, in order, and nothing spreads.
        """
        self.born: list[tuple[AssetState, int, int, int]] = []
        """What came into being so far in that: (asset, row, what it owed when it went, mark)."""
        self.cut_offs = 0
        """Debts that turned out to be for nothing new, and were paid without a run."""
        self._wave_until = -NOTHING
        self._pending: list[int] = []

    def mates(self, state: AssetState) -> list[AssetState]:
        """The assets that one run makes together with this one, itself included."""
        together = state.spec.together
        return [self.states[key] for key in together if key in self.states] if together else [state]

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
        stack, below = [(state, i)], False
        while stack:
            here, row = stack.pop()
            live = here.live.get(row) if here.live else None
            owed = here.owed[row]
            if below and owed == NOTHING and here.plain and live is None:
                # It reads a row that owes as much, so it waits for that; else nothing of it is new.
                if here.there[row]:
                    here.state[row] = WAITING
            else:
                # Also if it owes already: its gate may have been open, and has just shut.
                self.touch(here, row)
            if live is not None:
                if mark < live.next:
                    self._set_next(live, mark)
            elif owed > mark:
                here.owe(row, mark)
                if not here.is_wall:
                    for link in here.down:
                        for k in link.readers(row):
                            stack.append((link.down, k))
            below = True

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
