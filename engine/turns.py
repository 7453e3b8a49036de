"""Turns: in which order what is ready is started, as far as slots and pools have room.

Assets of one priority take turns, so that one with a thousand partitions does not keep the others
waiting. Higher priorities come first, but a lower one rises while it waits, so that none starves.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from freshet.projections.cells import Cell
from freshet.projections.circuits import Circuit, attempts
from freshet.projections.marks import LIVE
from freshet.projections.mates import Mates
from freshet.projections.pools import KEPT_AFTER_US, Room, first_ready, waited_us
from freshet.projections.states import AssetState
from freshet.projections.view import View

AGEING_US = 60_000_000
"""For each minute that its first ready partition has owed what it could pay, an asset counts as one
higher: the steps of priorities people give are few, and a wait of minutes is what they would bear.
"""


def startable(
    view: View, kind: int, due: Iterable[Cell], room: Room, mates: Mates, now: int
) -> Iterator[list[Cell]]:
    """Partitions for one run each time, in the order in which they may have it; none of a paused
    scope, nor whose circuit is open, nor for which a pool has no room. `due` are those whose time
    has come.
    """
    late: dict[AssetState, list[Cell]] = {}
    for cell in due:
        late.setdefault(cell.home, []).append(cell)
    ready = view.staleness.ready
    states = [state for state in ready if state.ready_counts[kind]]
    if late:
        # Who has only what waited for a time is in no order yet: whoever was served last is last.
        states = sorted({*states, *late}, key=lambda state: (state.served_at, state.index))
    if view.pauses.scopes:
        states = [state for state in states if view.pauses.holding(state.spec) is None]
    for rank in _ranks(view, states, kind, late, now):
        yield from _in_turn(
            [_runs(view, state, kind, late.get(state, []), room, mates, now) for state in rank]
        )


def _ranks(
    view: View, states: list[AssetState], kind: int, late: dict[AssetState, list[Cell]], now: int
) -> Iterable[Iterable[AssetState]]:
    """The assets by priority, the highest first; of those that are equal the order stays. No age
    lifts any above the highest: there it takes turns.
    """
    priorities = {state.spec.policy.priority for state in states}
    if len(priorities) < 2:
        return [states]
    top, times = max(priorities), view.staleness.marks.at
    ranks: dict[int, list[AssetState]] = {}
    for state in states:
        rank = state.spec.policy.priority
        if state in late:
            rank = min(top, rank + waited_us(view.staleness, late[state][0], now) // AGEING_US)
        # Nobody has waited longer than for all the time that there was something ready.
        elif rank < top and now - state.ready_us >= AGEING_US:
            since = max(state.ready_us, times.get(state.owed[first_ready(state, kind)], now))
            rank = min(top, rank + max(0, now - since) // AGEING_US)
        ranks.setdefault(rank, []).append(state)
    return (ranks[rank] for rank in sorted(ranks, reverse=True))


def _in_turn(turns: list[Iterator[list[Cell]]]) -> Iterator[list[Cell]]:
    """One of each, then the next one of each, and so on."""
    while turns:
        going_on = []
        for rows in turns:
            group = next(rows, None)
            if group is not None:
                yield group
                going_on.append(rows)
        turns = going_on


def _runs(
    view: View,
    state: AssetState,
    kind: int,
    late: list[Cell],
    room: Room,
    mates: Mates,
    now: int,
) -> Iterator[list[Cell]]:
    """The runs of one asset as long as its pools have room for one more."""
    circuit = view.circuits.open.get(state.spec.key) if view.circuits.open else None
    rows = _ready_rows(state, kind)
    if circuit is not None:
        late, rows = _let_through(circuit, state, kind, late, now)
    for found in chain(([cell] for cell in late), _groups(state, rows)):
        group = mates.joined(found)
        if group and not room.take(state.spec):
            may = room.may_keep(state.spec)
            if may and waited_us(view.staleness, found[0], now) >= KEPT_AFTER_US:
                room.keep_for(state.spec)
            return
        if group:
            yield group


def _let_through(
    circuit: Circuit, state: AssetState, kind: int, late: list[Cell], now: int
) -> tuple[list[Cell], Iterator[int]]:
    """What an open circuit does not hold back: retries, what a person has asked for, and, when it
    is time, one that tries.
    """
    rows = [i for i in circuit.asked_rows(state) if state.ready[i] == kind]
    free = [cell for cell in late if attempts(cell) or circuit.has_been_asked(state, cell.i)]
    if circuit.is_due(now) and (kind == LIVE or not state.ready_counts[LIVE]):
        probe = next((i for i in _ready_rows(state, kind) if i not in rows), None)
        if probe is not None:
            rows.append(probe)
        else:
            free += [cell for cell in late if cell not in free][:1]
    return free, iter(rows)


def _ready_rows(state: AssetState, kind: int) -> Iterator[int]:
    """The ready rows of one asset from its cursor on, then those before."""
    for start, stop in ((state.cursor, state.n), (0, min(state.cursor, state.n))):
        i = state.ready.find(kind, start, stop)
        while i >= 0:
            yield i
            i = state.ready.find(kind, i + 1, stop)


def _groups(state: AssetState, rows: Iterable[int]) -> Iterator[list[Cell]]:
    """These rows, as many at once as a run may take. One that failed, or ran when the engine was
    killed, is tried alone, so that it does not hold up the others.
    """
    batch = state.spec.batch
    group: list[Cell] = []
    for i in rows:
        if i in state.failures or i in state.kills:
            yield [Cell(state, i)]
            continue
        group.append(Cell(state, i))
        if len(group) == batch:
            yield group
            group = []
    if group:
        yield group
