"""A user's own sensor: an async generator function of batches, made a sensor by `@sensor`."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from typing import Any

import msgspec

from freshet.engine.assets import Source
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.events import SourceChanged
from freshet.engine.keys import WHOLE, AssetKey, PartitionKey
from freshet.engine.parts import Payload
from freshet.engine.signatures import place_of
from freshet.engine.specs import Plain
from freshet.engine.stores.payloads import inline_content, payload_of
from freshet.engine.stream import wall_clock
from freshet.sensors.admission import Admission
from freshet.sensors.known import spec_of
from freshet.sensors.sensor import Batch, Rejection, excerpt
from freshet.sensors.versions import Version, version_text

MAX_YIELD = 5000
"""Changes in one batch of a user's generator: half of what the stream lets wait at all."""

Yielded = Batch | SourceChanged
"""What a generator may yield: a batch, or just a change."""

Generate = (
    Callable[[Mapping[str, str]], AsyncIterator[Yielded]]
    | Callable[[], AsyncIterator[Yielded]]
    | Callable[..., AsyncIterator[Yielded]]
)
"""A user's async generator function; of the cursor, or of nothing, and of resources."""


def change(
    source: Source,
    partition: PartitionKey = WHOLE,
    *,
    version: Version | None,
    payload: bytes | str | Mapping[str, Any] | Sequence[Any] | None = None,
    metadata: Mapping[str, Plain] | None = None,
) -> SourceChanged:
    """A change of a source, to be yielded by a sensor: this partition was seen with this version;
    with None it is gone.

    `payload` is what came with it, kept for assets that read changes (`fr.Changes`): bytes and text
    as they are, all else as JSON. Raises TypeError or ValueError for what can be neither.
    """
    return SourceChanged(
        spec_of(source, "fr.change").key,
        partition,
        "" if version is None else version_text(version),
        dict(metadata or {}),
        _payload(payload),
    )


def sensor(
    *, sources: Sequence[Source], name: str | None = None
) -> Callable[[Generate], "GeneratorSensor"]:
    """Make a sensor of an async generator function that reports changes of these sources.

    The function is called with the cursor, a mapping of text to text (empty at first), and the
    resources of the project that it names as parameters; it yields
    `fr.Batch(changes, cursor)`; the changes and the cursor are recorded in one transaction before
    the `yield` returns. Ended at any moment, it is called again with the cursor as it is then
    stored. What cannot be a partition of its source is rejected, and named.

    The sensor is named for the function unless `name` is given: the cursor is stored under it.
    """
    if isinstance(sources, Source) or not sources:
        raise DefinitionError(
            f"fr.sensor: sources={sources!r}", hint="list them: sources=[orders, prices]"
        )
    specs = [spec_of(source, "fr.sensor") for source in sources]

    def make(function: Generate) -> GeneratorSensor:
        where = place_of(function)
        if not inspect.isasyncgenfunction(function):
            called = getattr(function, "__name__", repr(function))
            raise DefinitionError(
                f"'{called}' cannot be a sensor ({where})",
                cause="it is no async generator function",
                hint="write `async def`, and `yield` batches",
            )
        admissions = {spec.key: Admission(spec) for spec in specs}
        return GeneratorSensor(name or function.__name__, function, admissions, where)

    return make


