"""The real reactor and runner on streams and stores in memory, with a clock that tests move."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

import anyio

from freshet.engine.assets import Asset, Source, asset
from freshet.engine.checks import Check, checks_by_asset
from freshet.engine.definitions import Definitions
from freshet.engine.events import (
    AnyEvent,
    Demanded,
    GraphDeployed,
    Recorded,
    RunStarted,
    SourceChanged,
)
from freshet.engine.graph import Graph
from freshet.engine.keys import AssetKey, parse_asset_partition
from freshet.engine.loop import Loop
from freshet.engine.memory import MemoryStream
from freshet.engine.multi import MultiAsset, flattened
from freshet.engine.policies import Eager
from freshet.engine.resolution import resolve
from freshet.engine.resources import declared
from freshet.engine.runner import Runner
from freshet.engine.stores.memory import MemoryStore
from freshet.engine.stores.store import Store
from freshet.projections.catalog import Version
from freshet.projections.causes import Status
from freshet.projections.view import View

Definition = Asset | Source | MultiAsset
Assets = dict[AssetKey, Asset]
Checks = dict[AssetKey, tuple[Check, ...]]


def fitted(
    definitions: Sequence[Definition | Check],
    pools: Mapping[str, int] | None = None,
    group_limits: Mapping[str, int] | None = None,
    resources: Collection[str] = (),
) -> tuple[Graph, Assets, Checks]:
    """The graph of what a project would have, with its assets and its checks."""
    items = flattened(definitions)
    known = {item.key: item for item in items if isinstance(item, Asset | Source)}
    given = [one for one in definitions if isinstance(one, Check)]
    checks = checks_by_asset(given, known, resources)
    assets = list(known.values())
    found = resolve(
        assets,
        Eager(),
        checks=checks,
        pools=pools,
        group_limits=group_limits,
        resources=resources,
    )
    return *found, checks


class Engine:
    """One engine under test. Time stands still unless `advance` moves it. One with a `former` takes
    its stream and store over.
    """

    def __init__(
        self,
        definitions: Sequence[Definition | Check],
        slots: int,
        pools: Mapping[str, int] | None = None,
        group_limits: Mapping[str, int] | None = None,
        resources: Mapping[str, object] | None = None,
        store: Store | None = None,
        *,
        former: "Engine | None" = None,
    ) -> None:
        self.now = 1_700_000_000_000_000
        self.timer = perf_counter
        """By which runs are timed (s)."""
        self.graph, assets, checks = fitted(definitions, pools, group_limits, resources or {})
        self.resources = declared(resources or {})
        self.stream: MemoryStream = (
            former.stream if former is not None else MemoryStream(self.clock)
        )
        kept = former.store if former is not None else store
        self.store: Any = kept if kept is not None else MemoryStore()
        self.definitions = Definitions(assets, self.store, checks, self.resources)
        self.loop = Loop(
            View(),
            self.stream,
            self.definitions,
            slots=slots,
            clock=self.clock,
            make_runner=partial(Runner, timer=self.elapsed),
        )

    def clock(self) -> int:
        return self.now

    def elapsed(self) -> float:
        return self.timer()

    @property
    def view(self) -> View:
        return self.loop.view

    async def say(self, *events: AnyEvent) -> None:
        """Record events and wait until the loop has folded them (not until runs have ended)."""
        await self.stream.append(events)
        await self.folded()

    async def folded(self) -> None:
        while self.view.position < self.stream.head:
            await anyio.sleep(0)

    async def deploy(self) -> None:
        await self.say(GraphDeployed(self.graph.digest, tuple(self.graph.specs.values())))

    async def redeploy(
        self,
        *definitions: Definition | Check,
        resources: Mapping[str, object] | None = None,
    ) -> None:
        """Other definitions, while everything goes on; what runs goes on with its own."""
        self.graph, assets, checks = fitted(definitions, None, None, resources or {})
        self.definitions = Definitions(assets, self.store, checks, declared(resources or {}))
        graph = GraphDeployed(self.graph.digest, tuple(self.graph.specs.values()))
        await self.loop.deploy(graph, self.definitions)

    async def change(self, name: str, version: str) -> None:
        """A source is seen with this version (empty: gone), a second after whatever was before."""
        self.advance(1.0)
        target = parse_asset_partition(name)
        await self.say(SourceChanged(target.asset, target.partition, version))

    async def demand(self, *names: str) -> None:
        await self.say(Demanded(tuple(parse_asset_partition(name) for name in names)))

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)

    async def quiet(self) -> None:
        """Everything recorded is folded, nothing runs and nothing is ready (retries included)."""
        await self.loop.act()
        await self.loop.quiet()

    async def quiet_at(self, seconds: float) -> None:
        """Time passes, and what fell due meanwhile is done."""
        self.advance(seconds)
        await self.loop.act()
        await self.settled()

    async def settled(self) -> None:
        """As `quiet`, but what waits for a retry time is left waiting."""
        while (
            self.view.runs.live
            or any(s.spec.key not in self.view.circuits.open for s in self.view.staleness.ready)
            or self.view.position < self.stream.head
        ):
            await anyio.sleep(0)

    async def live_run(self) -> int:
        """Wait until something runs; the run, or the first of several."""
        while not self.view.runs.live:
            await anyio.sleep(0)
        return next(iter(self.view.runs.live))

    def status(self, name: str) -> Status:
        found = self.view.status(*parse_asset_partition(name))
        assert found is not None, name
        return found

    async def version(self, asset: str, partition: str = "") -> Version | None:
        """The current version of an asset partition, defined or not, from the stream."""
        position = self.view.staleness.made_at(asset, partition)
        return Version.of(await self.stream.at(position)) if position else None

    async def history(self, after: int = 0) -> list[Recorded]:
        events: list[Recorded] = []
        while batch := await self.stream.read(after + len(events)):
            events.extend(batch)
        return events

    async def runs(self, after: int = 0) -> list[str]:
        """What was started after a position, in order, as `asset` or `asset@partition`."""
        started = [r.event for r in await self.history(after) if isinstance(r.event, RunStarted)]
        return [
            f"{t.asset}@{t.partition}" if t.partition else t.asset
            for event in started
            for t in event.targets
        ]


def gated() -> tuple[Asset, anyio.Event]:
    """The asset `slow`, made of a source `raw`, which runs until the event is set."""
    gate = anyio.Event()

    async def slow(raw: str) -> str:
        await gate.wait()
        return raw

    return asset(slow), gate


@asynccontextmanager
async def engine(
    *definitions: Definition | Check,
    slots: int = 8,
    deploy: bool = True,
    pools: Mapping[str, int] | None = None,
    group_limits: Mapping[str, int] | None = None,
    resources: Mapping[str, object] | None = None,
    store: Store | None = None,
) -> AsyncIterator[Engine]:
    """A live engine with these definitions; everything is cancelled at the end of the block."""
    under_test = Engine(definitions, slots, pools, group_limits, resources, store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(under_test.loop.run)
        if deploy:
            await under_test.deploy()
        yield under_test
        tasks.cancel_scope.cancel()
