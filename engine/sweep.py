"""The sweep: is every value still where it was published? What is gone is made again."""

from collections.abc import Iterator
from itertools import islice

import anyio
import anyio.to_thread
import structlog

from freshet.engine.errors import StoreError
from freshet.engine.events import Observed
from freshet.engine.keys import AssetPartition
from freshet.engine.loop import Loop
from freshet.engine.persist import persist
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


async def keep_sweeping(loop: Loop, stream: EventStream) -> None:
    """Sweep now and again, until cancelled."""
    while True:
        await sweep(loop.view, stream, loop.definitions.store)
        await anyio.sleep(EVERY_S)


async def sweep(view: View, stream: EventStream, store: Store, *, pause_s: float = PAUSE_S) -> int:
    """Look for the current value of every asset partition that was made here; record of each that
    is not there that it is gone (`Observed` without a version), so that its policy has it made
    again. Returns how many those are.
    """
    gone = 0
    names = _made(view)
    while some := list(islice(names, AT_ONCE)):
        found = {}
        for name in some:
            position = view.staleness.made_at(*name)
            version = Version.of(await stream.at(position)) if position else None
            if version is not None and version.run and "bytes" in version.metadata:
                found[name] = version
        lost = await anyio.to_thread.run_sync(_lost, store, found)
        gone += await _withdraw(view, stream, lost)
        if len(some) == AT_ONCE:
            await anyio.sleep(pause_s)
    return gone


def _made(view: View) -> Iterator[AssetPartition]:
    for state in list(view.staleness.order):
        if not state.is_source:
            for i in range(state.n):
                if i < state.n and state.there[i]:
                    yield state.key(i)


def _lost(store: Store, versions: dict[AssetPartition, Version]) -> dict[AssetPartition, Version]:
    try:
        return {
            name: version
            for name, version in versions.items()
            if not store.has(name, version.data_version)
        }
    except (StoreError, OSError) as error:
        log.warning("cannot look into the store", error=str(error))
        return {}  # what cannot be looked at is not gone


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
