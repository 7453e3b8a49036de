"""The runner: carries out one order — load, call, stage, publish — and says how it ended in one
append.
"""

import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import anyio
import anyio.from_thread
import msgspec
import structlog
from anyio.abc import TaskGroup

from freshet.engine.commands import Command
from freshet.engine.definitions import Definitions
from freshet.engine.errors import RequestError, StoreError
from freshet.engine.events import (
    AnyEvent,
    JobSubmitted,
    Materialized,
    ResultRefused,
    RunFailed,
    RunSucceeded,
)
from freshet.engine.executors.invoke import (
    Failed,
    Permit,
    Rejected,
    apart,
    failure,
    in_thread,
    on_loop,
    readable,
    saying,
)
from freshet.engine.executors.pool import Worker
from freshet.engine.executors.surroundings import AROUND, Surroundings
from freshet.engine.executors.workshop import Workshop
from freshet.engine.inputs import (
    loads_of,
    version_in,
    versions_of,
)
from freshet.engine.intents import Intents
from freshet.engine.keys import AssetPartition
from freshet.engine.lending import Lender
from freshet.engine.orders import Order, Reading
from freshet.engine.outputs import as_output
from freshet.engine.parts import FailureKind, Target
from freshet.engine.persist import persist
from freshet.engine.publishing import Draft
from freshet.engine.readers import Readers
from freshet.engine.readings import take_changes
from freshet.engine.secrets import is_told_in
from freshet.engine.stores.payloads import Payloads
from freshet.engine.stores.store import Store
from freshet.engine.stream import EventStream
from freshet.engine.work import Work, check_lent
from freshet.projections.catalog import Version

log = structlog.get_logger("freshet.runner")

MAX_RETRY_DELAY_MS = 300_000
"""Longest wait before a retry: five minutes, so that a repaired outside world is noticed soon."""

PASSING_DELAY_MS = 1000
"""First wait after a file was not the recorded one: the sensor usually tells the news within it."""

PARTLY: tuple[FailureKind | Literal[""], ...] = ("store", "infrastructure")
"""Failures after which some of several outputs may have been published, and others not."""

MAX_ABANDONED_THREADS = 64
"""Threads of timed-out functions that may linger at once beside the live ones."""


