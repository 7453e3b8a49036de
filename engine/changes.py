"""Changes: what a run receives that reads its sources change by change, each of them once."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, get_args, get_origin, overload

import msgspec
import msgspec.inspect
from typing_extensions import TypeVar

from freshet.engine.counts import counted
from freshet.engine.errors import StoreError
from freshet.engine.keys import AssetKey, PartitionKey
from freshet.engine.parts import Payload
from freshet.engine.specs import Metadata

T = TypeVar("T", default=Any)


class Change(Generic[T]):
    """One recorded change of a source: which partition, its data version (empty: it is gone), its
    position in the stream, when it was recorded (µs since the epoch, UTC), and what the sensor says
    of it.
    """

    __slots__ = (
        "_content", "_kind", "_type", "data_version", "metadata", "partition", "position",
        "recorded_at", "source",
    )  # fmt: skip

    def __init__(
        self,
        source: AssetKey,
        partition: PartitionKey,
        data_version: str,
        position: int,
        recorded_at: int,
        *,
        metadata: Metadata | None = None,
        payload: Any = None,
    ) -> None:
        self.source = source
        self.partition = partition
        self.data_version = data_version
        self.position = position
        self.recorded_at = recorded_at
        self.metadata = metadata or {}
        self._content: Callable[[], Any] = lambda: payload
        self._kind = ""
        self._type: Any = None

    def carry(self, payload: Payload, content: Callable[[Payload], bytes], type_: Any) -> None:
        """Let `payload` be what was recorded with it, in the form `type_` asks for."""
        self._content = lambda: content(payload)
        self._kind = payload.kind
        self._type = type_

    @property
    def payload(self) -> T:
        """What came with the change, if its sensor keeps that (`keep="payload"`), else None.

        Of `Changes[T]` a `T`: bytes, str, or what JSON decodes to. Without a type: what the JSON
        says, or the bytes where the sensor does not take it for JSON. Raises StoreError when it
        does not fit, or is gone.
        """
        content = self._content()
        if not self._kind or content is None:
            return content  # type: ignore[no-any-return]
        try:
            return _decoded(content, self._kind, self._type)  # type: ignore[no-any-return]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(
                f"the payload of {self.source} at position {self.position} is no"
                f" {getattr(self._type, '__name__', self._type)}",
                cause=str(error),
                hint="annotate what it is, as in fr.Changes[bytes]; or have the sensor reject it",
            ) from None

    @property
    def time(self) -> datetime:
        """`recorded_at` as a time, UTC."""
        return datetime.fromtimestamp(self.recorded_at / 1_000_000, UTC)

    def __repr__(self) -> str:
        at = f"@{self.partition}" if self.partition else ""
        return f"Change({self.source}{at}, {self.data_version!r}, position {self.position})"


class Changes(Sequence[Change[T]]):
    """The changes recorded since the last success of the run's asset partition, oldest first; at
    most as many as its `max_changes`. Each comes in exactly one run that succeeds.

    As an annotation of a parameter that names a source: the changes of that source. Of any other
    parameter (`changes: fr.Changes`): those of all sources in `deps=`. May be empty: a person, new
    code or another input can be the reason for a run too.
    """

    def __init__(
        self,
        changes: Sequence[Change[T]],
        *,
        more: bool = False,
        previous: Callable[[], Any] | None = None,
    ) -> None:
        self._changes = tuple(changes)
        self._previous = previous
        self.more = more
        """Were more recorded than these? Then the next run follows at once."""

    def previous(self, default: Any = None) -> Any:
        """The asset's own value as its last success left it, in the form its return annotation
        says; `default` at the first run, and when it starts over.
        """
        return self._previous() if self._previous is not None else default

    @overload
    def __getitem__(self, index: int) -> Change[T]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Change[T], ...]: ...

    def __getitem__(self, index: int | slice) -> Change[T] | tuple[Change[T], ...]:
        return self._changes[index]

    def __iter__(self) -> Iterator[Change[T]]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'change')}{', and more' if self.more else ''}>"


def is_changes(annotation: Any) -> bool:
    """Does it ask for changes, instead of a value?"""
    return annotation is Changes or get_origin(annotation) is Changes


def hides_changes(annotation: Any) -> bool:
    """Does it speak of changes, but not as `Changes` or `Changes[T]` by itself?"""
    if is_changes(annotation):
        return False
    if annotation is Change or get_origin(annotation) is Change:
        return True
    return any(is_changes(part) or hides_changes(part) for part in get_args(annotation))


def payload_problem(type_: Any) -> str:
    """Why payloads cannot be read as this type; empty when they can."""
    if type_ in (None, bytes, str):
        return ""
    try:
        found = msgspec.inspect.type_info(type_)
    except (TypeError, ValueError) as error:
        return str(error)
    return "msgspec does not know it" if isinstance(found, msgspec.inspect.CustomType) else ""


def payload_type(annotation: Any) -> Any:
    """T of `Changes[T]`; None of plain `Changes`."""
    found = get_args(annotation)
    return found[0] if found else None


def _decoded(content: bytes, kind: str, type_: Any) -> Any:
    if type_ is bytes or (type_ in (None, Any) and kind == "bytes"):
        return content
    if type_ is str:
        return content.decode()
    return msgspec.json.decode(content, type=Any if type_ is None else type_)
