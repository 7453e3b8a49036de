"""What a running asset may ask about its own run, through a parameter named `context`."""

import msgspec

from freshet.engine.keys import AssetKey, PartitionKey


class Context(msgspec.Struct, frozen=True):
    """The asset and partition being built (`partition` is empty for an unpartitioned asset), the
    run, the attempt.
    """

    asset: AssetKey
    partition: PartitionKey
    run: int
    attempt: int
    logical_time_us: int
    """Recorded time (µs, UTC) of the run's start: the same on every replay of the stream."""


class Output:
    """What an asset may return to say more: metadata beside its value, or only a data version.

    `data_version` is for an asset that writes its own data somewhere else, and so comes without a
    value: equal versions stop all work downstream, so it must differ whenever the data does.
    """

    __slots__ = ("data_version", "metadata", "value")

    def __init__(
        self,
        value: object = None,
        *,
        metadata: dict[str, str | int | float | bool | None] | None = None,
        data_version: str | None = None,
    ) -> None:
        if value is not None and data_version is not None:
            raise ValueError(
                "an Output has a value, whose content is its version, or a data_version, not both"
            )
        self.value = value
        self.metadata = dict(metadata or {})
        self.data_version = data_version
