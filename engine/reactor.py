"""The reactor: one pure pass over the view that says what to start now, and when to look again.

    start(partition)  ⇔  owed ≤ demand ∧ gate open ∧ fingerprint differs ∧ not running ∧ not blocked
    ∧ a slot is free

The fold keeps `ready` true to all but the last two; what is left to decide is order, slots and
time.
"""

from collections.abc import Iterator

import msgspec

from freshet.engine.events import MAX_CAUSES, Cause, RunStarted, Target
from freshet.engine.policies import Manual
from freshet.projections.causes import changed_inputs, reason
from freshet.projections.cells import Cell, fingerprint
from freshet.projections.view import View


class Decision(msgspec.Struct, frozen=True):
    """What to do: runs to start, in order; and the next moment (µs) at which time alone changes the
    answer.
    """

    starts: tuple[RunStarted, ...] = ()
    wake_at: int | None = None


NOTHING_TO_DO = Decision()


def decide(view: View, now: int, slots: int) -> Decision:
    """Which runs to start at `now` (µs), with at most `slots` alive at once.

    Costs what it starts, not what exists: an idle graph of any size answers in O(1).
    """
    staleness = view.staleness
    if not staleness.ready and not staleness.retries:
        return NOTHING_TO_DO
    free = slots - len(view.runs.live)
    starts: list[RunStarted] = []
    for cell in _startable(view, now):
        if len(starts) >= free:
            break
        starts.append(_start(cell))
    return Decision(tuple(starts), _next_retry(view, now))


def _startable(view: View, now: int) -> Iterator[Cell]:
    """Ready cells, the longest ready first, then retries that are due; none of a paused scope."""
    for cell in view.staleness.ready:
        if view.pauses.holding(cell.home.spec) is None:
            yield cell
    for cell in view.staleness.retries:
        failure = cell.failure
        if (
            failure is not None
            and failure.retry_at is not None
            and failure.retry_at <= now
            and view.pauses.holding(cell.home.spec) is None
        ):
            yield cell


def _next_retry(view: View, now: int) -> int | None:
    later = [
        cell.failure.retry_at
        for cell in view.staleness.retries
        if cell.failure is not None
        and cell.failure.retry_at is not None
        and cell.failure.retry_at > now
    ]
    return min(later, default=None)


def _start(cell: Cell) -> RunStarted:
    spec = cell.home.spec
    causes, changed = changed_inputs(cell)
    if cell.forced:
        causes = (Cause(spec.key, cell.partition, cell.forced), *causes)[:MAX_CAUSES]
        changed += 1
    inputs = fingerprint(cell)
    failure = cell.failure
    same = failure is not None and (failure.fingerprint, failure.code_version) == (
        inputs,
        spec.code_version,
    )
    return RunStarted(
        targets=(Target(spec.key, cell.partition, cell.owed, f"{inputs:032x}", spec.code_version),),
        attempt=failure.attempt + 1 if failure is not None and same else 1,
        policy="manual" if isinstance(spec.policy, Manual) else "eager",
        reason=reason(cell),
        causes=causes,
        changed=changed,
    )
