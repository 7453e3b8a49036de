"""The reactor: one pure pass over the view that says what to start now, and when to look again.

    start(partition)  ⇔  owed ≤ demand ∧ gate open ∧ fingerprint differs ∧ not running ∧ not blocked
    ∧ a slot is free

The fold keeps `ready` true to all but the last two; what is left to decide is order, slots and
time. Assets take turns, so that one with a thousand partitions does not keep the others waiting;
backfills have a share of the slots of their own.
"""

from collections.abc import Iterator
from itertools import groupby, islice

import msgspec

from freshet.engine.events import AnyEvent, RunStarted, WindowsOpened
from freshet.engine.parts import MAX_CAUSES, Cause, Target
from freshet.engine.policies import describe
from freshet.projections.causes import changed_inputs, reason
from freshet.projections.cells import Cell, fingerprint, must_run
from freshet.projections.marks import BULK, LIVE
from freshet.projections.mates import Mates
from freshet.projections.pauses import ended_pauses, next_end
from freshet.projections.pools import Room
from freshet.projections.states import AssetState
from freshet.projections.view import View

BULK_SHARE = 2
"""One in so many slots may be taken by backfills, and at least one: changes find the rest free."""


class Decision(msgspec.Struct, frozen=True):
    """What to record: what time alone has brought about, then runs to start, in order; and the next
    moment (µs) at which time alone changes the answer.
    """

    facts: tuple[AnyEvent, ...] = ()
    starts: tuple[RunStarted, ...] = ()
    wake_at: int | None = None

    @property
    def events(self) -> tuple[AnyEvent, ...]:
        """What to record."""
        return (*self.facts, *self.starts)


NOTHING_TO_DO = Decision()


def decide(view: View, now: int, slots: int) -> Decision:
    """What to do at `now` (µs), with at most `slots` runs alive at once.

    Costs what it starts, not what exists: an idle graph of any size answers in O(1).
    """
    staleness, promises = view.staleness, view.promises
    waits = staleness.timed.at or promises.alarms.at or promises.recovered or view.pauses.ends
    if not staleness.ready and not waits and staleness.opens_at is None:
        return NOTHING_TO_DO
    facts, moments = _by_time(view, now)
    due, later = staleness.timed.due(now) if staleness.timed else ([], None)
    moments.append(later)
    wake_at = min((at for at in moments if at is not None), default=None)
    free = slots - len(view.runs.live)
    starts: list[list[Cell]] = []
    if free > 0 and (staleness.ready or due):
        room = Room(staleness, view.runs)
        mates = Mates(staleness)
        starts = list(islice(_startable(view, LIVE, due, room, mates), free))
        bulk = min(free - len(starts), max(1, slots // BULK_SHARE) - len(staleness.live_bulk))
        starts += islice(_startable(view, BULK, [], room, mates), max(0, bulk))
    return Decision(facts, tuple(map(_start, starts)), wake_at)


def _by_time(view: View, now: int) -> tuple[tuple[AnyEvent, ...], list[int | None]]:
    """What the clock brings about: pauses that end, windows that open, policies that ask, promises
    that are broken or kept again; and when it will next.
    """
    facts: list[AnyEvent] = list(ended_pauses(view.pauses, now))
    moments = [next_end(view.pauses)] if not facts else []
    opens_at = view.staleness.opens_at
    if opens_at is not None and opens_at <= now:
        facts.append(WindowsOpened(now))
    else:
        moments.append(opens_at)
    found = view.promises.findings(now)
    return (*facts, *found.events), [*moments, found.wake_at]


def _startable(
    view: View, kind: int, due: list[Cell], room: Room, mates: Mates
) -> Iterator[list[Cell]]:
    """Partitions for one run each time: assets of higher priority first, those of the same in turn,
    then what waited for a time; none of a paused scope, nor for which a pool has no room.
    """
    states = [
        state
        for state in view.staleness.ready
        if state.ready_counts[kind] and view.pauses.holding(state.spec) is None
    ]
    if any(state.spec.policy.priority for state in states):
        states.sort(key=lambda state: -state.spec.policy.priority)
        for _, rank in groupby(states, key=lambda state: state.spec.policy.priority):
            yield from _in_turn([_ready(state, kind, room, mates) for state in rank])
    else:
        yield from _in_turn([_ready(state, kind, room, mates) for state in states])
    for cell in due:
        if view.pauses.holding(cell.home.spec) is None:
            group = mates.joined([cell])
            if group and room.take(cell.home.spec):
                yield group


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


def _ready(state: AssetState, kind: int, room: Room, mates: Mates) -> Iterator[list[Cell]]:
    """The ready rows of one asset as long as its pools have room for one more run of it."""
    for found in _groups(state, kind):
        group = mates.joined(found)
        if group and not room.take(state.spec):
            return
        if group:
            yield group


def _groups(state: AssetState, kind: int) -> Iterator[list[Cell]]:
    """The ready rows of one asset from its cursor on, then those before; as many at once as a run
    may take. One that failed, or ran when the engine was killed, is
    tried alone, so that it does not hold up the others.
    """
    batch = state.spec.batch
    group: list[Cell] = []
    for start, stop in ((state.cursor, state.n), (0, min(state.cursor, state.n))):
        i = state.ready.find(kind, start, stop)
        while i >= 0:
            if i in state.failures or i in state.kills:
                yield [Cell(state, i)]
            else:
                group.append(Cell(state, i))
                if len(group) == batch:
                    yield group
                    group = []
            i = state.ready.find(kind, i + 1, stop)
    if group:
        yield group


def _attempt(cell: Cell) -> int:
    """Which attempt with the same inputs and code this is."""
    failure = cell.failure
    if failure is None:
        return 1
    again = failure.is_of(fingerprint(cell.home, cell.i), cell.home.trial)
    return failure.attempt + 1 if again else 1


def _start(group: list[Cell]) -> RunStarted:
    first = group[0]
    if first.home.spec.together:
        first = next((cell for cell in group if must_run(cell.home, cell.i)), first)
    targets = []
    found: dict[Cause, None] = {}
    changed = 0
    for cell in group:
        spec = cell.home.spec
        causes, count = changed_inputs(cell)
        if cell.forced:
            causes = (Cause(spec.key, cell.partition, cell.forced), *causes)
            count += 1
        found.update(dict.fromkeys(causes))
        changed += count
        inputs = f"{fingerprint(cell.home, cell.i):016x}"
        targets.append(Target(spec.key, cell.partition, cell.owed, inputs, spec.code_version))
    return RunStarted(
        targets=tuple(targets),
        attempt=max(map(_attempt, group)) if first.home.spec.together else _attempt(first),
        policy=describe(first.home.spec.policy),
        reason=reason(first),
        causes=tuple(found)[:MAX_CAUSES],
        changed=changed,
        asked=max(first.home.due.newest(first.i), first.home.demand.newest(first.i)),
    )
