"""Deployment: fitting the rows that there are to new definitions, and windows that come into being.

What a deployment does not touch costs nothing: only assets whose definition changed, and those that
read them, are looked at row by row.
"""

from freshet.engine.events import Recorded
from freshet.engine.graph import Graph
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.spaces import Space, space_of
from freshet.engine.specs import AssetSpec
from freshet.engine.windows import MAX_HOLES
from freshet.projections.cells import downstream, upstream_owed
from freshet.projections.columns import AssetState, Link
from freshet.projections.debts import Debts, belongs


def deploy(debts: Debts, old: Graph, new: Graph, recorded: Recorded) -> None:
    """Take on the definitions of `new`; what changed owes it."""
    for key in [key for key in debts.states if key not in new.specs]:
        state = debts.states.pop(key)
        for i in rows_of(state):
            debts.retire(state, i)
    orphaned: list[AssetPartition] = []
    states: dict[AssetKey, AssetState] = {}
    for key, spec in new.specs.items():
        state = debts.states.get(key) or AssetState(spec, debts.marks)
        if state.spec.partitions != spec.partitions:
            orphaned += _reshape(debts, state, spec)
        state.define(spec, state.space)
        states[key] = state
    debts.states = states
    debts.order = list(states.values())
    _link(debts)
    debts.now_us = max(debts.now_us, recorded.recorded_at)
    changed = {key for key, spec in new.specs.items() if _differs(old.specs.get(key), spec)}
    for state in debts.order:
        key = state.spec.key
        if key in changed or any(link.up.spec.key in changed for link in state.up):
            _redefine(debts, state, recorded.position, key in changed)
    for name in orphaned:
        reader = states.get(name.asset)
        row = reader.number(name.partition) if reader is not None else None
        if reader is not None and row is not None and row < reader.n and reader.exists[row]:
            debts.mark(reader, row, recorded.position)


def open_windows(debts: Debts, state: AssetState, count: int, mark: int) -> None:
    """The first `count` windows of a definition exist from now on."""
    if state.space.size is not None:
        count = min(count, -(-state.space.size // state.stride))
    start, state.opened = state.opened, max(state.opened, count)
    for i in range(start * state.stride, state.opened * state.stride):
        if not (i < state.n and state.exists[i]) and state.space.valid(i):
            debts.open(state, i, mark)


def open_by_time(debts: Debts, state: AssetState, mark: int) -> None:
    """The windows that are over by now, or by the event times that were seen, exist."""
    assert state.calendar is not None
    if opens_by_time(state):
        open_windows(debts, state, state.calendar.at(debts.now_us), mark)
    elif state.windows is not None and state.windows.lateness_ms is not None and state.is_source:
        seen = debts.watermarks.get(state.spec.key)
        if seen is not None:
            passed = state.calendar.at(seen - state.windows.lateness_ms * 1000)
            open_windows(debts, state, passed, mark)


def pass_watermark(debts: Debts, state: AssetState, i: int, mark: int) -> None:
    """The event time of row i was seen: windows that ended long enough before it are over."""
    assert state.calendar is not None
    key = state.spec.key
    seen = state.calendar.start_us(i // state.stride)
    if seen > debts.watermarks.get(key, seen - 1):
        debts.watermarks[key] = seen
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


def _link(debts: Debts) -> None:
    for index, state in enumerate(debts.order):
        state.index = index
        state.up, state.down = [], []
    for state in debts.order:
        for dep in state.spec.deps:
            link = Link(dep, debts.states[dep.asset], state)
            state.up.append(link)
            link.up.down.append(link)


def _redefine(debts: Debts, state: AssetState, position: int, changed: bool) -> None:
    """Fit the rows to the new definition (upstreams first), and let those that changed owe it."""
    state.opened = 0
    if state.calendar is not None:
        open_by_time(debts, state, position)
    for i in rows_of(state):
        if not belongs(state, i):
            debts.remove(state, i, position)
    if changed and not state.grows:
        for i in range(state.space.size or 0):
            debts.open(state, i, position)
    if changed and state.is_source:
        _let_in(debts, state, position)
    for link in state.up:
        if link.brings and state.grows:
            for j in rows_of(link.up):
                for i in link.lane.brings(j, state.n):
                    if state.space.valid(i):
                        debts.open(state, i, position)
    for i in rows_of(state):
        if not state.is_source:
            above = upstream_owed(state, i)
            debts.mark(state, i, min(position, above) if changed else above)
        debts.touch(state, i)


def _let_in(debts: Debts, state: AssetState, position: int) -> None:
    """Versions seen while no definition admitted them come in."""
    asset = state.spec.key
    for name in [name for name in debts.attic if name.asset == asset]:
        i = state.number(name.partition, add=state.adds_keys)
        if i is not None:
            debts.open(state, i, position)
    if state.calendar is not None and state.windows is not None:
        newest = state.there.rfind(1)
        if newest >= 0:
            pass_watermark(debts, state, newest, position)


def _reshape(debts: Debts, state: AssetState, spec: AssetSpec) -> list[AssetPartition]:
    """Number the rows anew for other partitions. Rows whose key is gone are retired; returned are
    the names of those that read them.
    """
    space = space_of(spec.partitions)
    readers: dict[AssetPartition, None] = {}
    kept: list[tuple[str, int]] = []
    old_space = state.space
    rows = rows_of(state)
    for i in rows:
        debts.unlist(state, i)
    state.space = space  # for a moment: to number keys, dynamic ones too
    for i in rows:
        key = old_space.key(i)
        if state.number(key, add=True) is not None:
            kept.append((key, i))
    state.space = old_space
    staying = {i for _, i in kept}
    for i in rows:
        if i not in staying:
            readers.update((other.key(k), None) for other, k in downstream(state, i))
            debts.retire(state, i)
    _move(state, space, [(key, i) for key, i in kept], spec)
    return list(readers)


def _move(state: AssetState, space: Space, kept: list[tuple[str, int]], spec: AssetSpec) -> None:
    old = {name: getattr(state, name) for name in _COLUMNS + _BY_ROW + ("codes", "owes", "_heap")}
    cuts = (state.cut_at, state.cut_debt)
    explicit, watched, summed = state.explicit, state.watched, state.sums is not None
    up, down = state.up, state.down
    state._make_columns()
    state.define(spec, space)
    state.up, state.down = up, down
    state.codes, state.owes, state._heap = old["codes"], old["owes"], old["_heap"]
    for key, i in kept:
        k = state.number(key)
        assert k is not None
        state.ensure(k)
        for name in _COLUMNS:
            getattr(state, name)[k] = old[name][i]
        for name in _BY_ROW:
            if i in old[name]:
                getattr(state, name)[k] = old[name][i]
        if i in explicit:
            state.explicit.add(k)
        if cuts[0] is not None and cuts[1] is not None and cuts[0][i]:
            state.note_cut(k, cuts[1][i], cuts[0][i])
    state.existing = len(kept)
    state.versions = sum(state.there)
    state.total = sum(state.hash) & ((1 << 64) - 1)
    if watched:
        state.watch()
    if summed:
        state.sum_up()


_COLUMNS = (
    "exists", "there", "state", "owed", "hash", "consumed", "code", "changed_at", "made_at",
    "started_at",
)  # fmt: skip
_BY_ROW = ("live", "failures", "forced", "demand")


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
