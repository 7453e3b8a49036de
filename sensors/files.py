"""Files that land: patterns say where, scans say what is true, and the file system's hints say
when.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Literal

from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError
from freshet.engine.stores.landing import PASSED_OVER
from freshet.sensors.admission import HasSpec
from freshet.sensors.landing.places import Target, Watched
from freshet.sensors.landing.rules import check_rules
from freshet.sensors.landing.watch import Watch
from freshet.sensors.pattern import pattern_for, with_placeholder
from freshet.sensors.sensor import Batch

RECONCILE_S = 30.0
"""Time between full scans: hints can be lost without a sign, a scan cannot."""

BEAT_S = 10.0
"""Longest time without a batch: one without anything says that the sensor works."""


def files(
    pattern: str | Iterable[str] | Mapping[str, HasSpec],
    *,
    source: HasSpec | None = None,
    name: str | None = None,
    settle: float | str | None = None,
    marker: str = "",
    ignore: Iterable[str] = PASSED_OVER,
    version: Literal["content", "stat"] = "content",
    on_removal: Literal["withdraw", "keep"] = "withdraw",
    reconcile: float | str = RECONCILE_S,
    poll: bool = False,
) -> "FilesSensor":
    """A sensor for files at `pattern` (`landing/{partition}.csv`), each a partition of `source`; of
    a product also by dimension (`landing/{day}/{region}.csv`). Of several patterns, or a mapping of
    patterns to sources, a file belongs to the first that it matches.

    Beside a placeholder `*` stands for any part of a name, `**` for any folders; of several files
    for one partition the first by path counts. A pattern that ends in `/` takes folders as
    partitions. Relative patterns start at the working directory.

    The data version is the digest of the content, so touching a file changes nothing; with
    `version="stat"` it is size and time, and files are never read. A file counts once nobody has it
    open for writing; with `settle`, once it also has not changed for that long; with `marker`, once
    that lies there too: `_SUCCESS` in its folder, `.done` after its name, `{name}.ok` beside it.
    Names that match one of `ignore` are passed over. A removed file withdraws its partition, or
    with `on_removal="keep"` nothing happens. `poll` asks instead of being told, as is done anyway
    on network mounts.
    """
    pairs = _pairs(pattern, source)
    texts = [text for text, _ in pairs]
    shown = texts[0] if len(texts) == 1 else ", ".join(texts)
    for value, choices in ((on_removal, ("withdraw", "keep")), (version, ("content", "stat"))):
        if value not in choices:
            raise DefinitionError(
                f"files({shown!r}): {value!r} is none of {', '.join(map(repr, choices))}"
            )
    passed_over = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    targets = tuple(Target(pattern_for(one.spec, text), one.spec) for text, one in pairs)
    for target in targets:
        check_rules(target.pattern.text, target.pattern.relative, passed_over, marker)
    return FilesSensor(
        Watched(
            name=name or f"files:{shown}",
            targets=targets,
            settle_ms=parse_duration_ms(settle, "settle") if settle is not None else None,
            keep=on_removal == "keep",
            reconcile_s=parse_duration_ms(reconcile, "reconcile") / 1000,
            poll=poll,
            ignore=passed_over,
            marker=marker,
            by_stat=version == "stat",
        )
    )


def _pairs(
    pattern: str | Iterable[str] | Mapping[str, HasSpec], source: HasSpec | None
) -> list[tuple[str, HasSpec]]:
    """Each pattern with its source."""
    if isinstance(pattern, Mapping):
        if source is not None:
            raise DefinitionError("files(): a mapping of patterns names their sources itself")
        found = list(pattern.items())
    elif source is None:
        text = pattern if isinstance(pattern, str) else next(iter(pattern), "")
        raise DefinitionError(
            f"files({pattern!r}) names no source",
            hint=f"write fr.files({with_placeholder(text)!r}, source=...), or a mapping of patterns"
            " to sources",
        )
    else:
        texts = [pattern] if isinstance(pattern, str) else list(dict.fromkeys(pattern))
        found = [(text, source) for text in texts]
    if not found:
        raise DefinitionError("files() without a pattern watches nothing")
    return found


class FilesSensor:
    """The definition of a file sensor; each `run` is one independent watch."""

    keeps_payload = False

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.name = watched.name
        """Under which its cursor is stored; from the patterns unless one was given."""
        self.sources = tuple(dict.fromkeys(target.source.key for target in watched.targets))

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """Batches from the cursor on, for ever; see `Sensor`."""
        watch = Watch(self.watched, cursor)
        beat_at = 0.0  # until the first scan is complete
        try:
            while True:
                async with aclosing(watch.changes()) as batches:
                    async for batch in batches:
                        yield batch
                        watch.remember(batch)
                        beat_at = beat_at and monotonic() + BEAT_S
                if watch.is_complete and monotonic() >= beat_at:
                    yield watch.beat()
                    beat_at = monotonic() + BEAT_S
                await watch.wait()
        finally:
            watch.close()
