"""Poll: a function called on a schedule that says which versions there are, for what cannot
push.
"""

import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from copy import copy
from typing import Any, Literal, overload

import anyio
import anyio.to_thread
import msgspec

from freshet.engine.assets import Source
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.keys import WHOLE
from freshet.engine.partitions import describe
from freshet.engine.signatures import place_of
from freshet.engine.specs import AssetSpec
from freshet.sensors.known import Known, Sighting, spec_of
from freshet.sensors.pace import Pace, Pacer, pace_of
from freshet.sensors.sensor import Batch
from freshet.sensors.versions import Version, version_text

TIMEOUT = "5m"
"""How long a function may take unless it is said: what hangs for ever would never be noticed."""

PREVIOUS = "previous"
"""The parameter that receives the versions of the last look."""

Answer = Version | Mapping[str, Any] | None
"""What a look says: the version; of a partitioned source the versions by partition (None: it is
gone); or None, nothing new.
"""

Look = Callable[..., Answer | Awaitable[Answer]]
"""A function that looks; of nothing, or of `previous`. A plain one is called in a thread."""


class Polled(msgspec.Struct, frozen=True):
    """What is polled and how: see `poll`, which makes it."""

    name: str
    look: Look
    where: str
    source: AssetSpec
    pace: Pace
    timeout_s: float | None
    withdraw: bool


@overload
def poll(
    function: Look,
    *,
    source: Source,
    every: float | str | None = ...,
    cron: str | None = ...,
    tz: str = ...,
    name: str | None = ...,
    timeout: float | str | None = ...,
    on_absent: Literal["keep", "withdraw"] = ...,
) -> "PollSensor": ...


@overload
def poll(
    *,
    source: Source,
    every: float | str | None = ...,
    cron: str | None = ...,
    tz: str = ...,
    name: str | None = ...,
    timeout: float | str | None = ...,
    on_absent: Literal["keep", "withdraw"] = ...,
) -> "Callable[[Look], PollSensor]": ...


def poll(
    function: Look | None = None,
    *,
    source: Source,
    every: float | str | None = None,
    cron: str | None = None,
    tz: str = "UTC",
    name: str | None = None,
    timeout: float | str | None = TIMEOUT,
    on_absent: Literal["keep", "withdraw"] = "keep",
) -> "PollSensor | Callable[[Look], PollSensor]":
    """A sensor that calls a function, at once and then `every="30s"` or by `cron` in `tz`, and
    reports what differs from the last time. Without a function, a decorator.

    The function returns the data version of `source`; of a partitioned one, a mapping of partition
    to version. A version is text, a number, a date or time, or the content as bytes. None says that
    there is nothing new; as a version, that the partition is gone. A partition that the mapping
    lacks stays as it was, unless `on_absent="withdraw"`. If it has the parameter `previous`, it
    receives what the last time said: the version as recorded (text; None at first), or a mapping of
    them. Other parameters are resources of the project.

    Plain functions are called in a thread, async ones on the loop, one call at a time. One that
    raises, or takes longer than `timeout`, is called again with backoff. Ticks that were missed are
    not caught up: one look sees everything.
    """
    spec = spec_of(source, "fr.poll")
    pace = pace_of(every, cron, tz, f"poll of '{spec.key}'")
    if on_absent not in ("keep", "withdraw"):
        raise DefinitionError(
            f"poll of '{spec.key}': on_absent={on_absent!r}", hint="use 'keep' or 'withdraw'"
        )
    timeout_ms = None if timeout is None else parse_duration_ms(timeout, "poll: timeout")
    if timeout_ms == 0:
        raise DefinitionError(f"poll of '{spec.key}': timeout=0", hint="use None for no bound")

    def make(look: Look) -> PollSensor:
        where = place_of(look)
        if not callable(look):
            raise DefinitionError(
                f"poll of '{spec.key}': {look!r} is no function",
                hint="give it the function itself, without calling it",
            )
        called = name or f"poll:{getattr(look, '__name__', spec.key)}"
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        return PollSensor(
            Polled(called, look, where, spec, pace, timeout_s, on_absent == "withdraw")
        )

    return make if function is None else make(function)


