"""Rolling back: an earlier version becomes the current one, in the stream and in the store."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import anyio
import anyio.to_thread
import msgspec
import structlog

from freshet.engine.asking import existing
from freshet.engine.errors import ConflictError, RequestError, StoreError
from freshet.engine.events import Recorded, RolledBack, RunEnd
from freshet.engine.keys import AssetPartition
from freshet.engine.parts import Target
from freshet.engine.readers import Readers
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stores.outages import is_outage
from freshet.engine.stores.store import Store
from freshet.engine.stream import MAX_BATCH, EventStream
from freshet.projections.catalog import Version
from freshet.projections.editions import VersionRow, meant, version_rows
from freshet.projections.view import View

MAX_TRIES = 100
"""How often it is looked anew because something else was recorded between look and record."""

AGAIN_S = 5.0
"""How long to wait before a store that was away is tried again."""

log = structlog.get_logger("freshet.rollback")


class RollbackQuestion(msgspec.Struct, frozen=True, omit_defaults=True):
    """Make this version (or the one that begins so) of an asset partition the current one."""

    target: str
    version: str
    reason: str = ""


class RolledBackTo(msgspec.Struct, frozen=True):
    """What has become the current version, which was stated at `version_at`; `position` is that of
    the event that says so, or 0 if it was the current one already.
    """

    asset: str
    partition: str
    data_version: str
    version_at: int
    position: int


async def held_roll_back(
    restorer: "Restorer",
    stream: EventStream,
    current_view: Callable[[], View],
    store: Store,
    question: RollbackQuestion,
    *,
    actor: str | None = None,
    key: str | None = None,
) -> RolledBackTo:
    """As `roll_back`, beside live runs: nothing of it is collected from before the look until the
    event is folded, and the restorer holds it. Raises RequestError.
    """
    with restorer.holding(existing(current_view(), question.target)):
        found = await roll_back(stream, current_view, store, question, actor=actor, key=key)
        while current_view().position < found.position:
            await anyio.sleep(0.001)
        return found


async def roll_back(
    stream: EventStream,
    current_view: Callable[[], View],
    store: Store,
    question: RollbackQuestion,
    *,
    actor: str | None = None,
    key: str | None = None,
) -> RolledBackTo:
    """Record the rollback a person asks for, if the store has the value. `current_view` is the fold
    of the stream, as far as it has come. Raises RequestError.
    """
    row = await _found(stream, current_view(), question)
    name = AssetPartition(row.asset, row.partition)
    kept_as_of = -1
    for _ in range(MAX_TRIES):
        view = current_view()
        looked_at = view.position  # the view goes on while we wait
        if looked_at < stream.head:
            await anyio.sleep(0.001)
            continue
        _check_idle(view, name)
        made_at = view.staleness.made_at(*name)
        if made_at != kept_as_of:
            # After each new version older ones may have been collected: it is looked for again.
            await _check_kept(store, name, row)
            kept_as_of = made_at
            continue
        made = Version.of(await stream.at(made_at))
        answer = RolledBackTo(*name, row.data_version, row.position, 0)
        if made is not None and made.data_version == row.data_version:
            return answer
        found = await stream.at(row.position)
        version = Version.of(found)
        assert version is not None
        event = RolledBack(
            *name,
            row.data_version,
            row.position,
            question.reason,
            version.run,
            version.code_version,
            version.inputs,
            version.metadata,
        )
        try:
            positions = await stream.append([event], key=key, expected=looked_at, actor=actor)
        except ConflictError:
            continue
        return msgspec.structs.replace(answer, position=positions[0])
    raise RequestError(
        f"'{name}' was not rolled back",
        cause="so much is being recorded that nothing could be decided in between",
        hint="try again, or pause it first: freshet pause",
    )


async def events_about(stream: EventStream | SqliteReader, name: AssetPartition) -> list[Recorded]:
    """All events about one asset partition."""
    found: list[Recorded] = []
    while batch := await stream.read(
        found[-1].position if found else 0, limit=MAX_BATCH, subject=str(name)
    ):
        found += batch
    return found


async def _found(stream: EventStream, view: View, question: RollbackQuestion) -> VersionRow:
    name = existing(view, question.target)
    if view.staleness.graph.specs[name.asset].is_source:
        raise RequestError(
            f"'{name.asset}' is a source, which is produced outside Freshet",
            hint=f"bring the old content back there, or `freshet emit {name} --version V`",
        )
    rows = version_rows(await events_about(stream, name), view.staleness.made_at(*name))
    return meant(name, rows, question.version)


async def _check_kept(store: Store, name: AssetPartition, row: VersionRow) -> None:
    if "bytes" not in row.metadata:
        raise RequestError(
            f"version {row.data_version} of '{name}' came without a value",
            cause="the asset writes its own data, and said only which version it is",
            hint=f"bring it back where it is, then `freshet observe {name} --version"
            f" {row.data_version}`",
        )
    if await anyio.to_thread.run_sync(store.has, name, row.data_version):
        return
    kept = await anyio.to_thread.run_sync(store.versions, name)
    listed = ", ".join(one.data_version for one in kept)
    raise RequestError(
        f"version {row.data_version} of '{name}' is not kept any more",
        cause=f"the store has {listed or 'none'}",
        hint=f"keep more of them (keep= of the store); or freshet materialize {name}",
    )


def _check_idle(view: View, name: AssetPartition) -> None:
    cell = view.staleness.cell(*name)
    if cell is not None and cell.running:
        raise RequestError(
            f"run {cell.run} of '{name}' is going on: its result would be newer",
            hint=f"wait until it has ended, or `freshet cancel {cell.run}`",
        )


class Restorer:
    """Keeps what people look at in the store at the version that is current in the stream: after
    each rollback, and once on start for those before, as the last daemon may have been cut off.
    While the store is away it is tried again; what is not kept any more is given up.

    What is still to be restored is held: nothing of it is collected meanwhile.
    """

    def __init__(
        self, view: View, stream: EventStream, store: Callable[[], Store], readers: Readers
    ) -> None:
        self._view = view
        self._stream = stream
        self._store = store
        self._readers = readers
        self._woken = anyio.Event()
        self._pending: dict[AssetPartition, int] = {}
        """And how many were added when it was last."""
        self._added = 0
        self._asked: Counter[AssetPartition] = Counter()
        self._away: set[AssetPartition] = set()
        for name in view.catalog.rolled_back:
            self._add(name)

    @contextmanager
    def holding(self, name: AssetPartition) -> Iterator[None]:
        """Nothing of it is collected meanwhile, nor after as long as it is to be restored."""
        self._asked[name] += 1
        self._readers.hold(name)
        try:
            yield
        finally:
            self._asked[name] -= 1
            self._let_go(name)

    def heed(self, recorded: Recorded, view: View) -> None:
        """An event was folded."""
        event = recorded.event
        if isinstance(event, RolledBack):
            self._add(AssetPartition(event.asset, event.partition))
        elif isinstance(event, RunEnd):
            self._woken.set()

    def put_right(self, targets: Iterable[Target]) -> None:
        """A run may have published what is not recorded, or not as the current version: it was
        cancelled at that very moment, or failed half way.
        """
        for target in targets:
            self._add(AssetPartition(target.asset, target.partition))

    async def run(self) -> None:
        """Restore what is to be restored, until cancelled."""
        while True:
            self._woken = anyio.Event()
            for name, number in list(self._pending.items()):
                if await self._restore(name) and self._pending[name] == number:
                    self._pending.pop(name)
                    self._away.discard(name)
                    self._let_go(name)
            with anyio.move_on_after(AGAIN_S if self._away else None):
                await self._woken.wait()

    def _let_go(self, name: AssetPartition) -> None:
        if name not in self._pending and not self._asked[name]:
            del self._asked[name]
            self._readers.release(name)

    def _add(self, name: AssetPartition) -> None:
        self._added += 1
        self._pending[name] = self._added
        self._readers.hold(name)
        self._woken.set()

    async def _restore(self, name: AssetPartition) -> bool:
        """Is it done with? Not while it runs: the run may publish at the same time."""
        if self._is_running(name):
            return False
        position = self._view.staleness.made_at(*name)
        version = Version.of(await self._stream.at(position)) if position else None
        if version is None or "bytes" not in version.metadata:
            return True
        restore = partial(self._store().restore, name, version.data_version)
        try:
            await anyio.to_thread.run_sync(restore)
        except StoreError as error:
            if is_outage(error):
                if name not in self._away:
                    log.warning("the store is away: tried again", asset=str(name), why=str(error))
                self._away.add(name)
                return False
            log.error("what people look at was not rolled back", asset=str(name), why=str(error))
            return True
        return self._view.staleness.made_at(*name) == position and not self._is_running(name)

    def _is_running(self, name: AssetPartition) -> bool:
        cell = self._view.staleness.cell(*name)
        return cell is not None and cell.running
