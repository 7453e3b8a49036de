"""Parts of events: what several of them speak of, and is no event by itself."""

from typing import Literal

import msgspec

from freshet.engine.keys import WHOLE, AssetKey, PartitionKey

EVERY: PartitionKey = "*"
"""Stands in `Input.partition` for all partitions the upstream had when the run started."""

MAX_CAUSES = 8
"""Changed inputs named in one RunStarted: enough to read, small enough for 1 kB of stream per run.
"""


FailureKind = Literal[
    "error", "timeout", "exit", "value", "input", "store", "check", "fatal", "retry",
    "infrastructure", "killed",
]  # fmt: skip
"""What broke: the function (error, exit), its time, what it returned (value, store), what it reads
(input), a blocking check, what carries them all (infrastructure), or the engine, again and again
(killed). `fatal` and `retry` are the function's own words for how to go on.
"""


class Payload(msgspec.Struct, frozen=True, array_like=True):
    """The content that came with a change. `data` is it as `text`, as `base64` of bytes that are no
    text, or the digest under which it is `stored` beside the stream, because it is large.
    """

    kind: Literal["json", "bytes"]
    form: Literal["text", "base64", "stored"]
    data: str
    size: int
    """Bytes of the content."""


class Input(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One consumed input: the version of one upstream partition, recorded at `position`.

    For an edge over all partitions, `partition` is `EVERY`, `data_version` the additive fingerprint
    of all `count` versions in hexadecimal, and `position` that of the newest among them; the single
    versions are those current in the stream just before the run started. Over several partitions it
    is `first..last`, likewise. `gaps` names the missing ones a run went on without, at most
    `MAX_CAUSES`; `missing` counts all of them.
    """

    asset: AssetKey
    partition: PartitionKey
    data_version: str
    position: int
    count: int = 1
    missing: int = 0
    gaps: tuple[PartitionKey, ...] = ()


class Absorbed(msgspec.Struct, frozen=True, array_like=True):
    """What a run read of its sources change by change: the `count` changes after position `since`
    up to `until`. `rest`, recorded at `rest_us` (µs), is the first that it left for the next run;
    0: none.
    """

    since: int
    until: int
    count: int = 0
    rest: int = 0
    rest_us: int = 0


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """One asset partition a run sets out to produce, and the debt it sets out to pay.

    `fingerprint` is that of the inputs as the deciding view saw them, in hexadecimal.
    """

    asset: AssetKey
    partition: PartitionKey = WHOLE
    owed: int = 0
    fingerprint: str = ""
    code_version: str = ""


class Cause(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """What changed since the target was last built, an input or a wish, and at which position."""

    asset: AssetKey
    partition: PartitionKey
    position: int
