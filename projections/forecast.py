"""Forecasts: when a partition will run next, or the exact condition that it waits for.

Starts follow from the same moments the reactor goes by; ends from the 90th percentile of recent
runs, so a forecast is early nine times out of ten as far as single runs go.
"""

from datetime import date
from itertools import chain, islice
from typing import Literal

import msgspec

from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.policies import Cron, Manual, MaxLag, describe
from freshet.engine.ticks import next_tick
from freshet.projections.arrivals import awaits_source
from freshet.projections.causes import blocker_text
from freshet.projections.cells import (
    SHUT,
    Cell,
    absent_rows,
    gate,
    holding_rows,
    is_lacking,
    limits,
    must_run,
    owing_rows,
    wanted,
)
from freshet.projections.circuits import circuit_text
from freshet.projections.marks import NOTHING
from freshet.projections.planner import reserve_us
from freshet.projections.pools import first_ready
from freshet.projections.view import View

Stage = Literal["fresh", "running", "starting", "timed", "following", "planned", "waiting"]

EPOCH = date(1970, 1, 1).toordinal()

MAX_LOOKED_AT = 1000
"""Rows upstream looked at for one forecast; of more, the nearest."""


class Forecast(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes next for one asset partition.

    `starts_us` and `ends_us` (µs since the epoch) are none where nothing that is known brings the
    next run about; then `condition` says what would.
    """

    asset: AssetKey
    partition: PartitionKey
    stage: Stage
    starts_us: int | None = None
    ends_us: int | None = None
    condition: str = ""


class _Moment(msgspec.Struct, frozen=True):
    stage: Stage
    starts_us: int | None
    condition: str = ""


def forecast(view: View, name: AssetPartition, now_us: int) -> Forecast:
    """When this asset partition runs next. Raises KeyError when it does not exist."""
    cell = view.staleness.cell(*name)
    if cell is None:
        raise KeyError(str(name))
    known: dict[Cell, _Moment] = {}
    found = _moment(view, cell, now_us, known)
    ends = None if found.starts_us is None else _end(view, cell, found, now_us)
    return Forecast(*name, found.stage, found.starts_us, ends, found.condition)


def _end(view: View, cell: Cell, found: _Moment, now_us: int) -> int:
    assert found.starts_us is not None
    return max(now_us, found.starts_us + view.promises.planner.paths.time_us(cell.home.spec.key))


def _moment(view: View, cell: Cell, now_us: int, known: dict[Cell, _Moment]) -> _Moment:
    """Upstream first: a row that follows others starts when the last of them ends."""
    stack = [cell]
    while stack:
        here = stack[-1]
        above = [] if here in known else _followed(here)
        missing = [u for u in above if u not in known]
        if missing and len(known) + len(stack) < MAX_LOOKED_AT:
            stack += missing
            continue
        stack.pop()
        if here not in known:
            known[here] = _own_moment(view, here, [u for u in above if u in known], now_us, known)
    return known[cell]


def _followed(cell: Cell) -> list[Cell]:
    """The rows upstream that keep the gate of this one shut, or that it went on without."""
    state, i = cell.home, cell.i
    if state.is_source or cell.running or cell.owed == NOTHING:
        return []
    floor, limit = limits(state, i)
    if gate(state, i) != SHUT:
        if must_run(state, i):
            return []
        rows = ((link.up, j) for link in state.up for j in owing_rows(link, i, floor))
    else:
        rows = (
            (link.up, j)
            for link in state.up
            if not link.up.is_wall
            for j in chain(
                absent_rows(link, i) if link.rule == "wait" and is_lacking(link, i) else (),
                (j for j, _ in holding_rows(link, i, floor, limit)),
            )
        )
    return [Cell(up, j) for up, j in islice(rows, MAX_LOOKED_AT) if up.exists[j]]


def _own_moment(
    view: View, cell: Cell, above: list[Cell], now_us: int, known: dict[Cell, _Moment]
) -> _Moment:
    state = cell.home
    spec = state.spec
    run = view.runs.live.get(cell.run)
    if run is not None:
        return _Moment("running", run.started_at)
    if state.is_source:
        return _Moment("waiting", None, "it changes outside Freshet")
    if cell.owed == NOTHING:
        return _Moment("fresh", None, _when_fresh(cell, now_us))
    pause = view.pauses.holding(spec)
    if pause is None:
        return _unpaused(view, cell, above, now_us, known)
    until = getattr(pause.event, "until", None)
    if until is None:
        return _Moment("waiting", None, f"it is paused since position {pause.position}")
    found = _unpaused(view, cell, above, now_us, known)
    if found.starts_us is None or found.starts_us >= until:
        return found
    return _Moment("timed", max(now_us, until), "the end of its pause")


def _unpaused(
    view: View, cell: Cell, above: list[Cell], now_us: int, known: dict[Cell, _Moment]
) -> _Moment:
    """As if nothing held it but its policy and what it is made from."""
    state, i = cell.home, cell.i
    circuit = view.circuits.holding(cell)
    if circuit is not None and (state.ready[i] or cell in view.staleness.timed.at):
        text = circuit_text(circuit)
        if circuit.probe or not state.ready[i] or i != first_ready(state, state.ready[i]):
            return _Moment("waiting", None, text)
        return _Moment("timed", max(now_us, circuit.next_at), text)
    if state.ready[i]:
        return _Moment("starting", now_us)
    at = view.staleness.timed.at.get(cell)
    if at is not None:
        what = "its retry" if cell.failure is not None else "its deadline for missing inputs"
        return _Moment("timed", max(now_us, at), what)
    found = view.status_of(cell)
    if not wanted(state, i) and (cell.there or not awaits_source(state, i)):
        return _planned(view, cell, now_us)
    if found.blocker is not None and found.blocker.is_final:
        return _Moment("waiting", None, blocker_text(found.blocker))
    if found.activity == "failed":
        return _Moment("waiting", None, "it failed: other inputs, other code or a person")
    if above:
        return _following(view, above, now_us, known)
    return _Moment("waiting", None, blocker_text(found.blocker) if found.blocker else "")


def _following(view: View, above: list[Cell], now_us: int, known: dict[Cell, _Moment]) -> _Moment:
    latest = now_us
    for u in above:
        moment = known[u]
        if moment.starts_us is None:
            return _Moment("waiting", None, moment.condition or f"{u.key} moves")
        latest = max(latest, _end(view, u, moment, now_us))
    names = ", ".join(dict.fromkeys(str(u.key) for u in above[:3]))
    return _Moment("following", latest, f"it follows {names}")


def _planned(view: View, cell: Cell, now_us: int) -> _Moment:
    """Its policy, or a promise downstream, will ask for it when the time has come."""
    planner, key = view.promises.planner, cell.home.spec.key
    policy = cell.home.spec.policy
    asks = planner.asks_at(cell)
    if asks is not None:
        starts = asks
        if isinstance(policy, MaxLag):
            starts += planner.longest_us(cell) - planner.paths.time_us(key)
        return _Moment("planned", max(now_us, starts), f"by its policy, {describe(policy)}")
    slack = planner.paths.slack.get(key)
    if slack is not None and not isinstance(policy, MaxLag):
        since = view.staleness.marks.at.get(cell.owed, now_us)
        lag_us = planner.paths.strictest[key]
        starts = since + slack - reserve_us(lag_us - slack, lag_us)
        if starts > now_us:  # else that promise had its chance, and did not ask
            return _Moment("planned", starts, "a promise downstream")
    if not cell.there and not isinstance(policy, Manual):
        return _Moment("waiting", None, f"its policy does not ask for it now: {describe(policy)}")
    return _Moment("waiting", None, f"something that asks for it: its policy is {describe(policy)}")


def _when_fresh(cell: Cell, now_us: int) -> str:
    policy = cell.home.spec.policy
    if isinstance(policy, Manual):
        return "nothing to do; a person may ask for it"
    if isinstance(policy, Cron):
        tick = next_tick(policy.expression, policy.tz, now_us)
        return f"nothing to do; if an input changes, the tick at {_moment_text(tick)}"
    return "nothing to do until an input changes"


def _moment_text(us: int) -> str:
    from_epoch = us // 1_000_000
    days, seconds = divmod(from_epoch, 86_400)
    hours, rest = divmod(seconds, 3600)
    return f"{date.fromordinal(EPOCH + days)} {hours:02}:{rest // 60:02} UTC"
