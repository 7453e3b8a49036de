"""Deployment: fitting the rows that there are to new definitions, and windows that come into being.

What a deployment does not touch costs nothing: only assets whose definition changed, and those that
read them, are looked at row by row.
"""

from freshet.engine.events import Recorded
from freshet.engine.graph import Graph
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.specs import AssetSpec
from freshet.engine.windows import MAX_HOLES
from freshet.projections.cells import downstream, upstream_owed
from freshet.projections.debts import Debts, belongs
from freshet.projections.feeds import leaves_some, let_in, pin_down
from freshet.projections.marks import NOTHING
from freshet.projections.plain import is_plain
from freshet.projections.states import AssetState, Link
from freshet.projections.sums import MASK


def deploy(debts: Debts, old: Graph, new: Graph, recorded: Recorded) -> None:
    """Take on the definitions of `new`; what changed owes it."""
    for state in debts.order:
        if _feeding(old, state.spec.key) != _feeding(new, state.spec.key):
            _pin_down(state)
    for key in [key for key in debts.states if key not in new.specs]:
        _put_away(debts, debts.states.pop(key), recorded.position)
    orphaned: list[AssetPartition] = []
    judged_anew: list[AssetState] = []
    states: dict[AssetKey, AssetState] = {}
    for key, spec in new.specs.items():
        state = debts.states.get(key) or _new_state(debts, spec)
        if state.spec.partitions != spec.partitions:
            state = _reshaped(debts, state, spec, orphaned)
        judged = state.trial != spec.trial
        state.define(spec, state.space)
        states[key] = state
        if judged:
            judged_anew.append(state)
    debts.states = states
    debts.order = list(states.values())
    link_up(debts)
    _let_tell(debts)
    for state in debts.order:
        state.plain = is_plain(state)
    debts.now_us = max(debts.now_us, recorded.recorded_at)
    changed = {key for key, spec in new.specs.items() if _differs(old.specs.get(key), spec)}
    # No row owes anything new before all rows are there and those that go have gone: what one owes
    # must not reach another by way of a row that is on its way out.
    debts.moved, redefined = set(), []
    for state in debts.order:
        key, above = state.spec.key, {link.up.spec.key for link in state.up}
        if key in changed or above & changed or above & debts.moved:
            _fit(debts, state, recorded.position, key in changed)
            redefined.append(state)
    debts.moved = None
    for begun, i, owed, mark in debts.born:
        if begun.exists[i]:
            debts.begin(begun, i, owed, mark)
    debts.born.clear()
    for state in redefined:
        _owe(debts, state, recorded.position, state.spec.key in changed)
    for state in judged_anew:
        for i in state.failures:
            debts.touch(state, i)  # what blocked it may pass now
    for name in orphaned:
        reader = states.get(name.asset)
        row = reader.number(name.partition) if reader is not None else None
        if reader is not None and row is not None and row < reader.n and reader.exists[row]:
            debts.mark(reader, row, recorded.position)


def _feeding(graph: Graph, key: AssetKey) -> tuple[object, ...]:
    """What decides which changes the partitions of an asset read."""
    spec = graph.specs.get(key)
    if spec is None or not spec.reads_changes:
        return ()
    edges = [
        (dep.asset, dep.mapping, graph.specs[dep.asset].partitions)
        for dep in spec.deps
        if dep.changes
    ]
    return (spec.partitions, *edges)


def _pin_down(state: AssetState) -> None:
    """It will read something else by change: note up to where it has read what it reads now."""
    for i in rows_of(state):
        if state.started_at[i] or i in state.live:
            pin_down(state, i)


def _put_away(debts: Debts, state: AssetState, position: int) -> None:
    """An asset is not defined any more."""
    if state.is_source:
        debts.heard[state.spec.key] = state.heard
        for i in range(state.n):
            if state.made_at[i]:
                state.heard[state.space.key(i)] = state.made_at[i]
    for i in rows_of(state):
        debts.retire(state, i, position)


def _new_state(debts: Debts, spec: AssetSpec) -> AssetState:
    state = AssetState(spec, debts.marks)
    state.heard = debts.heard.pop(spec.key, {})
    state.newest = max(state.heard.values(), default=0)
    return state


