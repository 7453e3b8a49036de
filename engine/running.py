"""The engine while it runs: its answers to those who ask, and the ways to end it and to have it go
on with other definitions.
"""

import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import structlog
from anyio.abc import TaskGroup

from freshet.engine.asking import StatusQuestion, status_of
from freshet.engine.counts import counted
from freshet.engine.errors import FreshetError, RequestError, StreamError
from freshet.engine.events import AnyEvent, EngineReloaded, GraphDeployed
from freshet.engine.executors.pool import check_executors
from freshet.engine.keys import AssetKey
from freshet.engine.loop import Loop
from freshet.engine.notify import Notifier
from freshet.engine.profiles import check_state
from freshet.engine.project import Project
from freshet.engine.reports import (
    Fault,
    HealthReport,
    ReloadReport,
    Vitals,
    differences,
    health_of,
    reload_failed,
)
from freshet.engine.rollback import Restorer, RollbackQuestion, RolledBackTo, held_roll_back
from freshet.engine.secrets import redact
from freshet.engine.sensing import Sensing
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stores.memory import MemoryStore
from freshet.projections.answers import StatusReport
from freshet.projections.sensors import sensor_rows
from freshet.projections.view import View
from freshet.sensors.sensor import START, answers_of

GRACE_S = 30.0
"""How long a stopping daemon waits for live runs before it leaves them to be abandoned."""

FOLD_S = 2.0
"""How long the loop may take to fold what is recorded before it counts as standing still."""

log = structlog.get_logger("freshet.daemon")


