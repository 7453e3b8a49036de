"""The error tree: by whose fault it is, and what to do next.

    FreshetError
    ├── DefinitionError      the user's code: raised at load, names asset and file
    ├── RequestError         a person asked for what does not exist (target, asset, partition,
    option)
    ├── StreamError          the stream cannot be trusted or written: stop
    │   ├── ConflictError    the head moved: read again, decide again
    │   ├── NotRecordedError the disk is full or the file locked: nothing was recorded, try again
    │   ├── FencedError      a newer writer took over: this one must stop
    │   └── InUseError       another process is the writer of this stream
    ├── StoreError           a value cannot be staged, published or loaded
    │   └── NotKeptError     the version that is asked for is not there (any more)
    ├── OutsideError         what a sensor reads cannot be reached for now: tried again
    ├── SensorError          a sensor cannot go on until a person has chosen
    ├── Fatal                raised by an asset's function: do not try this again
    └── Retry                raised by an asset's function: try this again, later

A failing run is an event, never an exception that reaches the daemon.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FreshetError(Exception):
    """What was seen (`message`), why it matters or where it comes from (`cause`), what to do
    (`hint`).
    """

    def __init__(self, message: str, *, cause: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.cause = cause
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        lines = [self.message]
        if self.cause:
            lines.append(f"cause: {self.cause}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class DefinitionError(FreshetError):
    """The project as declared cannot work; raised when it is loaded, before anything runs."""


class RequestError(FreshetError):
    """A person or program asked for something that does not exist or makes no sense."""


class StreamError(FreshetError):
    """The stream is corrupt, unreadable, unwritable, or from a newer release."""


class ConflictError(StreamError):
    """The head was not the expected one; nothing was appended."""


class NotRecordedError(StreamError):
    """Nothing was appended for want of space or of a lock; the stream is sound: try again later."""


class FencedError(StreamError):
    """A writer with a newer epoch has taken over; nothing was appended."""


class InUseError(StreamError):
    """Another process holds the stream for writing."""


class StoreError(FreshetError):
    """A value could not be staged, published or loaded."""


class NotKeptError(StoreError):
    """A store does not have the version that is asked for."""


class OutsideError(FreshetError):
    """What a sensor reads is away, or not there yet: to be expected now and then, so it is said in
    a line, and tried again with backoff.
    """


class SensorError(FreshetError):
    """A sensor cannot go on until a person has chosen; `hint` says between what.

    Raised by sensors. It is not tried again before somebody else moves its cursor, or the daemon
    starts anew.
    """


class Fatal(FreshetError):
    """Raise it in an asset's function when another attempt with the same inputs and code is of no
    use: the run is not tried again, whatever `retries` says. New inputs, new code or a person
    release it.
    """

    def __init__(
        self,
        message: str = "of no use to try again",
        *,
        cause: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, cause=cause, hint=hint)


class Retry(FreshetError):
    """Raise it in an asset's function to be tried again, not before `after` (seconds, or "30s");
    without it after the usual wait; a year at most. It counts as one of the `retries`.
    """

    after: float | str | None = None

    def __init__(self, message: str = "try again", *, after: float | str | None = None) -> None:
        self.after = after
        super().__init__(message)


def did_you_mean(seen: str, known: Iterable[str]) -> str | None:
    """A hint naming the nearest known word, or None when nothing is near."""
    near = get_close_matches(seen, list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None
