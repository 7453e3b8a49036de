"""A store of plain files: the current value where people look for it, every version where it stays
put.

data/carriers.json                         the current value, one hard link
data/delays/2013-01-05.json                of a partition
data/.versions/delays/2013-01-05/4f2a….json   published versions, never changed
data/.staged/212/…                         what run 212 has written and not yet published
"""

import errno
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from freshet.engine.errors import StoreError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.blobs import in_the_way, not_kept, not_staged, staged_of, version_of
from freshet.engine.stores.formats import Format, Formats
from freshet.engine.stores.names import folder_of, quoted, runs_of
from freshet.engine.stores.retention import KEEP_VERSIONS, now_us, retention
from freshet.engine.stores.store import Staged, StoredVersion

LOCKS = 64
"""Of which an asset partition has one: what makes another version current does so alone."""


class LocalStore:
    """Values as files below `root` (relative: to the working directory).

    A value is written and synced in full under `.staged`, moved to `.versions` by one rename, and
    becomes the current file by a second: readers of either see a whole value or the one before.
    Of each asset partition the newest `keep` versions stay; with `keep_for` ("7d") others too until
    they are older. Whatever these say, the current version stays, and what a live run may be
    reading: a version goes only if it was superseded before the oldest of the runs that are alive
    started.
    `formats` are those of types of your own; `fallback="pickle"` stores what has no format.
    The current files of partition `x` of asset `a` and of an asset `a/x` would have one name: do
    not have both (their versions are kept apart all the same).
    """

    in_memory = False

    def __init__(
        self,
        root: str | Path,
        *,
        keep: int = KEEP_VERSIONS,
        keep_for: float | str | None = None,
        formats: Sequence[Format] = (),
        fallback: Literal["pickle"] | None = None,
    ) -> None:
        self.root = Path(root)
        self._retention = retention("LocalStore", keep, keep_for)
        self._formats = Formats(formats, fallback)
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def stage(self, target: AssetPartition, run: int, value: Any) -> Staged:
        """Write and sync the value below `.staged`. Raises StoreError; then nothing is
        left behind.
        """
        encoded = self._formats.encode(value)
        folder = self.root / ".staged" / str(run) / folder_of(target)
        path = folder / f"{version_of(encoded)}{encoded.suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(encoded.data)
                file.flush()
                os.fdatasync(file.fileno())
        except OSError as error:
            self.discard(run)
            raise _failed("write", path, error) from error
        return staged_of(target, run, encoded, str(path))

    def look(self, staged: Staged, annotation: Any) -> Any:
        """The staged value; annotated as Path, its file, to be read only."""
        return self._read(Path(staged.location), annotation)

    def publish(self, staged: Staged) -> None:
        """Move the staged file among the versions, and point the current file at it; synced on
        return.
        """
        path = Path(staged.location)
        kept = self._versions_of(staged.target) / path.name
        with self._lock(staged.target):
            try:
                kept.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.replace(path, kept)
                except FileNotFoundError:
                    if not kept.exists():
                        raise not_staged(staged) from None
                self._point(staged.target, kept)
            except OSError as error:
                raise _failed("publish", kept, error) from error
        self._remove_staged(path)

    def discard(self, run: int) -> None:
        """Forget what the run staged."""
        shutil.rmtree(self.root / ".staged" / str(run), ignore_errors=True)

    def staged_runs(self) -> list[int]:
        """The runs that have a folder below `.staged`."""
        try:
            return runs_of(os.listdir(self.root / ".staged"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _failed("read", self.root / ".staged", error) from error

    def load(self, target: AssetPartition, data_version: str, annotation: Any) -> Any:
        """The value of exactly this version; annotated as Path, the file itself, to be
        read only.
        """
        return self._read(self._kept(target, data_version), annotation)

    def has(self, target: AssetPartition, data_version: str) -> bool:
        """Is the file of this version there?"""
        return self._find(target, data_version) is not None

    def versions(self, target: AssetPartition) -> Sequence[StoredVersion]:
        """The versions that are kept, the one last published or restored first."""
        aged, kept = [], _files(self._versions_of(target))
        for path in kept:
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # collected in between
            aged.append((found.st_mtime_ns, path, found))
        aged.sort(key=lambda one: one[:2], reverse=True)
        shown = self._current(target, kept)
        inode = shown.stat().st_ino if shown is not None else 0
        # On a file system without hard links the current file is a copy: of the newest.
        current = next((n for n, (_, _, found) in enumerate(aged) if found.st_ino == inode), 0)
        return [
            StoredVersion(_stem(path.name), found.st_size, mtime_ns // 1000, number == current)
            for number, (mtime_ns, path, found) in enumerate(aged)
        ]

    def restore(self, target: AssetPartition, data_version: str) -> None:
        """Point the current file at a kept version; synced on return."""
        with self._lock(target):
            kept = self._kept(target, data_version)
            try:
                self._point(target, kept)
            except OSError as error:
                raise _failed("restore", kept, error) from error

    def remove(self, target: AssetPartition) -> None:
        """Delete the current file and those of all kept versions."""
        folder = self._versions_of(target)
        with self._lock(target):
            try:
                shown = self.current(target)
                if shown is not None:
                    shown.unlink(missing_ok=True)
                if folder.is_dir():
                    shutil.rmtree(folder)
            except OSError as error:
                raise _failed("remove", folder, error) from error

    def collect(self, target: AssetPartition, before_us: int) -> None:
        """Delete what retention does not ask for and nobody can be reading."""
        with self._lock(target):
            versions = self.versions(target)
            for one in self._retention.collectable(versions, before_us, now_us()):
                path = self._find(target, one.data_version)
                try:
                    if path is not None:
                        path.unlink(missing_ok=True)
                except OSError as error:
                    raise _failed("remove", path or self.root, error) from error

    def current(self, target: AssetPartition) -> Path | None:
        """The file people look at: the last published value, or None."""
        return self._current(target, _files(self._versions_of(target)))

    def _current(self, target: AssetPartition, kept: Sequence[Path]) -> Path | None:
        """It is named like one of the versions that are kept: only without any is its folder, in
        which those of all other partitions lie as well, looked through.
        """
        folder, stem = self._shown(target)
        if not kept:
            return next((path for path in _files(folder) if _stem(path.name) == stem), None)
        named = (folder / (stem + suffix) for suffix in sorted({path.suffix for path in kept}))
        return next((path for path in named if path.is_file()), None)

    def _lock(self, target: AssetPartition) -> threading.Lock:
        return self._locks[hash(target) % LOCKS]

    def _read(self, path: Path, annotation: Any) -> Any:
        if annotation is Path:
            return path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _failed("read", path, error) from error
        return self._formats.decode(path.suffix, data, annotation)

    def _kept(self, target: AssetPartition, data_version: str) -> Path:
        path = self._find(target, data_version)
        if path is None:
            kept = self._retention.keep
            cause = f"the newest {kept} versions are kept; the file may have been removed"
            raise not_kept(target, data_version, str(self.root), cause)
        return path

    def _versions_of(self, target: AssetPartition) -> Path:
        return self.root / ".versions" / folder_of(target)

    def _find(self, target: AssetPartition, data_version: str) -> Path | None:
        folder = self._versions_of(target)
        return next((path for path in _files(folder) if _stem(path.name) == data_version), None)

    def _shown(self, target: AssetPartition) -> tuple[Path, str]:
        """Folder and stem of the current file: `a/b.json`, or `a/b/2013-01-05.json` for a
        partition.
        """
        segments = target.asset.split("/")
        if target.partition:
            return self.root.joinpath(*segments), quoted(target.partition)
        return self.root.joinpath(*segments[:-1]), segments[-1]

    def _point(self, target: AssetPartition, kept: Path) -> None:
        """Make the current file a link to this version, by one rename; drop
        one of another format.
        """
        siblings = [path for path in _files(kept.parent) if path != kept]
        newest = max((path.stat().st_mtime_ns for path in siblings), default=0)
        stamp = max(now_us() * 1000, newest + 1000)  # in order though the clock was set back
        folder, stem = self._shown(target)
        folder.mkdir(parents=True, exist_ok=True)
        shown = folder / (stem + kept.suffix)
        fresh = kept.parent / ".current.link"
        fresh.unlink(missing_ok=True)
        try:
            os.link(kept, fresh)
        except OSError:
            shutil.copyfile(kept, fresh)  # a file system without hard links
        os.utime(kept, ns=(stamp, stamp))
        os.replace(fresh, shown)
        fresh.unlink(missing_ok=True)  # a rename onto the same file does nothing
        for suffix in {path.suffix for path in siblings} - {kept.suffix}:
            (folder / (stem + suffix)).unlink(missing_ok=True)
        # Synced together at the end: one commit of the file system's journal serves both.
        _sync(kept.parent)
        _sync(shown.parent)

    def _remove_staged(self, path: Path) -> None:
        """Remove the folders of a staged file that has moved, as far as they are empty: a run may
        have staged several.
        """
        for folder in path.parents:
            if folder == self.root / ".staged":
                break
            try:
                folder.rmdir()
            except OSError:
                break


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _files(folder: Path) -> list[Path]:
    try:
        return [
            path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _failed("read", folder, error) from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(what: str, path: Path, error: OSError) -> StoreError:
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return in_the_way(what, Path(error.filename2 or path))
    return StoreError(
        f"cannot {what} {path}",
        cause=error.strerror or str(error),
        hint="check the folder's permissions and the space on its disk",
    )
