"""What a running asset may ask about its own run, through a parameter named `context`."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import NamedTuple, cast

import msgspec

from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.runlogs import LOGGER, RunLogger
from freshet.engine.specs import Metadata


class Window(NamedTuple):
    """From when (inclusive) to when (exclusive) a partition is, in its own time zone."""

    start: datetime
    end: datetime


class Context(msgspec.Struct, frozen=True):
    """The asset and partition being built (`partition` is empty for an unpartitioned asset), the
    run, the attempt.

    Of a multi-asset, `asset` is the first output. In a batch, `partitions` has all of them, and
    `partition` the first. `windows` has the window of each that is one of time. `gaps` names the
    inputs that are missing and gone on without.
    """

    asset: AssetKey
    partition: PartitionKey
    run: int
    attempt: int
    logical_time_us: int
    """Recorded time (µs, UTC) of the run's start: the same on every replay of the stream."""
    partitions: tuple[PartitionKey, ...] = ()
    windows: Mapping[PartitionKey, Window] = {}
    gaps: tuple[AssetPartition, ...] = ()
    token: str = ""
    """The same for every run of one attempt at the same inputs and code, should it be cut off and
    started anew: for services that take such a key and do the same work once.
    """
    job_before: str = ""
    """The job that a run before this one submitted for the same inputs and code, and was cut off.
    """
    submitted: Callable[[str], Awaitable[None]] | None = None
    """Records a job; set by the engine."""

    async def job(self, submit: Callable[[], str | Awaitable[str]]) -> str:
        """The name of the job that does the work elsewhere: that of the run before, if it was cut
        off and this one is for the same inputs and code; else what `submit` returns, which is
        recorded before this returns.

        Between the two lies the moment in which the engine may be killed: give the service `token`,
        if it takes one, so that it knows the job again. One job in a run. In a function that is not
        async: `anyio.from_thread.run(context.job, submit)`; in a process, where no event loop runs,
        `anyio.run(context.job, submit)`.
        """
        if self.job_before:
            return self.job_before
        found = submit()
        name = found if isinstance(found, str) else await found
        if not isinstance(name, str) or not name:
            raise TypeError(f"a job has a name, by which to find it again, and not {name!r}")
        if self.submitted is not None:
            await self.submitted(name)
        return name

    @property
    def partition_key(self) -> PartitionKey:
        """`partition`, by the name it has elsewhere in the field."""
        return self.partition

    @property
    def log(self) -> RunLogger:
        """The log of the run: `context.log.info("read", rows=3)`; see `freshet logs`."""
        return LOGGER

    @property
    def window(self) -> Window:
        """The window of `partition`. Raises ValueError when it is no window of time."""
        found = self.windows.get(self.partition)
        if found is None:
            raise ValueError(f"'{AssetPartition(self.asset, self.partition)}' is no window of time")
        return found


class Output:
    """What an asset may return to say more: metadata beside its value, or only a data version.

    `data_version` is for an asset that writes its own data somewhere else, and so comes without a
    value: equal versions stop all work downstream, so it must differ whenever the data does.
    Metadata are text, numbers, true, false and none; paths, moments with a time zone, lists and
    dicts, small tables; and what `fr.metadata` has. They keep their type; large ones are refused.
    """

    __slots__ = ("data_version", "metadata", "value")

    def __init__(
        self,
        value: object = None,
        *,
        metadata: Mapping[str, object] | None = None,
        data_version: str | None = None,
    ) -> None:
        if value is not None and data_version is not None:
            raise ValueError(
                "an Output has a value, whose content is its version, or a data_version, not both"
            )
        self.value = value
        # What it holds is judged, and put into the form that is recorded, when the run keeps it.
        self.metadata = cast(Metadata, dict(metadata or {}))
        self.data_version = data_version
