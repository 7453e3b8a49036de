"""Versions of an asset partition: all that its events ever stated, and which a person means."""

from collections.abc import Iterable, Sequence

import msgspec

from freshet.engine.errors import RequestError
from freshet.engine.events import Materialized, Observed, Recorded, RolledBack
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.specs import Metadata
from freshet.projections.catalog import Version
from freshet.projections.why import short

MAX_NAMED = 5
"""Versions named to who has meant none of them, or several."""


class VersionRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version that an event stated, and how: `materialized`, `observed` or `rolled back`. `kept`
    says whether the store still has its value, where that was looked at.
    """

    asset: AssetKey
    partition: PartitionKey
    position: int
    recorded_at: int
    how: str
    data_version: str
    code_version: str = ""
    run: int = 0
    reason: str = ""
    current: bool = False
    metadata: Metadata = {}
    kept: bool | None = None


def version_rows(events: Iterable[Recorded], current: int) -> list[VersionRow]:
    """Of the events about an asset partition those that state a version; the one at `current` is
    the current one.
    """
    rows = []
    for recorded in events:
        event = recorded.event
        if not isinstance(event, Materialized | Observed | RolledBack) or not event.data_version:
            continue
        version = Version.of(recorded)
        assert version is not None
        rows.append(
            VersionRow(
                event.asset,
                event.partition,
                recorded.position,
                recorded.recorded_at,
                _how(event),
                version.data_version,
                version.code_version,
                version.run,
                event.reason if isinstance(event, RolledBack) else "",
                recorded.position == current,
                version.metadata,
            )
        )
    return rows


def meant(name: AssetPartition, rows: Sequence[VersionRow], text: str) -> VersionRow:
    """The version a person means, as it was last made: by its name or how that begins. Raises
    RequestError when there is none, or several.
    """
    made = [row for row in rows if row.how == "materialized"]
    known = list(dict.fromkeys(row.data_version for row in reversed(made)))
    if not known:
        raise RequestError(
            f"'{name}' was never built: there is no version to go back to",
            hint=f"freshet materialize {name}",
        )
    found = [one for one in known if one == text] or [one for one in known if one.startswith(text)]
    if len(found) != 1 or not text:
        listed = ", ".join(found[:MAX_NAMED] or map(short, known[:MAX_NAMED]))
        raise RequestError(
            f"{len(found)} versions of '{name}' begin with '{text}'"
            if found
            else f"no version of '{name}' begins with '{text}'",
            cause=f"{'they are' if found else 'the newest are'} {listed}",
            hint=f"freshet versions {name}",
        )
    return next(row for row in reversed(made) if row.data_version == found[0])


def _how(event: Materialized | Observed | RolledBack) -> str:
    if isinstance(event, RolledBack):
        return "rolled back"
    return "materialized" if isinstance(event, Materialized) else "observed"
