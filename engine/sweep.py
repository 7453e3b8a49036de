"""The sweep: is every value still where it was published? What is gone is made again."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from freshet.engine.errors import StoreError
from freshet.engine.events import Observed
from freshet.engine.keys import AssetPartition
from freshet.engine.loop import Loop
from freshet.engine.orders import Order
from freshet.engine.persist import persist
from freshet.engine.stores.router import store_of
from freshet.engine.stores.store import Store
from freshet.engine.stream import EventStream
from freshet.projections.catalog import Version
from freshet.projections.view import View

EVERY_S = 3600.0
"""Between two sweeps."""

AT_ONCE = 100
"""Values looked for in one go: some ten milliseconds."""

PAUSE_S = 5.0
"""After each go, so that a sweep over however many values costs less than a hundredth of a core."""

GONE = "its value is not in the store any more"

log = structlog.get_logger("freshet.daemon")


class Sweeper:
    """Sweeps on start and every hour, and looks at once for what a run could not load."""

    def __init__(self, loop: Loop, stream: EventStream) -> None:
        self._loop = loop
        self._stream = stream
        self._missed: dict[AssetPartition, None] = {}
        self._woken = anyio.Event()

    def missed(self, order: Order) -> None:
        """A run could not load an input; the first of them are looked for, a sweep finds others."""
        names = (
            AssetPartition(r.asset, key) for t in order.reads for r in t for key, _ in r.items()
        )
        self._missed |= dict.fromkeys(islice(names, AT_ONCE))
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look)
            while True:
                await sweep(self._loop.view, self._stream, self._store)
                await anyio.sleep(EVERY_S)

    async def _look(self) -> None:
        while True:
            await self._woken.wait()
            self._woken = anyio.Event()
            names, self._missed = list(self._missed), {}
            await look_for(self._loop.view, self._stream, self._store, names)

    def _store(self) -> Store:
        """That of the definitions that are live now."""
        return self._loop.definitions.store


async def sweep(
    view: View, stream: EventStream, store: Callable[[], Store], *, pause_s: float = PAUSE_S
) -> int:
    """Look for the current value of every asset partition that was made here. Returns how many of
    them are gone.
    """
    gone = 0
    names = _made(view)
    while some := list(islice(names, AT_ONCE)):
        gone += await look_for(view, stream, store, some)
        if len(some) == AT_ONCE:
            await anyio.sleep(pause_s)
    return gone


async def look_for(
    view: View, stream: EventStream, store: Callable[[], Store], names: Iterable[AssetPartition]
) -> int:
    """Look for the current values of these; record of each that is not there that it is gone
    (`Observed` without a version), so that its policy has it made again. Returns how many.
    """
    found = {}
    for name in names:
        position = view.staleness.made_at(*name)
        version = Version.of(await stream.at(position)) if position else None
        if version is not None and version.run and "bytes" in version.metadata:
            found[name] = version
    asked = store()
    lost = await anyio.to_thread.run_sync(_lost, asked, found)
    if store() is not asked:
        return 0  # there is another one now: what was looked for may be there
    return await _withdraw(view, stream, lost)


def _made(view: View) -> Iterator[AssetPartition]:
    for state in list(view.staleness.order):
        if not state.is_source:
            for i in range(state.n):
                if i < state.n and state.there[i]:
                    yield state.key(i)


def _lost(store: Store, versions: dict[AssetPartition, Version]) -> dict[AssetPartition, Version]:
    bare: dict[int, bool] = {}
    lost = {}
    try:
        for name, version in versions.items():
            own = store_of(store, name.asset)
            if id(own) not in bare:
                bare[id(own)] = _is_bare(own)
            if not bare[id(own)] and not own.has(name, version.data_version):
                lost[name] = version
        return lost
    except (StoreError, OSError) as error:
        log.warning("cannot look into the store", error=str(error))
        return {}  # what cannot be looked at is not gone


def _is_bare(store: Store) -> bool:
    """A folder that is there and empty is what a mount point looks like without its volume; one
    that somebody deleted is not there.
    """
    root = getattr(store, "root", None)
    bare = isinstance(root, Path) and root.is_dir() and not any(root.iterdir())
    if bare:
        log.warning("the folder of the store is empty: is its volume mounted?", folder=str(root))
    return bare


async def _withdraw(view: View, stream: EventStream, lost: dict[AssetPartition, Version]) -> int:
    """Record what is gone, unless it has been made anew meanwhile, or is just being made."""
    events = []
    for name, version in lost.items():
        cell = view.staleness.cell(*name)
        if cell is not None and cell.made_at == version.position and not cell.running:
            log.warning("value is gone", asset=str(name), version=version.data_version)
            events.append(Observed(name.asset, name.partition, "", {"reason": GONE}))
    if events:
        await persist(stream, events)
    return len(events)