class Daemon:
    """A running engine: its stream, its loop, its sensors, and the ways to end it and to have it go
    on with other definitions.

    `stop` drains: nothing new starts, live runs get `GRACE_S` to finish. A second `stop` does not
    wait.
    """

    def __init__(
        self,
        project: Project,
        state: Path,
        stream: SqliteStream,
        loop: Loop,
        sensing: Sensing,
        *,
        slots: int | None,
        clock: Callable[[], int],
        load: Callable[[], Project] | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self.project = project
        self.stream = stream
        self.loop = loop
        self.sensing = sensing
        self.clock = clock
        self.notifier = notifier or Notifier()
        self.restorer: Restorer | None = None
        """Who sees to what was rolled back; there once the daemon attends to the store."""
        self.fault: Fault | None = None
        """Why the last reload failed."""
        self._state = state
        self._slots = slots
        self._load = load
        self._reloading = anyio.Lock()
        self._stopping = anyio.Event()
        self._now = anyio.Event()
        self.stop_reason = ""

    @property
    def view(self) -> View:
        """Everything known at the newest folded position."""
        return self.loop.view

    async def status(self, question: StatusQuestion) -> StatusReport:
        """How things stand once everything recorded by now is folded."""
        head = self.stream.head
        while self.view.position < head:
            await anyio.sleep(0.001)
        pulses = self.sensing.pulses
        report = await status_of(self.view, self.stream.at, question, self.clock(), pulses)
        if self.fault is None:
            return report
        return msgspec.structs.replace(report, notices=(reload_failed(self.fault),))

    async def roll_back(
        self, question: RollbackQuestion, actor: str | None, key: str | None
    ) -> RolledBackTo:
        """Make an earlier version the current one. Raises RequestError."""
        assert self.restorer is not None, "the daemon has not started yet"
        return await held_roll_back(
            self.restorer,
            self.stream,
            lambda: self.view,
            self.project.store,
            question,
            actor=actor,
            key=key,
        )

    async def health(self) -> HealthReport:
        """How the daemon is; answers also when the loop stands still."""
        head = self.stream.head
        with anyio.move_on_after(FOLD_S):
            while self.view.position < head:
                await anyio.sleep(0.001)
        return health_of(
            Vitals(
                version=release(),
                pid=os.getpid(),
                position=self.view.position,
                head=head,
                now_us=self.clock(),
                acted_at_us=self.loop.acted_at,
                runs=len(self.view.runs.live),
                sensors=sensor_rows(self.view.sensors, self.view.pauses, self.sensing.pulses),
                free_bytes=shutil.disk_usage(self._state).free,
                refusal=self.stream.refusal,
                draining=self.loop.draining,
                reload_fault=self.fault,
            )
        )

    async def reload(self) -> ReloadReport:
        """Load the definitions anew and go on with them; what runs goes on with what it was started
        with. If they do not load, everything stays as it is, and the report says why.
        """
        if self._load is None:
            raise RequestError("this daemon has nothing to load definitions from")
        async with self._reloading:
            if self.loop.draining:
                raise RequestError("the daemon is stopping: it loads nothing any more")
            self.notifier.reloading()
            try:
                project = await anyio.to_thread.run_sync(self._load, abandon_on_cancel=True)
                check_state(self.project.profile, project.profile, project.profiles)
                check_executors(project)
            except Exception as error:  # recorded: as `fault`, which health and status show
                self.fault = fault = fault_of(error)
                log.error("not reloaded", error=fault.message, cause=fault.cause, hint=fault.hint)
                report = ReloadReport(self.view.position, fault)
            else:
                report = await self._deploy(project)
                log.info("reloaded", what=report.describe(), position=report.position)
            finally:
                self.notifier.ready(self.describe())
            return report

    async def heed_hangup(self) -> None:
        """Reload, as SIGHUP asks; nobody waits for an answer, so it is logged only."""
        if self._reloading.statistics().tasks_waiting:
            return  # that one will find everything there is to find
        try:
            await self.reload()
        except RequestError as error:
            log.warning("not reloaded", error=error.message)
        except StreamError:
            raise
        except Exception as error:  # recorded: as `fault`; nobody waits who could be told
            self.fault = fault_of(error)
            log.error("not reloaded", error=self.fault.message, cause=self.fault.cause)

    async def _deploy(self, project: Project) -> ReloadReport:
        old = self.project
        if isinstance(project.store, MemoryStore) and isinstance(old.store, MemoryStore):
            project.store = old.store  # a new one would have lost every value
        self.project = project  # before anybody hears of it
        slots = self._slots or project.slots
        sensors, fixed = sensors_of(project)
        others: list[AnyEvent] = []
        if (slots, sensors, fixed) != (self.loop.slots, *sensors_of(old)):
            others = [EngineReloaded(slots, sensors, fixed)]
        graph = graph_of(project)
        deployed = graph.digest != self.view.catalog.digest
        await self.loop.deploy(graph, project.definitions, slots=slots, others=others)
        # Of resources nobody can tell whether they are the same: who borrows them starts anew.
        lends = bool(old.definitions.resources or project.definitions.resources)
        same_code = bool(old.code) and old.code == project.code and not lends
        exchange = self.sensing.exchange(project.sensors, same_code=same_code)
        self.fault = None
        added, changed, removed = differences(old.graph.specs, project.graph.specs)
        return ReloadReport(
            position=self.view.position,
            deployed=deployed,
            added=added,
            changed=changed,
            removed=removed,
            sensors_started=exchange.started,
            sensors_stopped=exchange.stopped,
            sensors_renewed=exchange.renewed,
            slots=slots,
        )

    def describe(self) -> str:
        """One line of how it is, for the service manager."""
        if self.fault is not None:
            return reload_failed(self.fault)
        assets, runs = counted(len(self.project.assets), "asset"), len(self.view.runs.live)
        return f"{assets} at position {self.view.position}, {counted(runs, 'live run')}"

    async def keep_watchdog(self) -> None:
        """Tell the service manager twice per its time that the loop turns, if it wants to know:
        that what was recorded by the last time is folded by now, or that more of it is. A full disk
        is no reason to be ended: starting anew frees nothing.
        """
        watchdog_s = self.notifier.watchdog_s
        if watchdog_s is None:
            return
        position, head = -1, 0
        while True:
            if self.view.position >= head or self.view.position > position or self.stream.refusal:
                self.notifier.alive(self.describe())
            position, head = self.view.position, self.stream.head
            await anyio.sleep(watchdog_s / 2)

    def stop(self, reason: str = "asked to stop") -> None:
        """Begin to stop, or, the second time, stop without waiting for live runs."""
        if self._stopping.is_set():
            self._now.set()
        else:
            self.notifier.stopping(f"stopping: {reason}")
        self.stop_reason = self.stop_reason or reason
        self.loop.draining = True
        self._stopping.set()

    async def stopped(self) -> None:
        """Wait until someone calls `stop`, then until the live runs have ended or time is up."""
        await self._stopping.wait()
        live = len(self.view.runs.live)
        if live:
            log.info("waiting for live runs", runs=live, grace_s=GRACE_S)
        with anyio.move_on_after(GRACE_S):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(self._cancel_when_hurried, waiting)
                await self.loop.drained()
                waiting.cancel_scope.cancel()

    async def _cancel_when_hurried(self, waiting: TaskGroup) -> None:
        await self._now.wait()
        waiting.cancel_scope.cancel()


def fault_of(error: Exception) -> Fault:
    """The three parts of an error, without secrets."""
    if isinstance(error, FreshetError):
        cause, hint = (text and redact(text) for text in (error.cause, error.hint))
        return Fault(redact(error.message), cause, hint)
    said = redact(f"{type(error).__name__}: {error}")
    return Fault("the definitions could not be loaded", said)


def graph_of(project: Project) -> GraphDeployed:
    """All definitions as the event that records them."""
    return GraphDeployed(project.graph.digest, tuple(project.graph.specs.values()))


def sensors_of(project: Project) -> tuple[dict[str, tuple[AssetKey, ...]], tuple[str, ...]]:
    """By name the sources that each sensor reports; and those that pass over nothing."""
    sensors = {sensor.name: sensor.sources for sensor in project.sensors}
    fixed = tuple(sensor.name for sensor in project.sensors if START not in answers_of(sensor))
    return sensors, fixed


def release() -> str:
    """The installed version of Freshet."""
    try:
        return version("freshet")
    except PackageNotFoundError:
        return "unknown"
