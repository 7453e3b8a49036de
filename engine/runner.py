"""The runner: carries out one order — load, call, stage, publish — and says how it ended in one
append.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import msgspec
from anyio.abc import TaskGroup

from freshet.engine.assets import Asset
from freshet.engine.checks import Check
from freshet.engine.errors import RequestError, StoreError
from freshet.engine.events import (
    AnyEvent,
    CheckEvaluated,
    Materialized,
    RunFailed,
    RunSucceeded,
)
from freshet.engine.executors.invoke import Failed, Permit, Rejected, in_thread, on_loop, saying
from freshet.engine.inputs import (
    Load,
    Values,
    landed_file,
    load_value,
    loads_of,
    version_in,
    versions_of,
)
from freshet.engine.keys import AssetPartition, PartitionKey
from freshet.engine.orders import Order, Reading, context_of
from freshet.engine.outputs import as_output, check_type, outputs_of, valueless_version
from freshet.engine.parts import Input
from freshet.engine.persist import persist
from freshet.engine.publishing import (
    Audit,
    Draft,
    audit,
    audit_in_thread,
    blocked_by,
    publish,
    stage,
)
from freshet.engine.readings import Taken, arguments_of, take_changes
from freshet.engine.signatures import element_annotation, without_none
from freshet.engine.stores.landing import InputChangedError, still_the_same
from freshet.engine.stores.payloads import Payloads, inline_content
from freshet.engine.stores.store import Store
from freshet.engine.stream import EventStream
from freshet.projections.catalog import Version

MAX_RETRY_DELAY_MS = 300_000
"""Longest wait before a retry: five minutes, so that a repaired outside world is noticed soon."""

PASSING_DELAY_MS = 1000
"""First wait after a file was not the recorded one: the sensor usually tells the news within it."""

MAX_ABANDONED_THREADS = 64
"""Threads of timed-out functions that may linger at once beside the live ones."""


class Work(msgspec.Struct, frozen=True):
    """An order with everything looked up that it needs."""

    order: Order
    asset: Asset
    loads: dict[str, Load]
    versions: dict[int, Version]
    taken: Taken | None = None
    """The changes it reads, of an asset that reads changes."""
    previous: Version | None = None
    """Its own version before, of an asset that reads changes."""

    @property
    def newest_read(self) -> int:
        """Position of the newest change it reads; 0 if there is none."""
        return self.taken.changes[-1].position if self.taken and self.taken.changes else 0

    def inputs(self, number: int) -> tuple[Input, ...]:
        """The inputs recorded of one target."""
        return tuple(
            entry for read in self.order.reads[number] for entry in read.inputs(self.versions)
        )


class Runner:
    """Executes orders in a task group. Whatever a user's function does ends as an event."""

    def __init__(
        self,
        assets: Mapping[str, Asset],
        store: Store,
        stream: EventStream,
        tasks: TaskGroup,
        *,
        slots: int,
        rng: random.Random,
        clock: Callable[[], int],
        timer: Callable[[], float] = time.perf_counter,
        payloads: Payloads | None = None,
        checks: Mapping[str, Sequence[Check]] | None = None,
    ) -> None:
        self._assets = assets
        self._checks = checks or {}
        self._store = store
        self._stream = stream
        self._tasks = tasks
        self._rng = rng
        self._clock = clock
        self._timer = timer
        self._payloads = payloads
        self._threads = anyio.CapacityLimiter(slots + MAX_ABANDONED_THREADS)
        self._scopes: dict[int, anyio.CancelScope] = {}
        self.live = 0
        self.left_behind = 0
        """Functions that outlived their timeout in a thread; they may keep the process from ending.
        """

    def launch(self, order: Order) -> None:
        """Start carrying out the order; returns at once."""
        self.live += 1
        scope = self._scopes[order.run] = anyio.CancelScope()
        name = f"run {order.run} {order.spec.key}"
        self._tasks.start_soon(self._carry_out, order, scope, name=name)

    def cancel(self, run: int) -> None:
        """Stop a run that was cancelled: what it makes is not published, and its end not recorded,
        as that is recorded already. A function in a thread goes on, for nobody.
        """
        scope = self._scopes.get(run)
        if scope is not None:
            scope.cancel()

    async def _carry_out(self, order: Order, scope: anyio.CancelScope) -> None:
        try:
            started = self._timer()
            made: list[AnyEvent] | Failed | None = None
            with scope:
                if not scope.cancel_called:
                    made = await self._attempt(order)
            if made is None:
                await anyio.to_thread.run_sync(self._store.discard, order.run)
                return
            duration_us = int((self._timer() - started) * 1_000_000)
            try:
                await persist(self._stream, self._ending(order, made, duration_us))
            except RequestError as error:  # in what the function said: it ends no engine
                await persist(self._stream, [RunFailed(order.run, "value", saying(error))])
        finally:
            del self._scopes[order.run]
            self.live -= 1

    async def _attempt(self, order: Order) -> list[AnyEvent] | Failed:
        """One attempt, in one worker thread or on the loop; never raises for what user code
        does.
        """
        asset = self._assets[order.spec.key]
        timeout = order.spec.timeout_ms / 1000 if order.spec.timeout_ms is not None else None
        try:
            loads = loads_of(order)
            work = Work(order, asset, loads, await versions_of(order, loads, self._stream.at))
            if order.reading is not None:
                work = await self._with_changes(work, order.reading)
        except Rejected as rejected:
            return Failed(rejected.kind, rejected.error, passing=rejected.passing)
        return await self._call(work, timeout)

    async def _with_changes(self, work: Work, reading: Reading) -> Work:
        taken = await take_changes(self._stream, work.order, reading)
        previous = None
        if reading.previous:
            previous = version_in(await self._stream.at(reading.previous), reading.previous)
        return msgspec.structs.replace(work, taken=taken, previous=previous)

    async def _call(self, work: Work, timeout: float | None) -> list[AnyEvent] | Failed:
        if work.asset.is_async:
            return await on_loop(lambda: self._on_loop(work), timeout)
        try:
            result = await in_thread(
                lambda permit: self._in_thread(work, permit), timeout, self._threads
            )
        except anyio.get_cancelled_exc_class():
            self.left_behind += 1
            raise
        if isinstance(result, Failed) and result.kind == "timeout":
            self.left_behind += 1
        return result

    def _in_thread(self, work: Work, permit: Permit) -> list[AnyEvent] | Failed:
        arguments = self._arguments(work)
        value = work.asset.function(**arguments)
        self._check_files(work, arguments)
        return self._keep(work, value, permit)

    async def _on_loop(self, work: Work) -> list[AnyEvent] | Failed:
        if work.loads and not self._light(work):
            arguments = await anyio.to_thread.run_sync(
                lambda: self._arguments(work, lazy=False), limiter=self._threads
            )
        else:
            arguments = self._arguments(work)
        value = await work.asset.function(**arguments)
        self._check_files(work, arguments)
        light = self._store.in_memory or (
            work.order.spec.batch == 1 and as_output(value).value is None
        )
        if light and work.order.spec.key not in self._checks:
            return self._keep(work, value, Permit())
        return await in_thread(lambda permit: self._keep(work, value, permit), None, self._threads)

    def _light(self, work: Work) -> bool:
        """Can the inputs be loaded without leaving the loop?"""
        return self._store.in_memory and not any(
            load.read.is_source or not load.is_eager for load in work.loads.values()
        )

    # --- reading ------------------------------------------------------------------------------

    def _arguments(self, work: Work, *, lazy: bool = True) -> dict[str, Any]:
        """What the function is called with; unless `lazy`, with every value loaded."""
        arguments: dict[str, Any] = {}
        for parameter, load in work.loads.items():
            try:
                arguments[parameter] = self._load(work, parameter, load, lazy)
            except StoreError as error:
                raise _unreadable(parameter, error) from error
        if work.taken is not None:
            content = self._payloads.content if self._payloads is not None else inline_content
            previous = partial(self._own_value, work) if work.previous is not None else None
            arguments |= arguments_of(work.taken, work.asset.changes_of, content, previous)
        if work.asset.takes_context:
            arguments["context"] = context_of(work.order)
        return arguments

    def _own_value(self, work: Work) -> Any:
        """The value of the target as its last success left it. Raises StoreError."""
        target, version = work.order.targets[0], work.previous
        if version is None:
            return None
        if not version.run:
            raise StoreError(
                f"the value of {target.asset} was observed as {version.data_version!r} at position"
                f" {version.position}, not made: what lies there now is not known",
                hint=f"`freshet invalidate {target.asset}` lets it begin with the first change",
            )
        if "bytes" not in version.metadata:
            return None  # it writes its own data, and said only which version it is
        annotation = without_none(work.asset.annotations.get("return"))
        name = AssetPartition(target.asset, target.partition)
        return self._store.load(name, version.data_version, annotation)

    def _load(self, work: Work, parameter: str, load: Load, lazy: bool) -> Any:
        annotation = without_none(work.asset.annotations.get(parameter))
        if not load.read.many:
            if not load.positions:
                return None  # it is missing, and the asset goes on without
            key, position = next(iter(load.positions.items()))
            return load_value(self._store, load.read, key, work.versions[position], annotation)
        each = element_annotation(annotation)

        def loader(key: PartitionKey, version: Version) -> Any:
            try:
                return load_value(self._store, load.read, key, version, each)
            except StoreError as error:
                raise _unreadable(f"{parameter}[{key!r}]", error) from error

        values = Values(load, work.versions, self._fetch, loader)
        return values if lazy and not work.asset.is_async else dict(values)

    def _fetch(self, position: int) -> Version:
        """A version that was not looked up before the run began; called in a worker thread."""
        return version_in(anyio.from_thread.run(self._stream.at, position), position)

    def _check_files(self, work: Work, arguments: Mapping[str, Any]) -> None:
        """A function that was given a path may have read a file that changed meanwhile: then all is
        void.
        """
        for parameter, load in work.loads.items():
            if not load.read.is_source or not _may_be_path(work.asset, parameter, load):
                continue
            value = arguments[parameter]
            positions = load.positions.values()
            for version in (
                list(value.seen.values())
                if isinstance(value, Values)
                else [work.versions[p] for p in positions if p in work.versions]
            ):
                landed = landed_file(version)
                if landed is not None and not still_the_same(*landed):
                    text = f"'{landed[0]}' changed while it was being read"
                    raise Rejected("input", text, passing=True)

    # --- writing ------------------------------------------------------------------------------

    def _draft(self, work: Work, value: object) -> Draft:
        """Stage what was returned. Raises Rejected when it does not fit, or cannot be stored."""
        order = work.order
        outputs = outputs_of(order, value)
        for output in outputs:
            if output.value is not None:
                check_type(work.asset, output.value, batch=order.spec.batch > 1)
        return stage(self._store, order, outputs)

    def _keep(self, work: Work, value: object, permit: Permit) -> list[AnyEvent] | Failed:
        """Stage, audit and publish; all partitions or none."""
        draft = self._draft(work, value)
        return self._published(work, draft, permit, audit_in_thread(self._audit(work, draft)))

    def _audit(self, work: Work, draft: Draft) -> Audit:
        checks = self._checks.get(work.order.spec.key, ())
        return audit(self._store, draft, checks, context_of(work.order) if checks else None)

    def _published(
        self, work: Work, draft: Draft, permit: Permit, found: list[CheckEvaluated]
    ) -> list[AnyEvent] | Failed:
        """Publish what has passed, unless the run was given up meanwhile."""
        failed = blocked_by(found)
        if failed is not None:
            self._store.discard(work.order.run)
            return failed
        late = publish(self._store, draft, permit)
        if late is not None:
            return late
        return [
            *found,
            *(self._materialized(work, n, draft) for n in range(len(draft.outputs))),
        ]

    def _materialized(self, work: Work, number: int, draft: Draft) -> Materialized:
        target, output, staged = (
            work.order.targets[number],
            draft.outputs[number],
            draft.staged[number],
        )
        inputs = work.inputs(number)
        if staged is not None:
            version, metadata = staged.data_version, {**output.metadata, **staged.metadata}
        else:
            version = output.data_version or valueless_version(
                work.order, number, inputs, work.newest_read
            )
            metadata = output.metadata
        return Materialized(
            target.asset,
            target.partition,
            work.order.run,
            version,
            target.code_version,
            inputs,
            metadata,
            work.taken.absorbed if work.taken is not None else None,
        )

    def _ending(
        self, order: Order, made: list[AnyEvent] | Failed, duration_us: int
    ) -> list[AnyEvent]:
        if isinstance(made, Failed):
            retry_at = self._retry_at(order, made)
            ended = RunFailed(order.run, made.kind, made.error, made.detail, duration_us, retry_at)
            return [*made.found, ended]
        return [*made, RunSucceeded(order.run, duration_us)]

    def _retry_at(self, order: Order, failed: Failed) -> int | None:
        """Exponential backoff with full jitter: a random moment in (0, delay · 2^(attempt-1)].

        What passes by itself is tried again without end: a file that changed and changed back would
        otherwise leave nothing that starts the next run.
        """
        spec = order.spec
        if failed.kind == "check":
            # The same value would fail again; but of a batch each is tried alone, at once.
            return self._clock() if len(order.targets) > 1 else None
        if order.attempt > spec.retries and not failed.passing:
            return None
        delay_ms = (
            max(spec.retry_delay_ms, PASSING_DELAY_MS) if failed.passing else spec.retry_delay_ms
        )
        ceiling_ms = min(delay_ms * 2 ** min(order.attempt - 1, 30), MAX_RETRY_DELAY_MS)
        return self._clock() + int(self._rng.uniform(0, ceiling_ms) * 1000)


def _unreadable(what: str, error: StoreError) -> Rejected:
    text = f"parameter '{what}': {error}"
    return Rejected("input", text, passing=isinstance(error, InputChangedError))


def _may_be_path(asset: Asset, parameter: str, load: Load) -> bool:
    annotation = without_none(asset.annotations.get(parameter))
    element = element_annotation(annotation) if load.read.many else annotation
    return element is None or element is Path
