"""Files that land: a pattern says where, a scan says what is true, and the file system's hints say
when.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Literal, Protocol

from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError
from freshet.engine.keys import AssetKey
from freshet.engine.partitions import Product, describe
from freshet.engine.specs import AssetSpec
from freshet.sensors.pattern import parse_pattern
from freshet.sensors.sensor import Batch
from freshet.sensors.watch import Watch, Watched

RECONCILE_S = 30.0
"""Time between full scans: hints can be lost without a sign, a scan cannot."""


class HasSpec(Protocol):
    """A source, as far as a sensor needs to know it."""

    @property
    def spec(self) -> AssetSpec: ...


def files(
    pattern: str,
    *,
    source: HasSpec,
    name: str | None = None,
    settle: float | str | None = None,
    on_removal: Literal["withdraw", "keep"] = "withdraw",
    reconcile: float | str = RECONCILE_S,
    poll: bool = False,
) -> "FilesSensor":
    """A sensor for files at `pattern` (`landing/{partition}.csv`), each a partition of `source`; of
    a product also by dimension (`landing/{day}/{region}.csv`).

    The data version is the digest of the content, so touching a file changes nothing. A file counts
    once nobody has it open for writing; with `settle`, once it also has not changed for that long.
    A removed file withdraws its partition, or with `on_removal="keep"` nothing happens. `poll` asks
    instead of being told, for network mounts. Relative patterns start at the working directory.
    """
    if on_removal not in ("withdraw", "keep"):
        raise DefinitionError(
            f"files({pattern!r}): on_removal={on_removal!r}", hint="use 'withdraw' or 'keep'"
        )
    spec = source.spec
    shape = spec.partitions
    parsed = parse_pattern(pattern, shape.names if isinstance(shape, Product) else ())
    if parsed.partitioned != (spec.partitions is not None):
        raise DefinitionError(
            f"the pattern {pattern!r} does not fit source '{spec.key}'",
            cause=f"the source is {describe(spec.partitions)}",
            hint="a partitioned source needs {partition} in the pattern, others must not have it",
        )
    return FilesSensor(
        Watched(
            name or f"files:{pattern}",
            parsed,
            spec,
            parse_duration_ms(settle, "settle") if settle is not None else None,
            on_removal == "keep",
            parse_duration_ms(reconcile, "reconcile") / 1000,
            poll,
        )
    )


class FilesSensor:
    """The definition of a file sensor; each `run` is one independent watch."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    @property
    def name(self) -> str:
        """The name its cursor is stored under; from the pattern unless one was given."""
        return self.watched.name

    @property
    def sources(self) -> tuple[AssetKey, ...]:
        """The one source it reports."""
        return (self.watched.source.key,)

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """Batches from the cursor on, for ever; see `Sensor`."""
        watch = Watch(self.watched, cursor)
        try:
            while True:
                async for batch in watch.changes():
                    yield batch
                    watch.remember(batch)
                await watch.wait()
        finally:
            watch.close()
