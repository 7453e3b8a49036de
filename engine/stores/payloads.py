"""Payloads: the contents that came with changes, and are too large for the stream itself."""

import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from uuid import uuid4

import anyio.to_thread
from msgspec.structs import replace

from freshet.engine.digests import digest
from freshet.engine.errors import StoreError
from freshet.engine.events import SourceChanged
from freshet.engine.parts import Payload

MAX_INLINE_BYTES = 64 * 1024
"""Content kept in the event itself: a page or two of SQLite's cache; larger ones lie beside it."""


def payload_of(content: bytes, kind: Literal["json", "bytes"] = "bytes") -> Payload:
    """The content as it is recorded: text where it is text."""
    try:
        return Payload(kind, "text", content.decode(), len(content))
    except UnicodeDecodeError:
        return Payload(kind, "base64", b64encode(content).decode(), len(content))


def inline_content(payload: Payload) -> bytes:
    """The content of a payload that lies in its event. Raises StoreError for one that does not."""
    if payload.form == "text":
        return payload.data.encode()
    if payload.form == "base64":
        return b64decode(payload.data)
    raise StoreError(f"the payload {payload.data} is not in the stream itself")


class Payloads:
    """A folder of contents under their digests. Written before the event that names them, and never
    changed: a content that no event names is what a crash left behind, and harmless.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put_large(self, changes: Sequence[SourceChanged]) -> tuple[SourceChanged, ...]:
        """The changes with large payloads stored durably, and only named. Raises OSError."""
        large = [c for c in changes if c.payload is not None and c.payload.size > MAX_INLINE_BYTES]
        if not large:
            return tuple(changes)
        return await anyio.to_thread.run_sync(lambda: tuple(map(self._put, changes)))

    def content(self, payload: Payload) -> bytes:
        """The content, wherever it lies. Raises StoreError when it is not there, or damaged."""
        if payload.form != "stored":
            return inline_content(payload)
        path = self._path(payload.data)
        try:
            found = path.read_bytes()
        except OSError as error:
            raise StoreError(f"the payload {path} cannot be read", cause=error.strerror) from error
        if digest([found]) != payload.data:
            raise StoreError(
                f"the payload {path} is damaged",
                cause="its digest is not its name",
                hint="restore the folder from a copy",
            )
        return found

    def _put(self, change: SourceChanged) -> SourceChanged:
        payload = change.payload
        if payload is None or payload.size <= MAX_INLINE_BYTES:
            return change
        content = self.content(payload)
        name = digest([content])
        path = self._path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden = path.with_name(f".{name}.{uuid4().hex}")
            with hidden.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            hidden.rename(path)
            _sync_folder(path.parent)
            _sync_folder(path.parent.parent)
        return replace(change, payload=Payload(payload.kind, "stored", name, payload.size))

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
