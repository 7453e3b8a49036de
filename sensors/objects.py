"""Objects that land in object storage (S3, Google Cloud Storage, Azure, folders): one listing
compared with the last, for any number of patterns.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from functools import partial
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import anyio.to_thread

from freshet.engine.assets import Source
from freshet.engine.errors import DefinitionError
from freshet.engine.specs import AssetSpec, Plain
from freshet.sensors.known import Known, Place, Sighting, spec_of
from freshet.sensors.object_store import Access, Found
from freshet.sensors.pace import Pace, Pacer, pace_of
from freshet.sensors.pattern import Pattern, pattern_for
from freshet.sensors.sensor import Batch

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "file", "memory")
"""What obstore can list by a URL that is a scheme, a bucket and a key."""


class Listed(NamedTuple):
    """What is listed, and whether what is not there any more is withdrawn."""

    name: str
    access: Access
    patterns: tuple[tuple[Pattern, AssetSpec], ...]
    pace: Pace
    withdraw: bool


def objects(
    patterns: str | Iterable[str] | Mapping[str, Source],
    *,
    source: Source | None = None,
    every: float | str = "30s",
    name: str | None = None,
    on_removal: Literal["withdraw", "keep"] = "withdraw",
    store: Mapping[str, object] | object | None = None,
) -> "ObjectsSensor":
    """A sensor for objects at a pattern (`s3://bucket/landing/{partition}.csv`), each a partition
    of `source`; or at several patterns of one bucket, or a mapping of such patterns to sources. An
    object belongs to the first that it matches; a second object of a partition is rejected.

    It lists at once, and then `every` so often: one listing for all patterns. The data version is
    the object's ETag; so nothing is read. An object that is deleted withdraws its partition, or
    with `on_removal="keep"` nothing happens.

    `store` are options of the store, passed to obstore (`endpoint`, `region`, `access_key_id` …); a
    value `env:NAME` is read from the environment when the daemon runs. Or it is a store of obstore
    itself. Credentials that the cloud's own tools find are found without. No secret gets into
    events, logs or errors. Needs the extra `objects`.
    """
    if not isinstance(patterns, Mapping | str):
        patterns = tuple(patterns)
    if isinstance(patterns, Mapping) != (source is None) or not patterns:
        raise DefinitionError(
            f"fr.objects({patterns!r}, source={source!r})",
            hint='use one pattern and source=, or {"s3://bucket/a/{partition}.csv": a, …}',
        )
    if on_removal not in ("withdraw", "keep"):
        raise DefinitionError(
            f"fr.objects({patterns!r}): on_removal={on_removal!r}", hint="use 'withdraw' or 'keep'"
        )
    texts = [patterns] if isinstance(patterns, str) else list(patterns)
    given = patterns if isinstance(patterns, Mapping) else dict.fromkeys(texts, source)
    first = next(iter(given))
    split = {text: _split(text) for text in given}
    urls = {url for url, _ in split.values()}
    if len(urls) > 1:
        raise DefinitionError(
            f"fr.objects: patterns in {' and '.join(sorted(urls))}",
            cause="one sensor lists one bucket",
            hint="make a sensor of each",
        )
    parsed = tuple(
        (_parsed(text, split[text][1], spec), spec)
        for text, spec in ((text, spec_of(of, "fr.objects")) for text, of in given.items())
    )
    return ObjectsSensor(
        Listed(
            name or f"objects:{first}",
            Access(urls.pop(), store),
            parsed,
            pace_of(every, None, "UTC", f"fr.objects({first!r})"),
            on_removal == "withdraw",
        )
    )


class ObjectsSensor:
    """The definition of a sensor of objects; each `run` lists anew."""

    keeps_payload = False

    def __init__(self, listed: Listed, pacer: Pacer | None = None) -> None:
        self.listed = listed
        self.name = listed.name
        """Under which its cursor is stored; from the first pattern unless one was given."""
        self.sources = tuple(dict.fromkeys(spec.key for _, spec in listed.patterns))
        self.prefixes = _prefixes({_root(pattern) for pattern, _ in listed.patterns})
        self._pacer = pacer

    async def run(self, cursor: Mapping[str, str]) -> AsyncGenerator[Batch, None]:
        """A listing, what differs, a rest, and again; see `Sensor`. A listing without news yields
        an empty batch. The cursor is key → data version.
        """
        pacer = self._pacer or Pacer(self.listed.pace)
        specs = [spec for _, spec in self.listed.patterns]
        know = partial(Known, cursor, specs, self._place_of, pacer.clock, self._url)
        known = await anyio.to_thread.run_sync(know)  # it may be a hundred thousand objects
        store = self.listed.access.open()
        while True:
            began = pacer.clock()
            quiet = True
            async for batch in self._look(store, known):
                yield batch
                quiet = False
            if quiet:
                yield Batch()
            await pacer.rest(began)

    def __repr__(self) -> str:
        return f"<objects {self.name!r}>"

    async def _look(self, store: object, known: Known) -> AsyncGenerator[Batch, None]:
        """What differs since the last look. Only a whole listing says that something is gone."""
        gone = {*known.versions, *known.rejected}
        late: list[Sighting] = []
        async for page in self.listed.access.pages(store, self.prefixes):
            gone.difference_update(found.key for found in page)
            news = [found for found in page if known.versions.get(found.key) != found.version]
            sightings = [s for found in news if (s := self._sighting(found)) is not None]
            late += [s for s in sightings if _is_other(s, known)]
            for batch in known.differences([s for s in sightings if not _is_other(s, known)]):
                yield batch
        for batch in known.differences(late, sorted(gone), withdraw=self.listed.withdraw):
            yield batch

    def _sighting(self, found: Found) -> Sighting | None:
        place = self._place_of(found.key)
        if place is None:
            return None
        about: dict[str, Plain] = {
            "url": self._url(found.key),
            "size": found.size,
            "etag": found.etag,
            "last_modified": found.last_modified.isoformat(),
        }
        return Sighting(found.key, *place, found.version, about)

    def _place_of(self, key: str) -> Place | None:
        """Source and partition by the first pattern that matches."""
        for pattern, spec in self.listed.patterns:
            root = _root(pattern)
            if not root or key.startswith(root + "/"):
                partition = pattern.partition_of(key[len(root) + 1 :] if root else key)
                if partition is not None:
                    return spec.key, partition
        return None

    def _url(self, key: str) -> str:
        return f"{self.listed.access.url}{'' if self.listed.access.url.endswith('/') else '/'}{key}"


def _is_other(sighting: Sighting, known: Known) -> bool:
    """Was its partition another object so far? Then only the whole listing tells which it is."""
    owner = known.owner(sighting.source, sighting.partition)
    return owner is not None and owner != sighting.item


def _split(text: str) -> tuple[str, str]:
    """The store's URL and the pattern of its keys. Raises DefinitionError."""
    scheme, _, rest = text.partition("://")
    bucket, _, key = rest.partition("/")
    secret = urlsplit(text).password if "@" in bucket else None
    if scheme not in SCHEMES or not key or bool(bucket) == (scheme in ("file", "memory")) or secret:
        raise DefinitionError(
            f"fr.objects({'…' if secret else text!r}) cannot be listed",
            cause=f"it takes a scheme ({', '.join(SCHEMES)}), a bucket and a key"
            + ("; no password" if secret else ""),
            hint="for example 's3://bucket/landing/{partition}.csv', 'file:///data/{partition}.csv'",
        )
    return f"{scheme}://{bucket}" + ("/" if not bucket else ""), key


def _parsed(text: str, key: str, spec: AssetSpec) -> Pattern:
    pattern = pattern_for(spec, key)
    if key.endswith("/"):
        raise DefinitionError(
            f"the pattern {text!r} names folders, and object storage has none",
            hint="name the object that is written last, as in 's3://bucket/{partition}/_SUCCESS'",
        )
    return pattern


def _root(pattern: Pattern) -> str:
    return "" if pattern.root == "." else pattern.root


def _prefixes(roots: set[str]) -> tuple[str, ...]:
    """The fewest prefixes that hold all roots."""
    return tuple(
        sorted(
            root
            for root in roots
            if not any(not other or root.startswith(other + "/") for other in roots - {root})
        )
    )
