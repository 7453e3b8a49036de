"""Lending: resources are opened at their first use, shared by all runs or made for one, and closed
in reverse order.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskGroup

from freshet.engine.errors import OutsideError
from freshet.engine.executors.invoke import ENDINGS, Rejected, failure, saying
from freshet.engine.resources import Resource
from freshet.sensors.sensor import Batch, Borrower, Sensor, answers_of

OPEN_S = 60.0
"""How long a resource may take to open, before the runs that wait for it fail, and try again."""

CLOSE_S = 10.0
"""How long all of them together may take to close when the daemon stops, and one at the end of its
run; what is still open then is cancelled.
"""

LEAST_CLOSE_S = 1.0
"""What each has of it in any case: one that hangs takes nothing from those it needs."""

MAX_THREADS = 32
"""Of those in which resources that are no coroutines open and close."""

T = TypeVar("T")

log = structlog.get_logger("freshet.resources")


class NotOpened(Rejected):
    """A resource could not be opened; `cause` is what it raised. It passes by itself."""

    def __init__(self, name: str, cause: BaseException) -> None:
        self.name = name
        self.cause = cause
        text = f"resource '{name}' cannot be opened: {saying(cause)}"
        super().__init__("infrastructure", text, passing=True, detail=failure(cause).detail)


class _Held:
    """One open resource, and the task that holds it: what is entered there is left there."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.value: object = None
        self.failure: BaseException | None = None
        self.trouble: BaseException | None = None
        """What ended the run it was opened for; told to it as it is closed."""
        self.users = 0
        self.retired = False
        self.scope = anyio.CancelScope(shield=True)
        self.settled = anyio.Event()
        self.leave = anyio.Event()
        self.left = anyio.Event()

    def release(self) -> None:
        """Close it, unless somebody still uses it, or would like to."""
        if self.retired and not self.users:
            self.leave.set()


