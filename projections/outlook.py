"""Outlook: what becomes of a partition whose run failed, in words."""

from datetime import UTC, datetime

from freshet.projections.marks import Failure


def outlook(failure: Failure) -> str:
    """Is it tried again, and when; if not, why not."""
    if failure.retry_at is not None and failure.passing:
        return f"tried again at {utc(failure.retry_at)}, and until it works: what is in the way" + (
            " lies outside, and uses up no retries"
        )
    if failure.retry_at is not None:
        return f"tried again at {utc(failure.retry_at)}"
    match failure.kind:
        case "fatal":
            why = "it said itself that another attempt is of no use"
        case "check":
            why = "the same value would not pass"
        case "killed":
            why = "the engine was killed again and again while it ran"
        case "cancelled":
            why = "a person stopped it"
        case _ if failure.counted > 1:
            why = f"it failed {failure.counted} times, and has no retries left"
        case _:
            why = "it has no retries"
    return f"not tried again: {why}"


def utc(us: int) -> str:
    """A time (µs) in words."""
    moment = datetime.fromtimestamp(us / 1_000_000, UTC).isoformat(" ", "seconds")
    return f"{moment[:19]} UTC"