class Runner:
    """Executes orders in a task group. Whatever a user's function does ends as an event."""

    def __init__(
        self,
        definitions: Definitions,
        stream: EventStream,
        tasks: TaskGroup,
        *,
        slots: int,
        rng: random.Random,
        clock: Callable[[], int],
        timer: Callable[[], float] = time.perf_counter,
        payloads: Payloads | None = None,
        intents: Intents | None = None,
        lender: Lender | None = None,
    ) -> None:
        self.definitions = definitions
        self._stream = stream
        self._tasks = tasks
        self._rng = rng
        self._clock = clock
        self._timer = timer
        self._payloads = payloads
        self._intents = intents
        self._lender = lender
        self.workshop = Workshop()
        """Where its runs work: by default without a folder for what they say."""
        self._threads = anyio.CapacityLimiter(slots + MAX_ABANDONED_THREADS)
        self._scopes: dict[int, anyio.CancelScope] = {}
        self.readers = Readers()
        self.in_vain: Callable[[Iterable[Target]], object] = lambda _: None
        self.missed: Callable[[Order], object] = lambda _: None
        self._stubborn: set[object] = set()
        self.live = 0
        self.left_behind = 0
        """Functions that outlived their timeout in a thread; they may keep the process from ending.
        """

    def use(self, definitions: Definitions, slots: int) -> None:
        """From now on, carry out orders with these; what runs goes on with what it began with."""
        self.definitions = definitions
        self._threads.total_tokens = slots + MAX_ABANDONED_THREADS

    def launch(self, order: Order) -> None:
        """Start carrying out the order, with the present definitions; returns at once."""
        self.live += 1
        self.readers.begin(order.run)
        scope = self._scopes[order.run] = anyio.CancelScope()
        name = f"run {order.run} {order.spec.key}"
        self._tasks.start_soon(self._carry_out, order, self.definitions, scope, name=name)

    def cancel(self, run: int) -> bool:
        """Stop a run that was cancelled: what it makes is not published, and its end not recorded,
        as that is recorded already. A function in a thread goes on, for nobody. False if it has
        come to its end meanwhile: then it may have published.
        """
        scope = self._scopes.get(run)
        if scope is not None:
            scope.cancel()
        return scope is not None

    async def _carry_out(self, order: Order, found: Definitions, scope: anyio.CancelScope) -> None:
        around = self.workshop.enter(order.run)
        ended = False
        try:
            started = self._timer()
            made: list[AnyEvent] | Failed | None = None
            with scope:
                if not scope.cancel_called:
                    made = await self._attempt(order, found)
            await self._leave(around)
            duration_us = int((self._timer() - started) * 1_000_000)
            if made is None or (scope.cancel_called and isinstance(made, Failed)):
                await anyio.to_thread.run_sync(_discard, found.store, order.run)
            elif scope.cancel_called:
                refused = ResultRefused(order.run, "it was being published when it was cancelled")
                await persist(self._stream, [refused])
                self.in_vain(order.targets)
            else:
                await self._record(order, found, made, duration_us)
            ended = True
        finally:
            around.close_log()  # also of a run that is cut off
            if ended and self._intents is not None and not found.store.in_memory:
                self._intents.drop(order.run)
            del self._scopes[order.run]
            self.live -= 1

    async def _record(
        self, order: Order, found: Definitions, made: list[AnyEvent] | Failed, duration_us: int
    ) -> None:
        """How the run ended; and what follows from that for the store."""
        try:
            await persist(self._stream, self._ending(order, made, duration_us))
        except RequestError as error:  # in what the function said: it ends no engine
            await persist(self._stream, [RunFailed(order.run, "value", saying(error))])
            self.in_vain(order.targets)
            return
        if not isinstance(made, Failed):
            # Only now: until it was recorded, the version before was the current one.
            if found.store.in_memory:
                self._collect(order, found)
            elif any(isinstance(one, Materialized) and "bytes" in one.metadata for one in made):
                await anyio.to_thread.run_sync(self._collect, order, found)
        elif made.kind == "input" and made.passing:
            self.missed(order)
        elif made.kind in PARTLY:
            self.in_vain(order.targets)

    def _collect(self, order: Order, found: Definitions) -> None:
        for target in order.targets:
            self.readers.collect(found.store, AssetPartition(target.asset, target.partition))

    async def _leave(self, around: Surroundings) -> None:
        """Before the end of the run is recorded: who reads that can read all it has said."""
        around.close_log()
        if around.has_scratch:
            await anyio.to_thread.run_sync(around.clear)

    async def _attempt(self, order: Order, found: Definitions) -> list[AnyEvent] | Failed:
        """One attempt, in one worker thread or on the loop; never raises for what user code
        does.
        """
        timeout = order.spec.timeout_ms / 1000 if order.spec.timeout_ms is not None else None
        try:
            loads = loads_of(order)
            work = Work(
                order,
                found.assets[order.spec.key],
                found.checks_of(target.asset for target in order.targets),
                found.store,
                self._fetch,
                loads,
                await versions_of(order, loads, self._stream.at),
                payloads=self._payloads,
                intents=self._intents,
                submitted=partial(self._submitted, order.run),
                columns=found.columns_of(target.asset for target in order.targets),
            )
            if order.reading is not None:
                work = await self._with_changes(work, order.reading)
            # A worker process opens what its functions take by itself.
            elsewhere = work.asset.executor == "process"
            names = found.lent_to(work.asset, work.checks) if not elsewhere else {}
            if not names or self._lender is None:
                return await self._call(work, timeout)
            return await self._call_lending(self._lender, names, work, timeout)
        except Rejected as rejected:
            return Failed(rejected.kind, rejected.error, passing=rejected.passing)

    async def _call_lending(
        self, lender: Lender, names: Iterable[str], work: Work, timeout: float | None
    ) -> list[AnyEvent] | Failed:
        """As `_call`, with the resources that its functions take. Those that are opened for this
        run are told if it has not succeeded.
        """
        made: list[AnyEvent] | Failed | None = None
        try:
            async with lender.lent(names) as lent:
                check_lent(lender.resources, lent, work)
                made = await self._call(msgspec.structs.replace(work, lent=lent), timeout)
                if isinstance(made, Failed):
                    raise Rejected(made.kind, made.error)
        except Rejected as rejected:
            return made or failure(rejected)
        return made

    async def _submitted(self, run: int, job: str) -> None:
        if is_told_in(job):
            raise ValueError("the name of the job holds a secret, and would be recorded")
        await persist(self._stream, [JobSubmitted(run, job)])

    def _fetch(self, position: int) -> Version:
        """A version that was not looked up before the run began; called in a worker thread."""
        return version_in(anyio.from_thread.run(self._stream.at, position), position)

    async def _with_changes(self, work: Work, reading: Reading) -> Work:
        taken = await take_changes(self._stream, work.order, reading)
        previous = None
        if reading.previous:
            previous = version_in(await self._stream.at(reading.previous), reading.previous)
        return msgspec.structs.replace(work, taken=taken, previous=previous)

    async def _call(self, work: Work, timeout: float | None) -> list[AnyEvent] | Failed:
        if work.asset.executor == "process":
            return await self._in_process(work, timeout)
        if work.asset.is_async:
            return await on_loop(lambda: self._on_loop(work), timeout)
        around = AROUND.get()
        # What a command does ends with its process; what a thread does, nobody can end.
        kill = around.kill if around and isinstance(work.asset.function, Command) else None
        try:
            result = await in_thread(
                lambda permit: self._in_thread(work, permit),
                timeout,
                self._threads,
                partial(self._refuse, work.order.run) if kill is None else None,
                kill,
            )
        except anyio.get_cancelled_exc_class():
            self.left_behind += kill is None
            raise
        if isinstance(result, Failed) and result.kind == "timeout":
            self.left_behind += kill is None
        return result

    def _refuse(self, run: int, late: object) -> None:
        """A function that was given up came to its end after all."""
        said = late.error if isinstance(late, Failed) and late.kind != "timeout" else "it succeeded"
        self._tasks.start_soon(persist, self._stream, [ResultRefused(run, said)])

    def _in_thread(self, work: Work, permit: Permit) -> list[AnyEvent] | Failed:
        arguments = work.arguments()
        value = work.asset.function(**arguments)
        work.confirm_files(arguments)
        return work.keep(value, permit)

    async def _in_process(self, work: Work, timeout: float | None) -> list[AnyEvent] | Failed:
        """As in a thread, but that the function is called in a worker process, which can be killed
        with all it has started. Raises Rejected when there is no worker to be had for the
        definitions that the order was launched with.
        """
        pool, around, found = self.workshop.pool, AROUND.get(), self.definitions
        if pool is None or around is None or not found.origin:
            raise Rejected("error", "there are no worker processes here")
        present = found.assets.get(work.order.spec.key)
        if work.store is not found.store or work.asset is not present:
            said = "other definitions were loaded before it had a worker process"
            raise Rejected("infrastructure", said, passing=True)
        async with pool.worker(found) as worker:
            return await in_thread(
                lambda permit: self._through(worker, work, around, permit),
                timeout,
                self._threads,
                kill=around.kill,
            )

    def _through(
        self, worker: Worker, work: Work, around: Surroundings, permit: Permit
    ) -> list[AnyEvent] | Failed:
        with around.attended(worker.child):
            made = worker.do(work)
        if isinstance(made, Failed):
            work.store.discard(work.order.run)
            return made
        draft = Draft(work.order, made.outputs, made.staged)
        return work.published(draft, permit, list(made.found))

    async def _on_loop(self, work: Work) -> list[AnyEvent] | Failed:
        if work.loads and not self._light(work):
            arguments = await anyio.to_thread.run_sync(
                lambda: work.arguments(lazy=False), limiter=self._threads
            )
        else:
            arguments = work.arguments()
        value = await apart(work.asset.function(**arguments), self._stubborn)
        work.confirm_files(arguments)
        light = work.store.in_memory or (
            len(work.order.targets) == 1 and as_output(value).value is None
        )
        if light and not work.checks:
            return work.keep(value, Permit())
        return await in_thread(lambda permit: work.keep(value, permit), None, self._threads)

    def _light(self, work: Work) -> bool:
        """Can the inputs be loaded without leaving the loop?"""
        return work.store.in_memory and not any(
            load.read.is_source or not load.is_eager for load in work.loads.values()
        )

    def _ending(
        self, order: Order, made: list[AnyEvent] | Failed, duration_us: int
    ) -> list[AnyEvent]:
        if isinstance(made, Failed):
            retry_at = self._retry_at(order, made)
            said = (
                made.kind,
                made.error,
                readable(made.detail),
                duration_us,
                retry_at,
                made.passing,
            )
            return [*made.found, RunFailed(order.run, *said)]
        return [*made, RunSucceeded(order.run, duration_us)]

    def _retry_at(self, order: Order, failed: Failed) -> int | None:
        """Exponential backoff with full jitter: a random moment in (0, delay · 2^n], after n
        attempts before that count; or when the function wants it.

        What passes by itself is tried again without end, and counts for nothing: a file that
        changed and changed back would otherwise leave nothing that starts the next run.
        """
        spec = order.spec
        if failed.kind == "check":
            # The same value would fail again; but of a batch each is tried alone, at once.
            partitions = {target.partition for target in order.targets}
            return self._clock() if len(partitions) > 1 else None
        if failed.kind == "fatal":
            return None
        if order.counted >= spec.retries and not failed.passing:
            return None
        if failed.after_ms is not None:
            return self._clock() + failed.after_ms * 1000
        delay_ms, before = spec.retry_delay_ms, order.counted
        if failed.passing:
            delay_ms, before = max(delay_ms, PASSING_DELAY_MS), order.attempt - 1
        ceiling_ms = min(delay_ms * 2 ** min(before, 30), MAX_RETRY_DELAY_MS)
        return self._clock() + int(self._rng.uniform(0, ceiling_ms) * 1000)


def _discard(store: Store, run: int) -> None:
    """Forget what a run has staged; a store that cannot ends no engine."""
    try:
        store.discard(run)
    except (StoreError, OSError) as error:
        log.warning("staged values were not discarded", run=run, why=str(error))
