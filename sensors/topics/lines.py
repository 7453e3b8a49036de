"""What aiokafka says, passed on to our log, seldom: it says ten lines a second while a broker is
down.
"""

import logging
from time import monotonic

from freshet.engine.logger import Logger

THROTTLE_S = 60.0
"""Between two equal lines."""

log = Logger("freshet.sensors.kafka")


class _Seldom(logging.Handler):
    """Passes the client's lines on to our log, each at most once in `THROTTLE_S`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = monotonic()
        template = str(record.msg)
        if now - self._said.get(template, -THROTTLE_S) < THROTTLE_S:
            return
        self._said[template] = now
        log.warning("kafka client", said=record.getMessage(), by=record.name)


def listen() -> None:
    """Let the client's warnings go to our log, unless the project has its own way with them."""
    logger = logging.getLogger("aiokafka")
    if not logger.handlers:
        logger.addHandler(_Seldom())
        logger.propagate = False
