"""Asset keys and partition keys: how people and the stream name things.

An asset key is one or more segments joined by `/` (`landing/flights`); the segments before the last
are its namespace. A partition key is any short text a person recognises (`2013-01-05`); the only
partition of an unpartitioned asset is `WHOLE`, the empty string. `asset@partition` names both.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from freshet.engine.errors import DefinitionError, RequestError

AssetKey = str
PartitionKey = str

WHOLE: PartitionKey = ""
"""The only partition of an unpartitioned asset."""

MAX_PARTITION_KEY_BYTES = 200
"""A partition key becomes a file name, and file systems allow 255 bytes with the suffixes we add.
"""

_SEGMENT = re.compile(r"\w[\w.\-]*")


class AssetPartition(NamedTuple):
    """One partition of one asset: the unit that is owed, run, materialized and explained."""

    asset: AssetKey
    partition: PartitionKey = WHOLE

    def __str__(self) -> str:
        return f"{self.asset}@{self.partition}" if self.partition else self.asset

    def covers(self, asset: AssetKey, partition: PartitionKey) -> bool:
        """Is this what a person means who names it? Without a partition: all that the asset has."""
        return asset == self.asset and self.partition in (WHOLE, partition)


def asset_key(value: str | Sequence[str]) -> AssetKey:
    """The canonical key of `"a/b"` or `("a", "b")`. Raises DefinitionError when it is malformed."""
    segments = value.split("/") if isinstance(value, str) else list(value)
    for segment in segments:
        if not isinstance(segment, str) or not _SEGMENT.fullmatch(segment):
            raise DefinitionError(
                f"asset key {value!r} has a bad segment {segment!r}",
                cause="a segment is letters, digits, '_', and after the first of them '.' or '-'",
                hint="write keys as 'namespace/name', for example 'landing/flights'",
            )
    if not segments:
        raise DefinitionError(
            "an asset key needs at least one segment", hint="for example 'flights'"
        )
    return "/".join(segments)


def partition_key_problem(key: str) -> str | None:
    """Why `key` cannot be a partition key of any definition, or None when it can."""
    if not key:
        return "it is empty"
    if not key.isprintable():
        return "it has control or unprintable characters"
    if key.strip() != key:
        return "it begins or ends with white space"
    if len(key.encode("utf-8", "surrogatepass")) > MAX_PARTITION_KEY_BYTES:
        return f"it is longer than {MAX_PARTITION_KEY_BYTES} bytes"
    return None


def parse_asset_partition(text: str) -> AssetPartition:
    """Read `asset` or `asset@partition` as a person types it. Raises RequestError."""
    asset, at, partition = text.partition("@")
    try:
        key = asset_key(asset)
    except DefinitionError as error:
        raise RequestError(
            error.message, cause=error.cause, hint="write ASSET or ASSET@PARTITION"
        ) from None
    if at and not partition:
        raise RequestError(
            f"'{text}' names no partition after '@'", hint=f"write '{key}' or '{key}@PARTITION'"
        )
    return AssetPartition(key, partition)
