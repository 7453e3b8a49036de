"""Backfills: which there are, how far each is, and what a selection of partitions comes to."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from freshet.engine.errors import RequestError
from freshet.engine.events import Demanded, Recorded
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.projections.cells import Cell, cells_of, downstream
from freshet.projections.marks import MISSING, STALE, WAITING
from freshet.projections.states import AssetState
from freshet.projections.view import View

RANGE = ".."
"""Between the first and the last partition of a range, both of which belong to it."""


class Progress(msgspec.Struct, frozen=True):
    """How far a backfill is: of its `total` partitions `done` were built, `left` are still to be,
    and `failed` of those will not be without help. Over when nothing but failures is left, or it
    was cancelled. Another demand for the same partition takes it over: then it is neither.
    """

    position: int
    recorded_at: int
    actor: str
    reason: str
    total: int
    done: int
    left: int
    failed: int
    running: int
    cancelled: bool

    @property
    def over(self) -> bool:
        return self.cancelled or self.left == self.failed


class Share(msgspec.Struct, frozen=True):
    """What a backfill comes to for one asset: its partitions, how long they take in all (µs, by the
    median of recent runs; None without any), and how many downstream partitions may follow.
    """

    asset: AssetKey
    partitions: int
    first: str
    last: str
    run_us: int | None


class Forecast(msgspec.Struct, frozen=True):
    """What a backfill would do: asset by asset, upstream first, and what may follow from it."""

    shares: tuple[Share, ...]
    total: int
    following: int
    run_us: int | None
    slots: int

    @property
    def about_us(self) -> int | None:
        """How long it takes with all its slots busy: run time over slots; None without history."""
        return None if self.run_us is None else self.run_us // max(1, self.slots)


def progress_of(view: View, recorded: Recorded) -> Progress:
    """How far the backfill is that this event began."""
    event = recorded.event
    assert isinstance(event, Demanded)
    left = failed = running = 0
    tally = view.staleness.bulk.get(recorded.position)
    for state in view.staleness.order:
        for i, positions in state.demand.items():
            if recorded.position in positions:
                left += 1
                running += i in state.live
                failure = state.failures.get(i)
                failed += failure is not None and failure.retry_at is None and i not in state.live
    return Progress(
        recorded.position,
        recorded.recorded_at,
        recorded.actor or "",
        event.reason,
        tally.wanted if tally is not None else len(event.targets),
        tally.built if tally is not None else 0,
        left,
        failed,
        running,
        recorded.position in view.backfills.cancelled,
    )


class Wanted(msgspec.Struct, frozen=True):
    """Which partitions of the selected assets are meant: those in a range of keys, of the last so
    many µs, missing, stale or failed; without any of these all.
    """

    partitions: str = ""
    last_us: int | None = None
    missing: bool = False
    stale: bool = False
    failed: bool = False

    @property
    def force(self) -> bool:
        """Are they rebuilt even from equal inputs and code?"""
        return not (self.missing or self.stale or self.failed)


def targets_of(
    view: View, assets: Sequence[AssetKey], wanted: Wanted, now_us: int
) -> list[AssetPartition]:
    """The existing partitions that are meant, upstream first, the oldest first. Raises
    RequestError.
    """
    found: list[AssetPartition] = []
    for key in assets:
        state = view.staleness.states[key]
        if not state.is_source:
            found += [cell.key for cell in _meant(state, wanted, now_us)]
    return found


def forecast(view: View, targets: Sequence[AssetPartition], slots: int) -> Forecast:
    """What building these comes to. `slots`: how many runs the backfill may have at once."""
    by_asset: dict[AssetKey, list[str]] = {}
    for asset, partition in targets:
        by_asset.setdefault(asset, []).append(partition)
    shares = []
    for asset, keys in by_asset.items():
        each = view.runs.typical_us(asset)
        run_us = None if each is None else each * len(keys)
        shares.append(Share(asset, len(keys), keys[0], keys[-1], run_us))
    known = [share.run_us for share in shares if share.run_us is not None]
    total_us = sum(known) if known and len(known) == len(shares) else None
    return Forecast(tuple(shares), len(targets), _following(view, targets), total_us, slots)


def _following(view: View, targets: Sequence[AssetPartition]) -> int:
    """How many partitions below the targets may be rebuilt because of them."""
    start = [cell for target in targets if (cell := view.staleness.cell(*target)) is not None]
    seen = {(id(cell.home), cell.i) for cell in start}
    named = len(seen)
    stack = [(cell.home, cell.i) for cell in start]
    while stack:
        state, i = stack.pop()
        for other, k in downstream(state, i):
            if not other.is_wall and (id(other), k) not in seen:
                seen.add((id(other), k))
                stack.append((other, k))
    return len(seen) - named


def _meant(state: AssetState, wanted: Wanted, now_us: int) -> Iterator[Cell]:
    tests: list[Callable[[Cell], bool]] = []
    if wanted.partitions and state.spec.partitions is not None:
        low, high = _range(state, wanted.partitions)
        tests.append(lambda cell: low <= cell.i <= high)
    if wanted.last_us is not None and state.calendar is not None:
        calendar, since = state.calendar, now_us - wanted.last_us
        first = calendar.at(since)
        first += calendar.end_us(first) <= since if first >= 0 else 0
        tests.append(lambda cell: cell.i // state.stride >= first)
    states = (MISSING,) * wanted.missing + (STALE, WAITING) * wanted.stale
    if not wanted.force:
        tests.append(
            lambda cell: (
                state.state[cell.i] in states or (wanted.failed and cell.i in state.failures)
            )
        )
    return (cell for cell in cells_of(state) if all(test(cell) for test in tests))


def _range(state: AssetState, text: str) -> tuple[int, int]:
    """The first and last row of `a..b`, `a..`, `..b` or `a`. Raises RequestError."""
    first, dots, last = text.partition(RANGE)
    bounds = []
    for key, default in ((first, 0), (last if dots else first, state.n)):
        row = state.number(key) if key else default
        if row is None:
            raise RequestError(
                f"'{state.spec.key}' has no partition '{key}'",
                cause=f"in --partitions {text}",
                hint="write FIRST..LAST, FIRST.. or ..LAST, with keys as `freshet status` shows",
            )
        bounds.append(row)
    if bounds[0] > bounds[1]:
        raise RequestError(
            f"--partitions {text} of '{state.spec.key}' is empty",
            cause=f"'{first}' comes after '{last}'",
        )
    return bounds[0], bounds[1]
