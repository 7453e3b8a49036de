"""Outages: which errors of a store pass by themselves, as something outside is away or full."""

import errno

OUTAGES = frozenset(
    getattr(errno, name)
    for name in (
        # the disk: full, read-only since an error, failing, or gone for now
        "ENOSPC", "EDQUOT", "EROFS", "EIO", "ENODEV", "ENXIO", "ESTALE", "EREMOTEIO", "ENOMEDIUM",
        # the machine: out of handles, memory or patience
        "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "EBUSY", "EINTR",
        # the network
        "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET",
        "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "ESHUTDOWN", "EPIPE",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Errors that end without anybody touching definition, value or permissions. Not among them: a file
that is not there, a name that cannot be, a folder one may not write to.
"""

MAX_CAUSES = 16
"""Errors looked at behind an error: a chain may be a ring."""


def is_outage(error: BaseException) -> bool:
    """Is the store away, or full, and not what was to be stored at fault?"""
    behind: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if behind is None:
            return False
        if isinstance(behind, ConnectionError | TimeoutError):
            return True
        if isinstance(behind, OSError) and behind.errno in OUTAGES:
            return True
        behind = behind.__cause__
    return False
