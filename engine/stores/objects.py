"""A store in object storage: versions as objects, and a manifest that says which there are."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from freshet.engine.errors import FreshetError, StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.blobs import not_kept, not_staged, read, staged_of
from freshet.engine.stores.formats import Encoded, Format, Formats
from freshet.engine.stores.names import folder_of, runs_of
from freshet.engine.stores.retention import KEEP_VERSIONS, next_us, now_us, retention
from freshet.engine.stores.store import Staged, StoredVersion
from freshet.sensors.object_store import Access, imported

TRIES = 20
"""How often a manifest is read again because somebody else has changed it in between."""

LOCKS = 64
"""Of which an asset partition has one: what changes its manifest does so alone in this process."""


class _Entry(msgspec.Struct, frozen=True):
    data_version: str
    suffix: str
    bytes: int
    stored_at: int


class Manifest(msgspec.Struct, frozen=True):
    """The kept versions of an asset partition, the one last published or restored first: that is
    the current one, and `current` the key of its object.
    """

    asset: str
    partition: str
    current: str = ""
    versions: tuple[_Entry, ...] = ()

    def entry(self, data_version: str) -> _Entry | None:
        return next((one for one in self.versions if one.data_version == data_version), None)

    @property
    def listed(self) -> list[StoredVersion]:
        return [
            StoredVersion(one.data_version, one.bytes, one.stored_at, number == 0)
            for number, one in enumerate(self.versions)
        ]


class ObjectStore:
    """Values as objects below a URL (`s3://bucket/prefix`); needs the extra `objects`. `store` are
    the options of obstore, as for `fr.objects`, or a store of obstore itself.

        versions/reports/daily/=2024-01-05/4f2a….parquet    never changed
        current/reports/daily/=2024-01-05.json              the manifest: which is the current one
        staged/212/…                                        what run 212 has not yet published

    Only what a manifest names is there for readers, and a manifest is changed by one conditional
    put: so a publish is seen as a whole or not at all, and of two processes that publish at once
    neither undoes the other. The storage must know conditional puts, as S3, Azure, Google and the
    memory of obstore do. `keep`, `keep_for`, `formats` and `fallback` are those of LocalStore.
    """

    in_memory = False

    def __init__(
        self,
        url: str,
        *,
        store: Mapping[str, object] | object | None = None,
        keep: int = KEEP_VERSIONS,
        keep_for: float | str | None = None,
        formats: Sequence[Format] = (),
        fallback: Literal["pickle"] | None = None,
    ) -> None:
        self._retention = retention("ObjectStore", keep, keep_for)
        self._formats = Formats(formats, fallback)
        self._access = Access(url, {} if store is None else store)
        self._opened: Any = None
        self._obstore = imported()
        self._errors = self._obstore.exceptions
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def stage(self, target: AssetPartition, run: int, value: Any) -> Staged:
        """Put the value below `staged`."""
        encoded = self._formats.encode(value)
        staged = staged_of(target, run, encoded, "")
        key = f"staged/{run}/{folder_of(target)}/{staged.data_version}{encoded.suffix}"
        self._ask("put", key, encoded.data)
        return msgspec.structs.replace(staged, location=key)

    def look(self, staged: Staged, annotation: Any) -> Any:
        """The staged value."""
        data = self._content(staged.location)
        if data is None:
            raise not_staged(staged)
        suffix = _suffix(staged.location)
        return self._read(staged.target, Encoded(suffix, data), annotation)

    def publish(self, staged: Staged) -> None:
        """Copy the object among the versions, and name it in the manifest."""
        target, version = staged.target, staged.data_version
        with self._lock(target):
            if self._manifest(target)[0].entry(version) is None:
                key = _key(target, version, _suffix(staged.location))
                try:
                    self._ask("copy", staged.location, key)
                except FileNotFoundError:
                    raise not_staged(staged) from None
            size = staged.metadata["bytes"]
            assert isinstance(size, int)
            made = _Entry(version, _suffix(staged.location), size, 0)
            self._change(target, lambda found: _stated(found, found.entry(version) or made))
        self._ask("delete", [staged.location])

    def discard(self, run: int) -> None:
        """Delete what the run staged."""
        self._delete_below(f"staged/{run}")

    def staged_runs(self) -> list[int]:
        """The runs of which there are objects below `staged`."""
        found = self._ask("list_with_delimiter", "staged")["common_prefixes"]
        return runs_of(prefix.rstrip("/").rpartition("/")[2] for prefix in found)

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        """The value of exactly this version."""
        entry = self._manifest(target)[0].entry(data_version)
        data = None
        if entry is not None:
            data = self._content(_key(target, data_version, entry.suffix))
        if entry is None or data is None:
            raise self._not_kept(target, data_version)
        return self._read(target, Encoded(entry.suffix, data), annotation)

    def has(self, target: AssetPartition, data_version: str) -> bool:
        """Does the manifest name this version?"""
        return self._manifest(target)[0].entry(data_version) is not None

    def versions(self, target: AssetPartition) -> Sequence[StoredVersion]:
        """The versions that are kept, the one last published or restored first."""
        return self._manifest(target)[0].listed

    def restore(self, target: AssetPartition, data_version: str) -> None:
        """Name a kept version first in the manifest."""

        def change(found: Manifest) -> Manifest:
            entry = found.entry(data_version)
            if entry is None:
                raise self._not_kept(target, data_version)
            return _stated(found, entry)

        with self._lock(target):
            self._change(target, change)

    def remove(self, target: AssetPartition) -> None:
        """Delete the manifest, then the versions."""
        with self._lock(target):
            self._ask("delete", [_manifest_key(target)])
            self._delete_below(f"versions/{folder_of(target)}")

    def collect(self, target: AssetPartition, before_us: int) -> None:
        """Take from the manifest, then delete, what retention does not ask for and nobody can be
        reading.
        """
        with self._lock(target):
            listed = self._manifest(target)[0].listed
            gone = self._retention.collectable(listed, before_us, now_us())
            names = {one.data_version for one in gone}
            if not names:
                return
            suffixes: dict[str, str] = {}

            def change(found: Manifest) -> Manifest:
                suffixes.update({one.data_version: one.suffix for one in found.versions})
                # What another process has made current meanwhile stays.
                names.difference_update(one.data_version for one in found.versions[:1])
                left = tuple(one for one in found.versions if one.data_version not in names)
                return msgspec.structs.replace(found, versions=left)

            self._change(target, change)
            self._ask("delete", [_key(target, name, suffixes[name]) for name in names])

    # --- manifests ----------------------------------------------------------------------------

    def _manifest(self, target: AssetPartition) -> tuple[Manifest, dict[str, str] | None]:
        """What is there, and what a change of it is conditional on; None: that there is none."""
        try:
            found = self._ask("get", _manifest_key(target))
        except FileNotFoundError:
            return Manifest(*target), None
        tags = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name]}
        try:
            return msgspec.json.decode(bytes(found.bytes()), type=Manifest), tags
        except msgspec.DecodeError as error:
            raise StoreError(
                f"the manifest {_manifest_key(target)} in {self._access.url} is damaged",
                cause=str(error),
            ) from None

    def _change(self, target: AssetPartition, change: Callable[[Manifest], Manifest]) -> None:
        """Change the manifest by a conditional put, again if another process came first."""
        key = _manifest_key(target)
        for _ in range(TRIES):
            found, tags = self._manifest(target)
            changed = change(found)
            if changed == found:
                return
            mode = "create" if tags is None else tags
            try:
                self._ask("put", key, msgspec.json.encode(changed), mode=mode)
            except FileExistsError:
                continue
            return
        raise StoreError(
            f"the manifest {key} in {self._access.url} cannot be changed",
            cause=f"somebody else changed it {TRIES} times meanwhile",
            hint="see that only one daemon publishes there",
        )

    # --- objects ------------------------------------------------------------------------------

    def _content(self, key: str) -> bytes | None:
        try:
            return bytes(self._ask("get", key).bytes())
        except FileNotFoundError:
            return None

    def _delete_below(self, prefix: str) -> None:
        for page in self._ask("list", prefix):
            self._ask("delete", [meta["path"] for meta in page])

    def _ask(self, what: str, *arguments: Any, **options: Any) -> Any:
        """Call obstore. Raises FileNotFoundError, FileExistsError when a condition does not hold,
        and StoreError.
        """
        try:
            if self._opened is None:
                self._opened = self._access.open()
            if what == "list":
                return list(self._obstore.list(self._opened, prefix=arguments[0]))
            if what == "delete" and not arguments[0]:
                return None
            return getattr(self._obstore, what)(self._opened, *arguments, **options)
        except (self._errors.NotFoundError, FileNotFoundError):
            if what == "delete":
                return None
            raise FileNotFoundError(str(arguments[0])) from None
        except (self._errors.AlreadyExistsError, self._errors.PreconditionError):
            raise FileExistsError(str(arguments[0])) from None
        except FreshetError as error:
            raise StoreError(error.message, cause=error.cause, hint=error.hint) from None
        except (self._errors.BaseError, NotImplementedError, OSError) as error:
            raise StoreError(
                f"cannot {what} {arguments[0]} in {self._access.url}",
                cause=self._access.without_secrets(error),
                hint="see that the bucket is there, and that store= leads to it with the right to"
                " read, write, list and delete",
            ) from _outage(error)

    def _lock(self, target: AssetPartition) -> threading.Lock:
        return self._locks[hash(target) % LOCKS]

    def _read(self, target: AssetPartition, found: Encoded, annotation: Any) -> Any:
        return read(self._formats, target, found, annotation, "an ObjectStore")

    def _not_kept(self, target: AssetPartition, data_version: str) -> StoreError:
        cause = f"the newest {self._retention.keep} versions are kept"
        return not_kept(target, data_version, self._access.url, cause)


def _outage(error: BaseException) -> ConnectionError | None:
    """That the storage cannot be reached, or is out of order, where its client says so; without the
    words of the client, which may hold more than is good.
    """
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ == "GenericError":
        return ConnectionError("the object storage cannot be reached")
    return None


def _stated(found: Manifest, entry: _Entry) -> Manifest:
    """The manifest with this version as the current one."""
    if found.versions and found.versions[0].data_version == entry.data_version:
        return found
    others = tuple(one for one in found.versions if one.data_version != entry.data_version)
    fresh = msgspec.structs.replace(entry, stored_at=next_us(found.listed))
    target = AssetPartition(found.asset, found.partition)
    key = _key(target, entry.data_version, entry.suffix)
    return Manifest(found.asset, found.partition, key, (fresh, *others))


def _manifest_key(target: AssetPartition) -> str:
    return f"current/{folder_of(target)}.json"


def _key(target: AssetPartition, data_version: str, suffix: str) -> str:
    return f"versions/{folder_of(target)}/{data_version}{suffix}"


def _suffix(key: str) -> str:
    name = key.rpartition("/")[2]
    return name[name.index(".") :] if "." in name else ""
