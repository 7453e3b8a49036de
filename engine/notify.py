"""Word to the service manager: systemd's `sd_notify`, a datagram to the socket it names. Without
one nothing is said.
"""

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Self

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Taken out of the environment once read: they are meant for this process, and no child of it."""

MAX_STATUS_CHARS = 200
"""Of a status line: what fits on a line of `systemctl status`."""


class Notifier:
    """Tells the service manager how the service is; see sd_notify(3). Nothing here raises: a
    manager that does not listen is no reason to stop.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else None
        """Without a sign of life for so long the manager takes us for dead; None: it does not
        watch.
        """

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Self:
        """As the manager asks for in the environment, from which it is removed."""
        address, usec, pid = (environment.pop(name, "") for name in VARIABLES)
        watched = usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        is_address = address.startswith(("/", "@"))  # vsock and its like are not for us
        return cls(address if is_address else "", int(usec) / 1_000_000 if watched else None)

    def ready(self, status: str) -> None:
        """It works from now on, or again after `reloading`."""
        self._say("READY=1", _status(status))

    def reloading(self) -> None:
        """Definitions are being loaded anew; `ready` follows, however that ends."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={now_us}", _status("reloading"))

    def stopping(self, status: str) -> None:
        """It is on its way out."""
        self._say("STOPPING=1", _status(status))

    def alive(self, status: str) -> None:
        """A sign of life, for the watchdog."""
        self._say("WATCHDOG=1", _status(status))

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # the loop waits for nobody
            sender.sendto("\n".join(lines).encode(errors="replace"), self._address)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:MAX_STATUS_CHARS]}"
