"""The sensor contract: an async source of batches, each a set of changes and a move of the
cursor.

What every sensor keeps to (held by `tests/test_sensor_contract.py` for each of them):

- A batch is appended whole, changes and cursor in one transaction. When a `yield` returns, that is
  durable; only then may the outside be told, and the next batch come. So a sensor that stores its
  place in the cursor, and nothing else anywhere, reads each change into the stream exactly once,
  whatever is killed at which moment.
- `run` may be ended at any `yield` or await, and called again with the cursor as it is then stored,
  in this process or another. It goes on from there, whatever it saw before.
- It never yields a version that it did not see, nor moves the cursor past a change it did not
  yield.
- It holds at most one batch beyond what is durable: who cannot append does not read on
  (back-pressure).
- What cannot count is named in `rejected`, once, and the sensor goes on; what cannot be read at all
  it raises, and is started anew with backoff; where only a person can choose it raises
  `SensorError`.
- Now and then it yields also when there is nothing new, so that all can see that it works.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from freshet.engine.events import SourceChanged
from freshet.engine.keys import AssetKey
from freshet.engine.secrets import redact
from freshet.engine.specs import Plain

MAX_BATCH_CHANGES = 500
"""Changes a sensor puts into one batch: one transaction, small enough not to hold up others."""

MAX_EXCERPT_CHARS = 200
"""How much of what was rejected is kept: enough to recognise it, too little to fill the stream."""

REPLAY = "?replay "
"""Before an item, in a cursor: a person wants what was rejected there to be looked at again."""

START = "?from"
"""In a cursor: where a person wants the sensor to go on (`earliest`, `latest` or `resume`)."""


class Rejection(msgspec.Struct, frozen=True):
    """Something outside that cannot count as a change, and why.

    `item` says where it lies, in the sensor's words, the same each time; `excerpt` is how it
    begins.
    """

    item: str
    reason: str
    excerpt: str = ""
    metadata: dict[str, Plain] = {}


class Settlement(msgspec.Struct, frozen=True):
    """What was rejected counts after all (then the change is in the same batch), or is gone."""

    item: str
    accepted: bool = True


class Batch(msgspec.Struct, frozen=True):
    """Changes seen outside, and how the cursor moves with them (an item set to None is forgotten).

    `behind` is how many changes are known to wait outside after these, where that can be known.
    `trouble` says what is wrong while the sensor goes on all the same, as long as it is, and `hint`
    what to do about it. A batch without anything says only that the sensor works.
    """

    changes: Sequence[SourceChanged] = ()
    cursor: Mapping[str, str | None] = {}
    rejected: Sequence[Rejection] = ()
    settled: Sequence[Settlement] = ()
    behind: int | None = None
    trouble: str = ""
    hint: str = ""


class Sensor(Protocol):
    """An outside source of changes, read exactly once into the stream; see this module's text.

    It may say more: `answers`, what people may ask for in its cursor (`START`, `REPLAY`), and
    `keeps_payload`, false if it never records the content of what changed.
    """

    @property
    def name(self) -> str:
        """Unique in the project, stable across restarts: the cursor is stored under it."""
        ...

    @property
    def sources(self) -> tuple[AssetKey, ...]:
        """The sources whose changes it reports."""
        ...

    def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """Batches from the given cursor on, for ever.

        What people ask of a sensor stands in its cursor too (`START`, items that begin with
        `REPLAY`), until a batch sets it to None; a sensor that does not know it leaves it alone.
        """
        ...


@runtime_checkable
class Borrower(Protocol):
    """A sensor with a user's function, which may take resources of the project."""

    def needs(self, resources: Collection[str]) -> tuple[str, ...]:
        """Which of them it takes. Raises DefinitionError for parameters that are none."""
        ...

    def lending(self, lent: Mapping[str, object]) -> Sensor:
        """The same sensor, with these given to its function."""
        ...


def answers_of(sensor: Sensor) -> frozenset[str]:
    """What people may ask for in the cursor that this sensor knows: `START`, `REPLAY`."""
    found: frozenset[str] = getattr(sensor, "answers", frozenset())
    return found


def excerpt(content: str | bytes | None) -> str:
    """How a content begins, as text, at most `MAX_EXCERPT_CHARS` long."""
    if content is None:
        return ""
    if isinstance(content, bytes):
        content = content[: 4 * MAX_EXCERPT_CHARS].decode("utf-8", "backslashreplace")
    content = redact(content).encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in content[:MAX_EXCERPT_CHARS])
    return shown if len(shown) <= MAX_EXCERPT_CHARS else shown[: MAX_EXCERPT_CHARS - 1] + "…"
