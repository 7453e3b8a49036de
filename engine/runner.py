"""The runner: carries out one order — load, call, stage, publish — and says how it ended in one
append.
"""

import random
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from freshet.engine.assets import Asset, element_annotation
from freshet.engine.context import Context, Output
from freshet.engine.errors import StoreError
from freshet.engine.events import AnyEvent, Materialized, RunFailed, RunSucceeded
from freshet.engine.executors.invoke import Failed, Permit, Rejected, in_thread, on_loop
from freshet.engine.keys import AssetPartition
from freshet.engine.orders import Load, Order
from freshet.engine.persist import persist
from freshet.engine.specs import Plain
from freshet.engine.stores.landing import InputChangedError, Landed, load_landed, still_the_same
from freshet.engine.stores.store import Store
from freshet.engine.stream import EventStream
from freshet.projections.catalog import Version

MAX_RETRY_DELAY_MS = 300_000
"""Longest wait before a retry: five minutes, so that a repaired outside world is noticed soon."""

PASSING_DELAY_MS = 1000
"""First wait after a file was not the recorded one: the sensor usually tells the news within it."""

MAX_ABANDONED_THREADS = 64
"""Threads of timed-out functions that may linger at once beside the live ones."""


class Made(msgspec.Struct, frozen=True):
    """What a finished function leaves to be recorded."""

    data_version: str
    metadata: dict[str, Plain]


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
    ) -> None:
        self._assets = assets
        self._store = store
        self._stream = stream
        self._tasks = tasks
        self._rng = rng
        self._clock = clock
        self._timer = timer
        self._threads = anyio.CapacityLimiter(slots + MAX_ABANDONED_THREADS)
        self.live = 0
        self.left_behind = 0
        """Functions that outlived their timeout in a thread; they may keep the process from ending.
        """

    def launch(self, order: Order) -> None:
        """Start carrying out the order; returns at once."""
        self.live += 1
        self._tasks.start_soon(self._carry_out, order, name=f"run {order.run} {order.key}")

    async def _carry_out(self, order: Order) -> None:
        try:
            started = self._timer()
            made = await self._attempt(order)
            duration_us = int((self._timer() - started) * 1_000_000)
            await persist(self._stream, self._ending(order, made, duration_us))
        finally:
            self.live -= 1

    async def _attempt(self, order: Order) -> Made | Failed:
        """One attempt, in one worker thread or on the loop; never raises for what user
        code does.
        """
        asset = self._assets[order.spec.key]
        timeout = order.spec.timeout_ms / 1000 if order.spec.timeout_ms is not None else None
        if asset.is_async:
            return await on_loop(lambda: self._on_loop(order, asset), timeout)
        try:
            result = await in_thread(
                lambda permit: self._in_thread(order, asset, permit), timeout, self._threads
            )
        except anyio.get_cancelled_exc_class():
            self.left_behind += 1
            raise
        if isinstance(result, Failed) and result.kind == "timeout":
            self.left_behind += 1
        return result

    def _in_thread(self, order: Order, asset: Asset, permit: Permit) -> Made | Failed:
        arguments = self._arguments(order, asset)
        value = asset.function(**arguments)
        self._check_files(order, asset)
        return self._keep(order, asset, value, permit)

    async def _on_loop(self, order: Order, asset: Asset) -> Made | Failed:
        if order.loads and not self._light(order):
            arguments = await anyio.to_thread.run_sync(
                self._arguments, order, asset, limiter=self._threads
            )
        else:
            arguments = self._arguments(order, asset)
        value = await asset.function(**arguments)
        self._check_files(order, asset)
        if self._store.in_memory or _plain(value).value is None:
            return self._keep(order, asset, value, Permit())
        permit = Permit()
        return await anyio.to_thread.run_sync(
            self._keep, order, asset, value, permit, limiter=self._threads
        )

    def _light(self, order: Order) -> bool:
        """Can the inputs be loaded without leaving the loop?"""
        return self._store.in_memory and not any(load.is_source for load in order.loads.values())

    # --- reading ------------------------------------------------------------------------------

    def _arguments(self, order: Order, asset: Asset) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for parameter, load in order.loads.items():
            annotation = asset.annotations.get(parameter)
            try:
                arguments[parameter] = self._load(load, annotation)
            except StoreError as error:
                passing = isinstance(error, InputChangedError)
                text = f"parameter '{parameter}': {error}"
                raise Rejected("input", text, passing=passing) from error
        if asset.takes_context:
            arguments["context"] = Context(
                order.spec.key, order.target.partition, order.run, order.attempt, order.started_at
            )
        return arguments

    def _load(self, load: Load, annotation: Any) -> Any:
        if not load.many:
            partition, version = next(iter(load.versions.items()))
            return self._load_one(load, partition, version, annotation)
        each = element_annotation(annotation)
        return {
            partition: self._load_one(load, partition, version, each)
            for partition, version in load.versions.items()
        }

    def _load_one(self, load: Load, partition: str, version: Version, annotation: Any) -> Any:
        landed = landed_file(version) if load.is_source else None
        if landed is not None:
            return load_landed(landed[0], annotation, landed[1])
        if load.is_source:
            return version.data_version
        if "bytes" not in version.metadata:
            return None  # the asset writes its own data and said only which version it is
        return self._store.load(
            AssetPartition(load.asset, partition), version.data_version, annotation
        )

    def _check_files(self, order: Order, asset: Asset) -> None:
        """A function that was given a path may have read a file that changed meanwhile: then all is
        void.
        """
        for parameter, load in order.loads.items():
            if not load.is_source or not _may_be_path(asset, parameter, load):
                continue
            for version in load.versions.values():
                landed = landed_file(version)
                if landed is not None and not still_the_same(*landed):
                    text = f"'{landed[0]}' changed while it was being read"
                    raise Rejected("input", text, passing=True)

    # --- writing ------------------------------------------------------------------------------

    def _keep(self, order: Order, asset: Asset, value: object, permit: Permit) -> Made | Failed:
        """Stage and publish, unless the run was given up meanwhile."""
        output = _plain(value)
        if output.value is None:
            if not permit.take():
                return Failed("timeout", "given up")
            return Made(output.data_version or _valueless_version(order), output.metadata)
        _check_type(asset, output.value)
        try:
            staged = self._store.stage(order.key, order.run, output.value)
            if not permit.take():
                self._store.discard(order.run)
                return Failed("timeout", "given up")
            self._store.publish(staged)
        except StoreError as error:
            self._store.discard(order.run)
            raise Rejected("store", str(error)) from error
        return Made(staged.data_version, {**output.metadata, **staged.metadata})

    def _ending(self, order: Order, made: Made | Failed, duration_us: int) -> list[AnyEvent]:
        if isinstance(made, Failed):
            retry_at = self._retry_at(order, made)
            return [RunFailed(order.run, made.kind, made.error, made.detail, duration_us, retry_at)]
        return [
            Materialized(
                order.spec.key,
                order.target.partition,
                order.run,
                made.data_version,
                order.target.code_version,
                order.inputs,
                made.metadata,
            ),
            RunSucceeded(order.run, duration_us),
        ]

    def _retry_at(self, order: Order, failed: Failed) -> int | None:
        """Exponential backoff with full jitter: a random moment in (0, delay · 2^(attempt-1)].

        What passes by itself is tried again without end: a file that changed and changed back would
        otherwise leave nothing that starts the next run.
        """
        spec = order.spec
        if order.attempt > spec.retries and not failed.passing:
            return None
        delay_ms = (
            max(spec.retry_delay_ms, PASSING_DELAY_MS) if failed.passing else spec.retry_delay_ms
        )
        ceiling_ms = min(delay_ms * 2 ** min(order.attempt - 1, 30), MAX_RETRY_DELAY_MS)
        return self._clock() + int(self._rng.uniform(0, ceiling_ms) * 1000)


