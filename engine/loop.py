"""The loop that connects everything: fold what happened, decide, perform, wake when time alone
matters.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from freshet.engine.definitions import Definitions
from freshet.engine.events import (
    AnyEvent,
    GraphDeployed,
    Recorded,
    RunAbandoned,
    RunCancelled,
    RunEnd,
    RunStarted,
)
from freshet.engine.intents import Intents
from freshet.engine.lending import Lender
from freshet.engine.orders import Order, order_of
from freshet.engine.parts import Target
from freshet.engine.persist import persist
from freshet.engine.reactor import decide
from freshet.engine.readers import Readers
from freshet.engine.runner import Runner
from freshet.engine.stores.payloads import Payloads
from freshet.engine.stream import EventStream
from freshet.projections.view import View

LONGEST_SLEEP_S = 30.0
"""How long the loop sleeps at most when a time is set: the timers of the system stand still while a
machine is suspended, and do not know when its clock is set.
"""

Listener = Callable[[Recorded, View], None]
"""Called for each event after it is folded; must be quick and must not raise."""


class _Coming(NamedTuple):
    """What is used once the graph of this digest is folded."""

    digest: str
    definitions: Definitions
    slots: int


class Loop:
    """The reactor at work on one stream. `view` is always the fold of the stream up to its
    position.

    `start_soon` it in a task group; it ends when cancelled, or with StreamError when the stream
    can no longer be trusted. While `draining`, nothing new is started.
    """

    def __init__(
        self,
        view: View,
        stream: EventStream,
        definitions: Definitions,
        *,
        slots: int,
        clock: Callable[[], int],
        rng: random.Random | None = None,
        make_runner: Callable[..., Runner] = Runner,
        payloads: Payloads | None = None,
        intents: Intents | None = None,
        lender: Lender | None = None,
    ) -> None:
        self.view = view
        self.draining = False
        self.longest_sleep_s = LONGEST_SLEEP_S
        self.listeners: list[Listener] = []
        self.readers = Readers()
        self.in_vain: Callable[[Iterable[Target]], object] = lambda _: None
        """Told of runs that may have published what the stream does not say."""
        self.missed: Callable[[Order], object] = lambda _: None
        """Told of runs that could not load what they were to read."""
        self.acted_at = 0
        """When it last decided (µs); 0: not yet."""
        self._stream = stream
        self._definitions = definitions
        self.slots = slots
        self._clock = clock
        self._rng = rng or random.Random()
        self._make_runner = make_runner
        self._payloads = payloads
        self._intents = intents
        self._runner: Runner | None = None
        self.lender = lender or Lender(definitions.resources)
        self._coming: _Coming | None = None
        self._sent = view.position
        self._wake_at: int | None = None
        self._woken = anyio.Event()
        self._acting = anyio.Lock()
        self._quiet = anyio.Event()

    async def deploy(
        self,
        graph: GraphDeployed,
        definitions: Definitions,
        *,
        slots: int | None = None,
        others: Sequence[AnyEvent] = (),
    ) -> None:
        """Go on with other definitions; `run` must be at work. What runs goes on with what it was
        started with; what is decided from here on is of the new ones, and is done by them.

        The graph is recorded if it is another one, and `others` with it. Returns once that is
        folded. One at a time.
        """
        coming = _Coming(graph.digest, definitions, slots or self.slots)
        is_new = graph.digest != self.view.catalog.digest
        events = [*([graph] if is_new else []), *others]
        async with self._acting:
            if is_new:
                self._coming = coming  # in their place between decisions of before and after
            else:
                self.use(coming.definitions, coming.slots)
            if events:
                self._sent = (await persist(self._stream, events))[-1]
        while self.view.position < self._sent:
            await self._quiet.wait()
        await self.act()

    def use(self, definitions: Definitions, slots: int | None = None) -> None:
        """From now on, start runs with these; what runs goes on with those it started with."""
        self._coming = None
        self._definitions, self.slots = definitions, slots or self.slots
        self.lender.use(definitions.resources)
        if self._runner is not None:
            self._runner.use(definitions, self.slots)

    @property
    def definitions(self) -> Definitions:
        """What runs are started with."""
        return self._definitions

    @property
    def runner(self) -> Runner:
        """Who carries out the orders, once the loop runs."""
        assert self._runner is not None, "the loop does not run"
        return self._runner

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        async with self.lender.kept(), anyio.create_task_group() as tasks:
            self._runner = self._make_runner(
                self._definitions,
                self._stream,
                tasks,
                slots=self.slots,
                rng=self._rng,
                clock=self._clock,
                payloads=self._payloads,
                intents=self._intents,
                lender=self.lender,
            )
            self.runner.readers = self.readers
            self.runner.in_vain = self.in_vain
            self.runner.missed = self.missed
            tasks.start_soon(self._keep_time)
            await self.act()
            async for batch in self._stream.follow(after=self.view.position):
                for recorded in batch:
                    self._fold(recorded, tasks)
                await self.act()

    async def quiet(self) -> None:
        """Wait until nothing runs, nothing is ready but what an open circuit holds back, and
        everything recorded is folded.
        """
        while not self._is_quiet():
            await self._quiet.wait()

    async def drained(self) -> None:
        """Wait until no run is alive; for use after `draining` was set."""
        while self.view.runs.live or self.view.position < self._stream.head:
            await self._quiet.wait()

    def _fold(self, recorded: Recorded, tasks: TaskGroup) -> None:
        self.view.apply(recorded)
        event = recorded.event
        if isinstance(event, GraphDeployed):
            if self._coming is not None and self._coming.digest == event.digest:
                self.use(self._coming.definitions, self._coming.slots)
        elif isinstance(event, RunStarted):
            order = order_of(self.view, recorded, event)
            if order is not None and not order.lost:
                self.runner.launch(order)
            else:
                lost = order.lost if order is not None else "its target is gone"
                tasks.start_soon(persist, self._stream, [RunAbandoned(recorded.position, lost)])
        elif isinstance(event, RunEnd):
            self.readers.end(event.run)
            if isinstance(event, RunCancelled) and not self.runner.cancel(event.run):
                self.in_vain(self.view.runs.ended)
        for listener in self.listeners:
            listener(recorded, self.view)

    async def act(self) -> None:
        """Decide and perform. What was performed is appended, and comes back to be folded like all
        else.
        """
        async with self._acting:
            if self.view.position >= self._sent and not self.draining:
                self.acted_at = self._clock()
                decision = decide(self.view, self.acted_at, self.slots)
                if decision.events:
                    self._sent = (await persist(self._stream, decision.events))[-1]
                if decision.wake_at != self._wake_at:
                    self._wake_at = decision.wake_at
                    self._woken.set()
        self._quiet.set()
        self._quiet = anyio.Event()  # who waited has been told; who waits from now on, is the next

    def _is_quiet(self) -> bool:
        staleness = self.view.staleness
        return not (
            self.view.position < max(self._stream.head, self._sent)
            or self.view.runs.live
            or any(state.spec.key not in self.view.circuits.open for state in staleness.ready)
            or staleness.timed
        )

    async def _keep_time(self) -> None:
        """Sleep until the moment at which time alone changes the answer, or until that moment
        moves.
        """
        while True:
            self._woken = anyio.Event()
            wake_at = self._wake_at
            delay = None if wake_at is None else max(0.0, (wake_at - self._clock()) / 1_000_000)
            with anyio.move_on_after(None if delay is None else min(delay, self.longest_sleep_s)):
                await self._woken.wait()
                continue
            self._wake_at = None
            await self.act()