class PollSensor:
    """The definition of a poll; each `run` looks anew."""

    keeps_payload = False

    def __init__(self, polled: Polled, pacer: Pacer | None = None) -> None:
        self.polled = polled
        self.name = polled.name
        """Under which its cursor is stored; from the function unless one was given."""
        self.sources = (polled.source.key,)
        self._pacer = pacer
        self._calling = threading.Lock()
        """Held by a thread that calls the function, also when nobody waits for it any more."""
        self._lent: Mapping[str, object] = {}

    def needs(self, resources: Collection[str]) -> tuple[str, ...]:
        """The resources it has as parameters, beside `previous`."""
        polled = self.polled
        needed = [
            name
            for name, parameter in inspect.signature(polled.look).parameters.items()
            if name != PREVIOUS and parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]  # fmt: skip
        others = [name for name in needed if name not in resources]
        if others:
            raise DefinitionError(
                f"poll of '{polled.source.key}': the function needs {', '.join(others)}"
                f" ({polled.where})",
                cause="it is called with resources, and with `previous` if it asks for that",
                hint=did_you_mean(others[0], resources)
                or "give the others a default, or use a lambda",
            )
        return tuple(needed)

    def lending(self, lent: Mapping[str, object]) -> "PollSensor":
        """The same sensor, with these resources for its function."""
        made = copy(self)
        made._lent = dict(lent)
        return made

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """A look, what differs, a rest, and again; see `Sensor`. A look that finds nothing new
        yields an empty batch. The cursor is partition → data version.
        """
        pacer = self._pacer or Pacer(self.polled.pace)
        key = self.polled.source.key
        known = Known(cursor, [self.polled.source], lambda item: (key, item), pacer.clock)
        while True:
            began = pacer.clock()
            answer = await self._look(known)
            quiet = True
            for batch in self._news(answer, known):
                yield batch
                quiet = False
            if quiet:
                yield Batch()
            await pacer.rest(began)

    def __repr__(self) -> str:
        return f"<poll {self.name!r} ({self.polled.where})>"

    async def _look(self, known: Known) -> Answer:
        polled = self.polled
        arguments: dict[str, object] = dict(self._lent)
        if PREVIOUS in inspect.signature(polled.look).parameters:
            whole = polled.source.partitions is None
            arguments[PREVIOUS] = known.versions.get(WHOLE) if whole else dict(known.versions)
        try:
            with anyio.fail_after(polled.timeout_s):
                return await self._call(arguments)
        except TimeoutError as error:
            if str(error):  # the function's own
                raise
            raise TimeoutError(self._said(f"took longer than {polled.timeout_s:g} s")) from None

    async def _call(self, arguments: dict[str, object]) -> Answer:
        look = self.polled.look
        if inspect.iscoroutinefunction(look):
            return await look(**arguments)  # type: ignore[no-any-return]  # as Look says

        def call() -> Answer | Awaitable[Answer]:
            if not self._calling.acquire(blocking=False):
                raise TimeoutError(self._said("has not come back from the call before"))
            try:
                return look(**arguments)
            finally:
                self._calling.release()

        answer = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
        return await answer if inspect.isawaitable(answer) else answer

    def _news(self, answer: Answer, known: Known) -> Iterator[Batch]:
        """The batches that an answer makes. Raises TypeError or ValueError naming the function."""
        if answer is None:
            return
        versions = self._by_partition(answer)
        key = self.polled.source.key
        seen = [
            Sighting(partition, key, partition, version, {})
            for partition, version in versions.items()
            if version
        ]
        gone = [partition for partition, version in versions.items() if not version]
        if self.polled.withdraw:
            gone += [p for p in (*known.versions, *known.rejected) if p not in versions]
        yield from known.differences(seen, gone)

    def _by_partition(self, answer: Answer) -> dict[str, str]:
        """The versions, as text; empty for what is gone."""
        shape = self.polled.source.partitions
        if (shape is not None) != isinstance(answer, Mapping):
            what = f"'{self.polled.source.key}' is {describe(shape)}"
            wanted = "the version" if shape is None else "a mapping of partition to version"
            raise TypeError(
                self._said(f"returned a {type(answer).__name__}; {what}, so return {wanted}")
            )
        versions = answer if isinstance(answer, Mapping) else {WHOLE: answer}
        found: dict[str, str] = {}
        for partition, version in versions.items():
            if not isinstance(partition, str):
                raise TypeError(
                    self._said(f"returned the partition {partition!r}; partitions are texts")
                )
            try:
                found[partition] = "" if version is None else version_text(version)
            except (TypeError, ValueError) as error:
                at = f" for '{partition}'" if partition else ""
                raise type(error)(self._said(f"returned no version{at}: {error}")) from None
        return found

    def _said(self, what: str) -> str:
        return f"poll '{self.name}' ({self.polled.where}) {what}"