def landed_file(version: Version) -> tuple[Path, Landed] | None:
    """Where a source's file lies and how to recognise it, or None when the source is no file."""
    path, size, mtime_ns = (version.metadata.get(name) for name in ("path", "size", "mtime_ns"))
    if not isinstance(path, str) or not isinstance(size, int) or not isinstance(mtime_ns, int):
        return None
    return Path(path), Landed(version.data_version, size, mtime_ns)


def _plain(value: object) -> Output:
    return value if isinstance(value, Output) else Output(value)


def _valueless_version(order: Order) -> str:
    """The version of an asset that returned no value: what it was made with is all we know
    of it.
    """
    text = f"{order.spec.key}|{order.target.partition}|{order.target.code_version}|" + "|".join(
        f"{i.asset}@{i.partition}={i.data_version}" for i in order.inputs
    )
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _may_be_path(asset: Asset, parameter: str, load: Load) -> bool:
    annotation = asset.annotations.get(parameter)
    element = element_annotation(annotation) if load.many else annotation
    return element is None or element is Path


def _check_type(asset: Asset, value: object) -> None:
    """A return annotation that is a plain class is a promise; what breaks it is never published."""
    expected = asset.annotations.get("return")
    if isinstance(expected, type) and expected is not Output and not _is_a(value, expected):
        raise Rejected(
            "value",
            f"'{asset.key}' should return {expected.__name__} but returned {type(value).__name__}",
        )


def _is_a(value: object, expected: type) -> bool:
    if expected is float:
        return isinstance(value, int | float)
    try:
        return isinstance(value, expected)
    except TypeError:  # a typed dict or a protocol cannot be asked
        return True
