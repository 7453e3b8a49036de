"""The reactor: one pure pass over the view that says what to start now, and when to look again.

    start(partition)  ⇔  owed ≤ demand ∧ gate open ∧ fingerprint differs ∧ not running ∧ not blocked
    ∧ a slot is free

The fold keeps `ready` true to all but the last two; what is left to decide is order, slots and
time (`turns` has the order). Backfills have a share of the slots of their own.
"""

from itertools import islice

import msgspec

from freshet.engine.events import AnyEvent, RunStarted, WindowsOpened
from freshet.engine.parts import MAX_CAUSES, Cause, Target
from freshet.engine.policies import describe
from freshet.engine.turns import startable
from freshet.projections.causes import changed_inputs, reason, wishes_for
from freshet.projections.cells import Cell, fingerprint, must_run
from freshet.projections.circuits import attempts
from freshet.projections.marks import BULK, LIVE
from freshet.projections.mates import Mates
from freshet.projections.pauses import ended_pauses, next_end
from freshet.projections.pools import Room
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
    waits = (
        bool(staleness.timed.at or promises.alarms.at or promises.recovered)
        or bool(view.pauses.ends)
        or bool(view.delays.waiting)
    )
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
        starts = list(islice(startable(view, LIVE, due, room, mates, now), free))
        bulk = min(free - len(starts), max(1, slots // BULK_SHARE) - len(staleness.live_bulk))
        starts += islice(startable(view, BULK, [], room, mates, now), max(0, bulk))
    return Decision(facts, tuple(map(_start, starts)), wake_at)


def _by_time(view: View, now: int) -> tuple[tuple[AnyEvent, ...], list[int | None]]:
    """What the clock brings about: pauses that end, windows that open, policies that ask, promises
    that are broken or kept again; and when it will next.
    """
    facts: list[AnyEvent] = list(ended_pauses(view.pauses, now))
    moments = [next_end(view.pauses)] if not facts else []
    facts += view.delays.findings(now)
    moments.append(view.delays.next_at)
    opens_at = view.staleness.opens_at
    if opens_at is not None and opens_at <= now:
        facts.append(WindowsOpened(now))
    else:
        moments.append(opens_at)
    found = view.promises.findings(now)
    moments += [found.wake_at, view.circuits.next_probe(now)]
    return (*facts, *found.events), moments


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
        wishes = wishes_for(cell)
        room = MAX_CAUSES - min(len(causes), MAX_CAUSES // 2)  # who asked often hides no input
        found.update(dict.fromkeys((*wishes[:room], *causes)))
        changed += count + len(wishes)
        inputs = f"{fingerprint(cell.home, cell.i):016x}"
        targets.append(Target(spec.key, cell.partition, cell.owed, inputs, spec.code_version))
    return RunStarted(
        targets=tuple(targets),
        attempt=1 + (max(map(attempts, group)) if first.home.spec.together else attempts(first)),
        policy=describe(first.home.spec.policy),
        reason=reason(first),
        causes=tuple(found)[:MAX_CAUSES],
        changed=changed,
        asked=max(first.home.due.newest(first.i), first.home.demand.newest(first.i)),
    )