def open_by_time(debts: Debts, state: AssetState, mark: int) -> None:
    """The windows that are over by now, or by the event times that were seen, exist."""
    start, state.opened = state.opened, max(state.opened, _opened(debts, state))
    _open_windows(debts, state, start, mark)


def _open_windows(debts: Debts, state: AssetState, start: int, mark: int) -> None:
    """The windows from `start` on that have come into being by time are partitions."""
    for i in range(start * state.stride, state.opened * state.stride):
        if not (i < state.n and state.exists[i]) and state.space.valid(i):
            debts.open(state, i, mark)


def _opened(debts: Debts, state: AssetState) -> int:
    """How many windows time, or the event times that were seen, has brought into being."""
    calendar, windows = state.calendar, state.windows
    if calendar is None or windows is None:
        return 0
    until = None
    if opens_by_time(state):
        until = debts.now_us
    elif windows.lateness_ms is not None and state.is_source:
        seen = debts.watermarks.get(state.spec.key)
        until = seen - windows.lateness_ms * 1000 if seen is not None else None
    count = max(0, calendar.at(until)) if until is not None else 0
    return count if calendar.size is None else min(count, calendar.size)


def pass_watermark(debts: Debts, state: AssetState, i: int, mark: int) -> None:
    """The event time of row i was seen: windows that ended long enough before it are over."""
    assert state.calendar is not None
    key = state.spec.key
    seen = state.calendar.start_us(i // state.stride)
    if seen > debts.watermarks.get(key, seen - 1):
        debts.watermarks[key] = seen
        if state.windows is not None and state.windows.lateness_ms is not None:
            open_by_time(debts, state, mark)


def opens_by_time(state: AssetState) -> bool:
    """Do the clock alone and nothing upstream bring this asset's windows into being?"""
    windows = state.windows
    return (
        windows is not None
        and windows.opens == "time"
        and windows.lateness_ms is None
        and not any(link.brings for link in state.up)
    )


def next_opening(debts: Debts) -> int | None:
    """The moment at which the next window is over that comes into being by time."""
    found: int | None = None
    for state in debts.order:
        if not opens_by_time(state):
            continue
        calendar = state.calendar
        assert calendar is not None
        window = max(0, calendar.at(debts.now_us))
        for _ in range(MAX_HOLES):
            if calendar.valid(window):
                break
            window += 1
        if calendar.size is None or window < calendar.size:
            at = calendar.end_us(window)
            found = at if found is None else min(found, at)
    return found


def rows_of(state: AssetState) -> list[int]:
    """The rows that exist, in order."""
    found = []
    i = state.exists.find(1)
    while i >= 0:
        found.append(i)
        i = state.exists.find(1, i + 1)
    return found


def link_up(debts: Debts) -> None:
    """Make the edges between the states, as their definitions say."""
    for index, state in enumerate(debts.order):
        state.index = index
        state.up, state.down, state.feeds = [], [], []
    for state in debts.order:
        for dep in state.spec.deps:
            link = Link(dep, debts.states[dep.asset], state)
            state.up.append(link)
            link.up.down.append(link)
            if link.changes:
                link.up.feeds.append(link)


def _let_tell(debts: Debts) -> None:
    """Which assets keep `stalled`: what may be deferred and all below it, and all above somebody
    who goes on without what is stuck.
    """
    before = [state.tells for state in debts.order]
    for state in debts.order:
        ups = [link.up for link in state.up if not (link.is_self or link.up.is_wall)]
        above = any(up.tells for up in ups)
        state.tells = not state.is_wall and (above or not state.is_eager)
        state.told_below = False
    for state in reversed(debts.order):
        if state.told_below or state.spec.policy.on_failure == "proceed":
            for link in state.up:
                link.up.tells = link.up.told_below = not link.up.is_wall
    for state, told in zip(debts.order, before, strict=True):
        if state.tells != told:
            state.stalled = bytearray(state.n)
            for one in (state, *(link.down for link in state.down)):
                for i in rows_of(one):
                    debts.touch(one, i)


def _fit(debts: Debts, state: AssetState, position: int, changed: bool) -> None:
    """Fit the rows to the new definition, upstreams first."""
    if changed and state.is_source:
        _let_in(debts, state, position)
    state.opened = _opened(debts, state)
    _open_windows(debts, state, 0, position)
    for i in rows_of(state):
        if not belongs(state, i):
            debts.remove(state, i, position)
    if changed and not state.grows:
        for i in range(state.space.size or 0):
            debts.open(state, i, position)
    for link in state.up:
        if link.brings and state.grows:
            for j in rows_of(link.up):
                for i in link.lane.brings(j, state.n):
                    if state.space.valid(i):
                        debts.open(state, i, position)


def _owe(debts: Debts, state: AssetState, position: int, changed: bool) -> None:
    """The rows of a definition that changed, or above which one did, owe it."""
    for i in rows_of(state):
        if not state.is_source:
            above = upstream_owed(state, i)
            news = changed or (state.reads_changes and leaves_some(state, i))
            debts.mark(state, i, min(position, above) if news else above)
        debts.touch(state, i)


def _let_in(debts: Debts, state: AssetState, position: int) -> None:
    """Versions seen while no definition admitted them come in."""
    asset = state.spec.key
    for key in list(state.heard):
        i = state.number(key, add=state.adds_keys)
        if i is not None:
            state.ensure(i)
            if state.hear(i):
                let_in(state, i)
    for name in [name for name in debts.attic if name.asset == asset]:
        i = state.number(name.partition, add=state.adds_keys)
        if i is not None:
            debts.open(state, i, position)
    newest = state.there.rfind(1)
    if state.calendar is not None and newest >= 0:
        pass_watermark(debts, state, newest, position)


def _reshaped(
    debts: Debts, old: AssetState, spec: AssetSpec, orphaned: list[AssetPartition]
) -> AssetState:
    """The state of an asset whose partitions are others: rows are numbered anew; those whose key is
    gone are retired, and the names of those that read them put into `orphaned`.
    """
    new = AssetState(spec, debts.marks)
    new.codes, new.owes, new.opened = old.codes, {}, 0
    new.heard = old.heard
    for i in rows_of(old):
        debts.unlist(old, i)
        k = new.number(old.space.key(i), add=True)
        if k is None:
            orphaned.extend(other.key(j) for other, j in downstream(old, i))
            debts.retire(old, i, debts.position)
        else:
            _move(old, i, new, k)
    for i in range(old.n) if old.is_source else ():
        if old.made_at[i]:
            new.heard[old.space.key(i)] = old.made_at[i]
    new.newest = old.newest
    row = old.newest_row
    found = new.number(old.space.key(row)) if row >= 0 and old.exists[row] else None
    new.newest_row = found if found is not None else -1
    return new


def _move(old: AssetState, i: int, new: AssetState, k: int) -> None:
    new.ensure(k)
    for name in _COLUMNS:
        getattr(new, name)[k] = getattr(old, name)[i]
    for name in _BY_ROW:
        if i in getattr(old, name):
            getattr(new, name)[k] = getattr(old, name).pop(i)
    for name in ("explicit", "halfway"):
        if i in getattr(old, name):
            getattr(new, name).add(k)
    if old.cut_at is not None and old.cut_debt is not None and old.cut_at[i]:
        new.note_cut(k, old.cut_debt[i], old.cut_at[i])
    new.existing += 1
    new.versions += new.there[k]
    new.total = (new.total + new.hash[k]) & MASK
    new.owe(k, old.owed[i])
    old.owe(i, NOTHING)


_COLUMNS = (
    "exists", "there", "state", "hash", "consumed", "code", "changed_at", "made_at", "started_at",
)  # fmt: skip
_BY_ROW = ("live", "failures", "kills", "forced", "demand", "due", "absorbed", "elsewhere")


def _differs(before: AssetSpec | None, now: AssetSpec) -> bool:
    """Did the part of a definition change that decides staleness? The rest (owner, tags …) is only
    metadata.
    """
    if before is None:
        return True
    return any(
        getattr(before, name) != getattr(now, name)
        for name in ("kind", "deps", "partitions", "code_version", "policy")
    )