class Lender:
    """Lends the resources of a project to its runs, inside of `kept`.

    A shared one is opened by whoever needs it first, those it needs before it, and stays open until
    `kept` ends or `use` brings another definition. Functions in threads receive the same object as
    those on the loop: whether it may be used from many threads is for the resource to say.
    With `inline`, nothing is opened in a thread.
    """

    def __init__(self, resources: Mapping[str, Resource], *, inline: bool = False) -> None:
        self.resources = resources
        self._inline = inline
        self._held: dict[str, _Held] = {}
        self._open: list[_Held] = []
        self._tasks: TaskGroup | None = None
        self._threads: anyio.CapacityLimiter | None = None

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Resources may be opened in this block; at its end they are closed, the newest first."""
        trouble: BaseException | None = None
        self._threads = anyio.CapacityLimiter(MAX_THREADS)
        async with anyio.create_task_group() as self._tasks:
            try:
                yield
            except BaseException as error:  # recorded: raised again, once all is closed
                trouble = error
            with anyio.CancelScope(shield=True):
                await self._close(self._open[::-1])
                await self._close([*self._held.values()])
        if trouble is not None:
            raise trouble

    def use(self, resources: Mapping[str, Resource]) -> None:
        """From now on, lend these. One that is defined anew is opened anew at its next use; the old
        one is closed when nobody uses it any more.
        """
        self.resources = resources
        for name, held in list(self._held.items()):
            if name not in resources or resources[name] != held.resource:
                del self._held[name]
                held.retired = True
                held.release()

    @asynccontextmanager
    async def lent(self, names: Iterable[str]) -> AsyncIterator[dict[str, object]]:
        """The resources by name for as long as the block lasts; those per run are opened for it
        alone. Raises NotOpened. What is raised in the block is told to the latter as they close.
        """
        own: dict[str, _Held] = {}
        used: list[_Held] = []
        trouble: BaseException | None = None
        try:
            yield {name: await self._get(name, own, used) for name in names}
        except BaseException as error:
            trouble = error
            raise
        finally:
            for held in reversed(own.values()):
                held.trouble = trouble
                with anyio.CancelScope(shield=True):
                    await self._close([held])
            for held in used:
                held.users -= 1
                held.release()

    async def _get(self, name: str, own: dict[str, _Held], used: list[_Held]) -> object:
        resource = self.resources[name]
        if resource.kind == "object":
            return resource.value
        place = own if resource.per_run else self._held
        held = place.get(name)
        if held is None:
            assert self._tasks is not None, "resources are lent inside of `kept`"
            needed: dict[str, object] = {}
            if resource.per_run:  # the others of this run, which are closed after it
                needed = {need: await self._get(need, own, used) for need in resource.needs}
            held = place[name] = _Held(resource)
            self._tasks.start_soon(self._hold, held, needed, name=f"resource {name}")
        if not resource.per_run:
            held.users += 1
            used.append(held)
        await held.settled.wait()
        if held.failure is not None:
            raise NotOpened(name, held.failure)
        return held.value

    async def _hold(self, held: _Held, needed: dict[str, object]) -> None:
        """Open it, and close it once it is to be left: all of that in one task, which a resource
        with tasks of its own demands.
        """
        resource = held.resource
        try:
            with held.scope:
                held.scope.deadline = anyio.current_time() + OPEN_S
                if resource.per_run:
                    await self._stay(held, needed)
                else:
                    async with self.lent(resource.needs) as others:
                        await self._stay(held, others)
            if held.scope.cancelled_caught:
                raise TimeoutError(_late(held))
        except (BaseExceptionGroup, *ENDINGS) as error:  # recorded: or told to who waits
            self._ended_badly(held, error)
        finally:
            if self._held.get(resource.name) is held:
                del self._held[resource.name]
            if held in self._open:
                self._open.remove(held)
            if not held.settled.is_set() and held.failure is None:
                held.failure = RuntimeError("it was cancelled")
            held.settled.set()
            held.left.set()

    async def _stay(self, held: _Held, needed: Mapping[str, object]) -> None:
        async with self._entered(held.resource, needed) as value:
            held.scope.deadline = float("inf")
            held.value = value
            if not held.resource.per_run:
                self._open.append(held)
            log.debug("resource opened", resource=held.resource.name)
            held.settled.set()
            await held.leave.wait()
            if held.trouble is not None:
                raise _Told(held.trouble)

    def _ended_badly(self, held: _Held, error: BaseException) -> None:
        name = held.resource.name
        if not held.settled.is_set():
            held.failure = _heart_of(error)
        elif held.leave.is_set():
            if not isinstance(_heart_of(error), _Told):
                log.error("resource closed badly", resource=name, error=saying(_heart_of(error)))
        else:
            log.error("resource broke off", resource=name, error=saying(_heart_of(error)))

    def _entered(
        self, resource: Resource, needed: Mapping[str, object]
    ) -> AbstractAsyncContextManager[object]:
        if resource.kind == "async":
            found: AbstractAsyncContextManager[object] = resource.value(**needed)
            return found
        return self._in_thread(resource.value(**needed))

    @asynccontextmanager
    async def _in_thread(self, manager: Any) -> AsyncIterator[object]:
        value = await self._call(manager.__enter__)
        try:
            yield value
        except BaseException as error:
            told = (type(error), error, error.__traceback__)
            if not await self._call(lambda: manager.__exit__(*told)):
                raise
        else:
            await self._call(lambda: manager.__exit__(None, None, None))

    async def _call(self, function: Callable[[], T]) -> T:
        if self._inline:
            return function()
        return await anyio.to_thread.run_sync(
            function, abandon_on_cancel=True, limiter=self._threads
        )

    async def _close(self, held: Iterable[_Held]) -> None:
        """Close them one after the other."""
        until = anyio.current_time() + CLOSE_S
        for one in held:
            one.leave.set()
            deadline = max(until, anyio.current_time() + LEAST_CLOSE_S)
            one.scope.deadline = min(one.scope.deadline, deadline)
            if not one.settled.is_set():
                one.scope.cancel()
            await one.left.wait()


class Lending:
    """A sensor whose function is lent resources, for as long as it is read."""

    def __init__(self, sensor: Sensor, lender: Lender, names: Sequence[str]) -> None:
        self.name = sensor.name
        self.sources = sensor.sources
        self.answers = answers_of(sensor)
        self._sensor = sensor
        self._lender = lender
        self._names = names

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """As that of the sensor. Raises OutsideError for a resource that cannot be opened."""
        assert isinstance(self._sensor, Borrower)
        try:
            async with (
                self._lender.lent(self._names) as lent,
                aclosing(self._sensor.lending(lent).run(cursor)) as batches,
            ):
                async for batch in batches:
                    yield batch
        except NotOpened as error:
            raise OutsideError(error.error) from error.cause


def borrowing(sensor: Sensor, lender: Lender) -> Sensor:
    """The sensor, or one that lends it the resources it takes."""
    names = sensor.needs(lender.resources) if isinstance(sensor, Borrower) else ()
    return Lending(sensor, lender, names) if names else sensor


class _Told(Exception):
    """Tells a resource of one run that the run has not succeeded."""

    def __init__(self, trouble: BaseException) -> None:
        super().__init__(saying(trouble))


def _late(held: _Held) -> str:
    if not held.settled.is_set():
        return f"it took longer than {OPEN_S:g} s"
    return f"it was not closed in time ({CLOSE_S:g} s for all)"


def _heart_of(error: BaseException) -> BaseException:
    """The one error inside groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