class GeneratorSensor:
    """A sensor whose batches a user's function yields; each is checked before it is recorded."""

    def __init__(
        self,
        name: str,
        function: Callable[..., AsyncGenerator[object, None]],
        admissions: Mapping[AssetKey, Admission],
        where: str,
    ) -> None:
        self.name = name
        self.sources = tuple(admissions)
        self.where = where
        self._function = function
        self._admissions = admissions
        self._parameters = tuple(inspect.signature(function).parameters)
        self._lent: Mapping[str, object] = {}

    def needs(self, resources: Collection[str]) -> tuple[str, ...]:
        """The resources it has as parameters; one more receives the cursor."""
        others = [name for name in self._parameters if name not in resources]
        if len(others) > 1:
            raise DefinitionError(
                f"the sensor '{self.name}' has {len(self._parameters)} parameters ({self.where})",
                cause=f"{' and '.join(others)} are no resources",
                hint=did_you_mean(others[-1], resources)
                or "it is called with the cursor and resources, and nothing else",
            )
        return tuple(name for name in self._parameters if name in resources)

    def lending(self, lent: Mapping[str, object]) -> "GeneratorSensor":
        """The same sensor, with these resources for its function."""
        made = copy(self)
        made._lent = dict(lent)
        return made

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """The function's batches from the cursor on; see `Sensor`. Raises TypeError or ValueError
        naming the function for what is no batch of changes of its sources.
        """
        first = [dict(cursor)] if self._parameters and not self._lent else []
        named = {name: self._lent.get(name, dict(cursor)) for name in self._parameters}
        called = self._function(*first, **(named if self._lent else {}))
        async with aclosing(called) as batches:
            async for yielded in batches:
                yield self._checked(yielded)

    def __repr__(self) -> str:
        return f"<sensor {self.name!r} ({self.where})>"

    def _checked(self, yielded: object) -> Batch:
        """The batch with what is no partition among the rejected."""
        batch = Batch((yielded,)) if isinstance(yielded, SourceChanged) else yielded
        if not isinstance(batch, Batch):
            raise TypeError(self._said(f"yielded a {type(batch).__name__}; yield an fr.Batch"))
        if len(batch.changes) > MAX_YIELD:
            raise ValueError(
                self._said(f"yielded {len(batch.changes)} changes at once; at most {MAX_YIELD}")
            )
        _check_cursor(batch.cursor, self._said)
        changes: list[SourceChanged] = []
        rejected = list(batch.rejected)
        now_us = wall_clock()
        for one in batch.changes:
            problem = self._admission(one).problem(one.partition, now_us)
            if problem:
                rejected.append(_rejection(one, problem))
            else:
                changes.append(one)
        return msgspec.structs.replace(batch, changes=tuple(changes), rejected=tuple(rejected))

    def _admission(self, one: object) -> Admission:
        if not isinstance(one, SourceChanged):
            raise TypeError(
                self._said(f"yielded a {type(one).__name__} as a change; make it by fr.change")
            )
        if one.asset not in self._admissions:
            hint = did_you_mean(one.asset, self._admissions) or "name it in sources=[...]"
            raise ValueError(
                self._said(f"reports '{one.asset}', none of its sources {[*self.sources]}; {hint}")
            )
        if not isinstance(one.partition, str) or not isinstance(one.data_version, str):
            raise TypeError(
                self._said(
                    f"reports {one.asset}@{one.partition!r} with version {one.data_version!r};"
                    " partition and version are texts, see fr.change"
                )
            )
        return self._admissions[one.asset]

    def _said(self, what: str) -> str:
        return f"sensor '{self.name}' ({self.where}) {what}"


def _check_cursor(cursor: Mapping[str, object], said: Callable[[str], str]) -> None:
    for item, value in cursor.items():
        if not isinstance(item, str) or not isinstance(value, str | None):
            raise TypeError(
                said(f"moves its cursor to {{{item!r}: {value!r}}}; items and values are texts")
            )


def _rejection(one: SourceChanged, problem: str) -> Rejection:
    content = inline_content(one.payload) if one.payload is not None else None
    item = f"{one.asset}@{one.partition}"
    return Rejection(item, problem, excerpt(content), {"version": one.data_version})


def _payload(content: object) -> Payload | None:
    if content is None:
        return None
    if isinstance(content, bytes):
        return payload_of(content)
    if isinstance(content, str):
        return payload_of(content.encode())
    try:
        return payload_of(msgspec.json.encode(content), "json")
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise TypeError(f"the payload cannot be written as JSON: {error}") from None
