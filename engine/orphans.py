"""The hook for assets that were built and are not defined any more: called at most once for each,
and only where a project has one.
"""

from collections.abc import Callable
from functools import partial

import anyio
import anyio.from_thread
import anyio.to_thread
import structlog

from freshet.engine.errors import StoreError
from freshet.engine.events import GraphDeployed, Observed, OrphanHandled, Recorded, RunEnd
from freshet.engine.keys import AssetKey
from freshet.engine.orphan import OnRemoved, Orphan
from freshet.engine.persist import persist
from freshet.engine.stores.router import store_of
from freshet.engine.stores.store import Store
from freshet.engine.stream import MAX_BATCH, EventStream
from freshet.projections.orphans import OrphanRow, orphan_rows
from freshet.projections.view import View

log = structlog.get_logger("freshet.orphans")


class Undertaker:
    """Tells the hook of each orphan. That it is told is recorded first: a hook that was cut off, or
    raised, is not called again; but should the asset return and go again, it is.
    """

    def __init__(
        self,
        hook: Callable[[], OnRemoved | None],
        view: View,
        stream: EventStream,
        store: Callable[[], Store],
    ) -> None:
        self._hook = hook
        self._view = view
        self._stream = stream
        self._store = store
        self._woken = anyio.Event()
        self._told: set[tuple[AssetKey, int]] = set()

    def heed(self, recorded: Recorded, view: View) -> None:
        """An event was folded: there may be orphans, or one that was waiting for its last run."""
        if isinstance(recorded.event, GraphDeployed | RunEnd):
            self._woken.set()

    async def run(self) -> None:
        """Tell the hook, until cancelled."""
        while True:
            self._woken = anyio.Event()
            hook = self._hook()  # of the definitions that are live now
            if hook is not None:
                for key in list(self._view.catalog.unhandled):
                    await self._tell(key, hook)
            await self._woken.wait()

    async def _tell(self, key: AssetKey, hook: OnRemoved) -> None:
        if any(name.asset == key for name in self._view.staleness.ghosts):
            return  # its last run is alive: the end of that wakes
        for row in orphan_rows(self._view, key):
            if (key, row.removed_at) in self._told:
                continue  # just now: it is not folded yet
            self._told.add((key, row.removed_at))
            await persist(self._stream, [OrphanHandled(key, row.removed_at)])
            store = store_of(self._store(), key, row.store)
            orphan = Orphan(key, row.partitions, store, partial(self._forget, row))
            try:
                await anyio.to_thread.run_sync(hook, orphan, abandon_on_cancel=True)
            except Exception as error:  # recorded: in the log; the hook is not called again
                log.error("on_removed raised", asset=key, why=f"{type(error).__name__}: {error}")

    def _forget(self, row: OrphanRow) -> None:
        """That its versions are gone is recorded before they are: nobody relies on what is not
        there. Called in the thread of the hook.
        """
        if row.asset in self._view.catalog.definitions:
            raise StoreError(
                f"'{row.asset}' is defined again: nothing of it was deleted",
                hint="it is an orphan no more",
            )
        gone = [Observed(row.asset, partition) for partition in row.partitions]
        for start in range(0, len(gone), MAX_BATCH):
            anyio.from_thread.run(persist, self._stream, gone[start : start + MAX_BATCH])
